"""Lets the coverage-guided fuzzer atheris look for documents that break a reader.

    pip install atheris
    python -m benchmarks.fuzz_guided [--seconds SECONDS_FOR_EACH_READER] [--out FILE]

For each reader (tests/fuzz/targets.py) the entry "guided" of the results gets the seconds, the
number of inputs, and whether one of them ended in anything but a message of rfx, took more than
twenty seconds or more than 3 GB. Such an input is kept in a folder, which is named at the end.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.results_file import write_part  # noqa: E402
from tests.fuzz.targets import TARGETS, seeds  # noqa: E402

TARGET = HERE.parent / "tests" / "fuzz" / "atheris_documents.py"
LIMITS = ("-timeout=20", "-rss_limit_mb=3000", "-print_final_stats=1")


def guided(name: str, seconds: int, folder: Path) -> dict[str, int | bool]:
    """What one reader was fed, from its sound documents on."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    for number, seed in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(seed)
    done = subprocess.run(
        [sys.executable, TARGET, name, f"-max_total_time={seconds}", *LIMITS, "corpus"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    inputs = re.search(r"number_of_executed_units:\s*(\d+)", done.stderr)
    if inputs is None:
        sys.exit(f"{name}: atheris did not come to its end\n{done.stderr[-3000:]}")
    return {"seconds": seconds, "inputs": int(inputs[1]), "broken": done.returncode != 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "robustness.json")
    asked = parser.parse_args()
    kept = Path(tempfile.mkdtemp(prefix="rfx-fuzz-guided-"))
    found = {}
    for name in TARGETS:
        found[name] = guided(name, asked.seconds, kept / name.replace(" ", "-"))
        print(f"{name}: {found[name]}", flush=True)
    write_part(asked.out, "guided", found)
    print(f"written to {asked.out}; the inputs are in {kept}")


if __name__ == "__main__":
    main()
