"""What hostile inputs, kills and watched runs end in: `python benchmarks/robustness.py --out FILE`.

Each input runs in a child process with a limit of time and of memory. The page
docs/pages/explanation/robustness.md is made of the results by `python docs/generate.py`. A part is
run alone with `--only`; the results of the others stay as they are in FILE.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.results_file import write_part  # noqa: E402
from benchmarks.robustness_inputs import RAN, WRITTEN, Base, Case, cases  # noqa: E402
from benchmarks.robustness_network import can_watch, has_network, watch  # noqa: E402

SECONDS, MEMORY_GB = 120, 8
READ = (".html", ".json", ".md", ".pbtxt", ".txt", ".xml", ".yaml")  # files that runs write as text
# Variables that keep libraries from the network; rfx has to do that without them.
SWITCHES = (
    *("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"),
    *("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"),
)
# Parts of the results, and the function that gives each. Other programs add parts of their own.
PARTS = {
    "inputs": "benchmarks.robustness:inputs",
    "network": "benchmarks.robustness:network",
    "forged": "benchmarks.robustness_forged:forged",
}


def environment(folder: Path) -> dict[str, str]:
    """Of a child: a cache of its own, and nothing that switches reports or the hub off."""
    kept = {k: v for k, v in os.environ.items() if k not in SWITCHES}
    return kept | {"RFX_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}


def inputs(folder: Path) -> dict[str, Any]:
    """Every hostile input, and what it ended in."""
    import torch
    import transformers  # noqa: F401

    import rfx.pipeline.plan  # noqa: F401

    torch.set_num_threads(1)  # threads do not survive a fork
    # The hub is not asked for models of hostile names: what it answers is not what is counted.
    os.environ.update(environment(folder) | {"HF_HUB_OFFLINE": "1"})
    work = folder / "work"
    work.mkdir()
    rows = []
    for case in cases(folder / "made"):
        rows.append(_run(case, folder, work))
        print(json.dumps(rows[-1]), file=sys.stderr)
    codes = collections.Counter(str(row["exit_code"]) for row in rows)
    return {
        "count": len(rows),
        "tracebacks": sum(row["traceback"] for row in rows),
        "not_one_json": sum(not row["one_json"] for row in rows),
        "over_time": sum(row["exit_code"] is None for row in rows),
        "files_left": len(list(work.iterdir())),
        "code_ran": (work / RAN).exists(),
        "exit_codes": dict(sorted(codes.items())),
        "most_seconds": max(row["seconds"] for row in rows),
        "most_mb": max(row["peak_mb"] for row in rows),
        "limits": {"seconds": SECONDS, "memory_gb": MEMORY_GB},
        "read": list(READ),
        "cases": rows,
    }


def _run(case: Case, folder: Path, work: Path) -> dict[str, Any]:
    """One input in a child of this process, which has the libraries loaded: to load them takes
    longer than any of these inputs should."""
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(case, folder, work)
    code, peak = _ended(child, started)
    said = (folder / "err").read_text(encoding="utf-8", errors="replace")
    result = (folder / "out").read_text(encoding="utf-8", errors="replace")
    texts, others = _written(folder)
    seen = [said, result, *(p.read_text(encoding="utf-8", errors="replace") for p in texts)]
    for path in folder.glob(f"{WRITTEN}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    try:
        error = json.loads(result).get("error", {})
        one_json = True
    except (ValueError, AttributeError):
        error, one_json = {}, False
    return {
        "kind": case.kind,
        "name": case.name,
        "exit_code": code,
        "traceback": "Traceback" in said,
        "one_json": one_json,
        "escapes": any(_obeyed(text) for text in seen),
        "written": len(texts),
        "not_read": others,
        "seconds": round(time.monotonic() - started, 1),
        "peak_mb": round(peak / 1024),
        "what": str(error.get("what", "")).replace(f"{folder / 'made'}/", "")[:160],
    }


def _written(folder: Path) -> tuple[list[Path], list[str]]:
    """The files that a run wrote and that are looked at, and the names of the others within its
    output."""
    texts, others = [], []
    for root in folder.glob(f"{WRITTEN}*"):
        for file in (p for p in (root, *root.rglob("*")) if p.is_file()):
            name = file.relative_to(root).as_posix() if file != root else f"a file {root.suffix}"
            # The checkpoint in `model` is written by transformers, and read by it.
            if file.suffix in READ and not name.startswith("model/"):
                texts.append(file)
            else:
                others.append(name)
    return texts, sorted(others)


def _obeyed(text: str) -> bool:
    """Whether a terminal or a CI service would obey something in a text."""
    lines = (line.lstrip() for line in text.splitlines())
    signs = ("\x1b", "\x9b", "\u202e", "##[", "##vso[", "##teamcity[")
    return any(sign in text for sign in signs) or any(line.startswith("::") for line in lines)


def _become(case: Case, folder: Path, work: Path) -> NoReturn:
    """In the child: the program `rfx` with these arguments."""
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_GB << 30, MEMORY_GB << 30))
        os.chdir(work)
        for descriptor, name in ((1, "out"), (2, "err")):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(folder / name, flags), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        given = [a.replace(WRITTEN, str(folder / WRITTEN)) for a in case.arguments]
        sys.argv = ["rfx", *given, "--json"]
        from rfx.cli.app import main

        main()
    except SystemExit as ended:
        os._exit(ended.code if isinstance(ended.code, int) else 1)
    except BaseException:
        traceback.print_exc()
    os._exit(70)


def _ended(child: int, started: float) -> tuple[int | None, int]:
    """Exit code (None: its time was over) and peak memory in KiB."""
    over = False
    while True:
        pid, status, used = os.wait4(child, os.WNOHANG)
        if pid:
            return (None if over else os.waitstatus_to_exitcode(status)), used.ru_maxrss
        if time.monotonic() - started > SECONDS and not over:
            over = True
            os.kill(child, signal.SIGKILL)
        time.sleep(0.02)


def network(folder: Path) -> dict[str, Any]:
    """What whole runs send to other machines."""
    if not can_watch():
        return {"watched": False}
    base = Base(folder / "made")
    out = str(folder / "out")
    run = base.plan(latency=0.7, target="ort", sequence=16, out=out)[1:]
    runs = []
    # The model is untrained, and the runs are to come to their end.
    whole = ("prune-export", *run, "--allow-weak-baseline")
    for arguments in (("env",), whole, ("verify", out), ("gate", out)):
        watched = watch([sys.executable, "-m", "rfx", *arguments], environment(folder))
        runs.append(
            {
                "command": f"rfx {arguments[0]}",
                "exit_code": watched.code,
                "connections": list(watched.connections),
                "packets": watched.packets,
            }
        )
    return {
        "watched": True,
        "had_network": has_network(),
        "not_set": list(SWITCHES),
        "packets": sum(r["packets"] for r in runs),
        "runs": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=PARTS, action="append", help="may be repeated")
    options = parser.parse_args()
    for part, where in PARTS.items():
        module, _, name = where.partition(":")
        if options.only and part not in options.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = getattr(importlib.import_module(module), name)(Path(folder))
        write_part(options.out, part, found)


if __name__ == "__main__":
    main()
