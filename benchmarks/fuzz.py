"""Feeds mutated documents to every reader and writes down what happened.

    python benchmarks/fuzz.py [INPUTS_FOR_EACH_READER] [--seed N] [--out FILE]

For each reader (tests/fuzz/targets.py) the entry "fuzz" of benchmarks/results/robustness.json gets
the number of inputs, of tracebacks, of inputs that took more than ten seconds, and the peak memory
of the process in MB. Each reader has a process of its own. The inputs that led to a traceback are
kept in a temporary folder, which is named at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.results_file import write_part  # noqa: E402

HANG_S = 10


class TooLongError(BaseException):
    """A reader that hangs. No reader takes it for an error of a file, as it might a TimeoutError,
    which is one of the system's."""


def one(name: str, count: int, seed: int) -> dict[str, int | float]:
    """Counts of one reader."""
    from tests.fuzz.targets import fed, mutated, seeds

    chance, starts = random.Random(f"{name}-{seed}"), seeds(name)
    kept = Path(tempfile.gettempdir()) / f"rfx-fuzz-found-{os.getuid()}"
    found = {"inputs": 0, "tracebacks": 0, "hangs": 0}

    def too_long(*_: object) -> None:
        raise TooLongError

    signal.signal(signal.SIGALRM, too_long)
    for number in range(count):
        data = mutated(chance.choice(starts), chance)
        found["inputs"] += 1
        signal.alarm(HANG_S)
        try:
            fed(name, data)
        except TooLongError:
            found["hangs"] += 1
        except Exception:
            found["tracebacks"] += 1
            kept.mkdir(exist_ok=True)
            (kept / f"{name.replace(' ', '-')}-{number}").write_bytes(data)
            sys.stderr.write(f"{name} {number}: {traceback.format_exc(limit=-4)}\n")
        finally:
            signal.alarm(0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**found, "peak_mb": round(peak), "seed": seed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", nargs="?", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one reader: its counts are printed and not written")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "robustness.json")
    asked = parser.parse_args()
    if asked.only:
        print(json.dumps(one(asked.only, asked.count, asked.seed)))
        return
    from tests.fuzz.targets import TARGETS

    found = {}
    for name in TARGETS:
        start = time.monotonic()
        command = [sys.executable, __file__, str(asked.count), "--seed", str(asked.seed)]
        done = subprocess.run([*command, "--only", name], stdout=subprocess.PIPE, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {found[name]} in {time.monotonic() - start:.0f} s", flush=True)
    write_part(asked.out, "fuzz", found)
    print(f"written to {asked.out}")


if __name__ == "__main__":
    main()
