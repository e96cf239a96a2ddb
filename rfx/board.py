"""On a board: `python -m rfx.board profile shapes.json --out table.json`. NumPy and the runtime are
all it needs.

`rfx shapes MODEL --out shapes.json` makes the shapes where the model is; `rfx prune-export ...
--table table.json` takes the table back there. No torch, no transformers, no onnx, no typer.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    # Before NumPy comes in below: its threads are counted once, when it is loaded.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from rfx.core.entry import Parser, result, run_command, say, start
from rfx.core.errors import ExitCode, UsageError
from rfx.core.kept import anything
from rfx.core.plan import Plan
from rfx.core.progress import Progress
from rfx.core.registry import names
from rfx.core.store import Store
from rfx.core.streams import results
from rfx.core.text import printable
from rfx.core.workload import SEQUENCE, Workload
from rfx.cost.bench import Bench
from rfx.cost.bundle import Bundle
from rfx.cost.latency import load_or_measure
from rfx.cost.table import LatencyTable
from rfx.cost.table_file import require_table_place, write_table
from rfx.cost.whole import check_additivity
from rfx.runtimes.base import Engine, EngineOptions
from rfx.runtimes.find import runtime, runtime_names, runtimes_report
from rfx.runtimes.gpu import compute_of, require_compute

ADDITIVITY_LIMIT = 0.05


def profile(
    bundle: Bundle,
    *,
    target: str,
    workload: Workload,
    store: Store,
    progress: Progress,
    seed: int = 0,
) -> LatencyTable:
    """Measure the latency table of a bundle's model on this machine, by the same procedure as where
    the model is.

    Raises:
        EnvironmentMissingError: the target cannot run here.
        UsageError: the bundle was made for another grid.
    """
    options = EngineOptions(max_sequence=max(workload.sequence, bundle.max_sequence), store=store)
    runs_on = runtime(target, options)
    if runs_on.capabilities.least_compute:
        here = compute_of(runs_on.device())
        require_compute(runs_on.capabilities, workload.precision, here)
    folder = store.scratch("board")
    engines: list[Engine] = []

    def build(name: str) -> Engine:
        engine = runs_on.build(bundle.model(name, folder), workload)
        engines.append(engine)
        return engine

    def with_additivity(table: LatencyTable) -> LatencyTable:
        pruned: list[tuple[Plan, Engine]] = [
            (plan, build(f"plan/{i}")) for i, plan in enumerate(bundle.plans)
        ]
        return check_additivity(
            table,
            bundle.model_sites,
            pruned,
            build("dense"),
            workload,
            inputs=bundle.inputs,
            progress=progress,
            seed=seed,
        )

    bench = Bench(store, runs_on, workload, bundle.shape, bundle, bundle.inputs, progress, seed)
    try:
        return load_or_measure(
            bench,
            dense=build("dense"),
            emptied=lambda: build("emptied"),
            without={name: partial(build, f"without/{name}") for name in bundle.shape.partial},
            model_hash=bundle.model_hash,
            finish=with_additivity,
            limit=ADDITIVITY_LIMIT,
            quantizer=bundle.quantizer,
        )[0]
    finally:
        for engine in engines:
            engine.close()
        shutil.rmtree(folder, ignore_errors=True)


class _Lines:
    """Progress as lines on stderr."""

    def __init__(self, quiet: bool):
        self._quiet = quiet

    @contextmanager
    def bar(self, title: str, total: int | None = None) -> Iterator[_Lines]:
        self._title, self._total, self._done = title, total, 0
        self.note(title)
        yield self

    def stage(self, title: str, number: int, total: int | None = None) -> None:
        self.note(f"{number}{f' of {total}' if total else ''}: {title}")

    def advance(self, steps: int = 1) -> None:
        self._done += steps
        self.note(f"  {self._title}: {self._done}" + (f" of {self._total}" if self._total else ""))

    def note(self, text: str) -> None:
        if not self._quiet:
            say(text)

    def warn(self, text: str) -> None:
        self.note(f"warning: {text}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m rfx.board", description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("profile", help="measure a latency table from a file of `rfx shapes`")
    one.add_argument("shapes", type=Path)
    one.add_argument("--out", "-o", type=Path, required=True, help="the table, one JSON file")
    one.add_argument(
        "--target", choices=runtime_names(), help="default: the one that the shapes were made for"
    )
    one.add_argument("--precision", choices=names("precision"), help="must be that of the shapes")
    for name in ("batch", "sequence"):
        one.add_argument(f"--{name}", type=_count, help="default: as in the shapes")
    one.add_argument("--threads", type=_count, default=1, help="CPU threads of the runtime (1)")
    one.add_argument("--quiet", "-q", action="store_true")
    commands.add_parser("env", help="which runtimes can run here, and why the others cannot")
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (those of `rfx.core.errors.ExitCode`)."""
    options = _parser().parse_args(argv)
    command = _env if options.command == "env" else lambda: _profile(options)
    return run_command(command, interrupted=_left)


def _left() -> str:
    if anything():
        return "What was measured is kept for the next run."
    return "Nothing was measured yet."


def _env() -> int:
    for status in runtimes_report():
        here = "runs here" if status.ok else f"cannot run here: {status.reason}"
        results().write(f"{printable(status.name)}: {printable(here)}\n")
    return int(ExitCode.PASS)


def _profile(options: argparse.Namespace) -> int:
    bundle = Bundle(options.shapes)
    require_table_place(options.out)
    if options.precision not in (None, bundle.precision):
        raise UsageError(
            "The shapes are of another precision, which is a part of the graphs.",
            got=options.precision,
            allowed=bundle.precision,
            next_step=f"rfx shapes MODEL --precision {options.precision} --out shapes.json",
        )
    workload = Workload.of_text(
        batch=bundle.batch,
        sequence=bundle.sequence,
        threads=options.threads,
        precision=bundle.precision,
    )
    sequence = options.sequence or bundle.sequence
    workload = replace(workload, batch=options.batch or bundle.batch, axes={SEQUENCE: sequence})
    if workload.sequence > bundle.max_sequence:
        raise UsageError(
            "The sequence is longer than the model takes.",
            got=f"--sequence {workload.sequence}",
            allowed=f"at most {bundle.max_sequence}",
            next_step="make the shapes with a larger --max-length",
        )
    progress = _Lines(options.quiet)
    table = profile(
        bundle,
        target=options.target or bundle.target,
        workload=workload,
        store=Store(warn=progress.warn),
        progress=progress,
    )
    write_table(table, options.out)
    error = table.additivity_error
    facts = {
        "written": str(options.out),
        "runtime": table.key.version,
        "device": table.key.device,
        "additivity_error": None if error is None else round(error, 4),
        "seconds": table.measured.get("seconds"),
    }
    result(facts)
    if error is not None and error > ADDITIVITY_LIMIT:
        progress.warn(
            f"the table predicts whole models only to {error:.1%} (limit {ADDITIVITY_LIMIT:.0%}); "
            "fix the clocks and run again"
        )
    return int(ExitCode.PASS)


if __name__ == "__main__":
    start(main)
