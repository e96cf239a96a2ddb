"""Jobs that are killed at random moments: the output before must stay whole, the next run must
succeed, and nothing may be left behind.

    python -m benchmarks.kills --runs 20 --out benchmarks/results/robustness.json

A tiny model is made here; nothing is downloaded. Each job runs once to its end, which leaves an
output and says how long it takes. Then it is started again and again, and killed (SIGKILL) at a
moment that is drawn anew each time, which is early, late or right when files are put in place.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results_file import place_of, read_results, write_part
from rfx.core import manifest
from rfx.pipeline import built, places

JOBS = ("prune-export", "build", "sweep")
WORDS = ("good", "bad", "fine", "dull", "a", "film", "plot", "scene", "was", "very", "and", "the")
DONE = (0, 1, 7)  # exit codes of a job that came to its end, whatever its gates say
_PRELOAD = ["torch", "transformers", "onnx", "onnxruntime", "rfx.pipeline.sweep"]


@dataclass(frozen=True)
class Job:
    """A command line, and whether what it leaves is whole."""

    arguments: Sequence[str]
    out: Path
    whole: Callable[[Path], bool]
    forgets: str = ""  # results of this kind leave the cache before each kill, so that it does work


def kills(
    runs: int, folder: Path, seed: int = 0, names: Sequence[str] = JOBS
) -> dict[str, dict[str, int]]:
    """How many kills each job survived.

    Args:
        runs: kills of each job.
        folder: an empty one; everything is made in it.
        names: of the jobs.
    """
    counted = {}
    jobs = _jobs(folder)
    if "prune-export" not in names:  # whose model is built
        _run(jobs["prune-export"], folder)
    for name in names:
        job = jobs[name]
        draw = random.Random(f"{seed} {name}")
        seconds = _run(job, folder)
        if seconds is None:
            sys.stderr.write(f"{name}: it does not run here\n")
            continue
        seconds = _run(job, folder) or seconds  # with what the first one has left in the cache
        problems: list[str] = []
        while len(problems) < runs:
            found = _survives(job, folder, draw.uniform(0.05, 1.0) * seconds)
            if found is not None:  # a job that was faster than its kill counts for nothing
                problems.append(found)
        counted[name] = {"runs": runs, "survived": problems.count(""), "seed": seed}
        for problem in filter(None, problems):
            sys.stderr.write(f"{name}: {problem}\n")
        sys.stderr.write(f"{name}: {counted[name]}, a run takes {seconds:.1f} s\n")
    return counted


def _survives(job: Job, folder: Path, after: float) -> str | None:
    """One kill. "" where all is well, else what is wrong; None where the job was faster."""
    if job.forgets:
        shutil.rmtree(folder / "cache" / job.forgets, ignore_errors=True)
    if _run(job, folder, kill_after=after) is not None:
        return None
    when = f"killed after {after:.2f} s"
    if job.out.parent.exists() and not job.whole(job.out):
        # Two renames, or a mount point: the next start brings it back. It must be said then.
        return f"{when}: the output before is not whole"
    if _run(job, folder) is None:
        return f"{when}: the next run fails"
    if not job.whole(job.out):
        return f"{when}: the output after the next run is not whole"
    left = [p for p in folder.rglob("*") if ".rfx-new-" in p.name]
    scratch = folder / "cache" / "scratch"
    left += list(scratch.iterdir()) if scratch.is_dir() else []
    return f"{when}: {', '.join(p.name for p in left)} is left" if left else ""


def _run(job: Job, folder: Path, kill_after: float | None = None) -> float | None:
    """Seconds that a job took; None where it was killed or ended with an error."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    log = folder / "log.txt"
    process = context.Process(target=_work, args=(list(job.arguments), str(log)))
    started = time.monotonic()
    process.start()
    process.join(kill_after)
    if process.is_alive() and kill_after is not None:
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        return None
    if process.exitcode not in DONE:
        sys.stderr.write(log.read_text(encoding="utf-8", errors="replace")[-2000:])
        return None
    return time.monotonic() - started


def _work(arguments: list[str], log: str) -> None:
    """In a process of its own: one command, with short measurements."""
    from rfx.cli.app import app
    from rfx.pipeline import judge

    judge.FINAL_SECONDS = 0.3  # type: ignore[misc]
    with Path(log).open("w", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        app(arguments)


def _jobs(folder: Path) -> dict[str, Job]:
    os.environ["RFX_CACHE"] = str(folder / "cache")
    model, train, evaluation = _model(folder)
    data = ["--train", train, "--eval", evaluation, "--task", "text-classification"]
    sizes = ["--target", "ort", "--sequence", "8", "--max-length", "16", "--examples", "32"]
    given = [model, *data, *sizes, "--allow-weak-baseline", "--method", "magnitude"]
    out, curve = folder / "result" / "out", folder / "curve" / "out"
    engine = folder / "engine" / "model.rtx.engine"
    onnx = str(out / "model.onnx")
    ahead = [onnx, "--compute-capability", "8.9", "--builder-level", "0", "--out", str(engine)]
    return {
        "prune-export": Job(
            ["prune-export", *given, "--flops", "0.5", "--out", str(out)], out, _whole_output
        ),
        "build": Job(["build", *ahead], engine, built.is_built),
        "sweep": Job(
            ["sweep", *given, "--flops", "0.5,0.7", "--out", str(curve)],
            curve,
            lambda folder: _whole(folder, places.sweep_strangers),
            forgets="sweep-point",
        ),
    }


def _whole_output(folder: Path) -> bool:
    return _whole(folder, places.output_strangers)


def _whole(folder: Path, strangers: Callable[[Path], list[str]]) -> bool:
    """Every file of the manifest is there with its hash, and no other."""
    found = manifest.read(folder)
    return found is not None and manifest.hashes(folder) == found[1] and not strangers(folder)


def _model(folder: Path) -> tuple[str, str, str]:
    """A tiny model with its tokenizer, and examples."""
    import torch
    import transformers

    place = folder / "model"
    place.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (place / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), intermediate_size=64, max_position_embeddings=32, **size
    )
    transformers.BertForSequenceClassification(config).eval().save_pretrained(place)
    transformers.BertTokenizerFast(vocab=str(place / "vocab.txt")).save_pretrained(place)
    draw, files = random.Random(0), []
    seen: set[str] = set()
    for name, count in (("train", 64), ("eval", 64)):
        rows: list[dict[str, Any]] = []
        while len(rows) < count:
            text = " ".join(draw.choices(WORDS, k=draw.randint(5, 12)))
            if text not in seen:
                seen.add(text)
                rows.append({"text": text, "label": draw.randrange(2)})
        files.append(folder / f"{name}.jsonl")
        files[-1].write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(place), str(files[0]), str(files[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=20, help="kills of each job")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file; what else is in it stays")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rfx-kills-") as folder:
        found = kills(args.runs, Path(folder), args.seed, args.jobs)
    if args.out is None:
        sys.stdout.write(json.dumps({"kills": found}) + "\n")
        return
    before = read_results(args.out).get("kills", {}) if place_of(args.out).exists() else {}
    write_part(args.out, "kills", {**before, **found}, of=found)


if __name__ == "__main__":
    main()
