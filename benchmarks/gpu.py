"""Everything that needs a GPU, in one command: latency tables, how additive they are, speedups at
latency targets.

    python -m benchmarks.gpu --out DIR [--budget-seconds 540] [--runtimes trt cuda] [--shapes
    bert-base minilm] ...

It works through its list in order of worth and writes its results as it goes. The same command goes
on where it stopped. Runtimes that cannot run here are skipped, and named. It leaves gpu.json and
gpu.md in DIR and needs no network.

INT8 and FP8 are measured with --precisions fp16 int8 fp8, where modelopt is installed (docs:
quantization.md): the table is of quantized stacks, the loop closes on quantized engines, and the
dense model is timed beside itself in fp32 and fp16. Those that cannot be made here are skipped, and
named.

The models are encoders of random weights at the shapes of BERT-base and MiniLM, because latency
does not depend on weights. Dense and pruned are timed in turns in one process; ratios are of
medians, with a bootstrap interval. With --runtimes ort the same code runs on a CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.gpu_bench import SHAPES, Bench
from benchmarks.gpu_report import markdown
from benchmarks.gpu_runtimes import gpu_runtimes
from rfx.cli.terminal import Terminal
from rfx.core.entry import run_command, say
from rfx.core.environment import environment
from rfx.core.errors import ExitCode, UserError, first_line
from rfx.core.files import atomic_write_text
from rfx.core.progress import Bar
from rfx.core.store import Store
from rfx.core.streams import results
from rfx.export.find import quantizer_class
from rfx.export.precision.convert import is_quantized
from rfx.runtimes.find import runtime_class
from rfx.runtimes.gpu import compute_of, free_pools, require_compute


class OutOfTimeError(Exception):
    """The budget is spent; what was measured is kept."""


class Deadline:
    """Progress that ends a measurement once the budget is spent. The groups of a table that were
    measured are in the store by then."""

    def __init__(self, inner: Terminal, deadline: float) -> None:
        self._inner, self._deadline = inner, deadline
        self.note, self.warn, self.stage = inner.note, inner.warn, inner.stage

    def check(self, step: str) -> None:
        """Raise OutOfTimeError, which names the step, where the time is over."""
        if time.monotonic() > self._deadline:
            raise OutOfTimeError(step)

    @contextmanager
    def bar(self, title: str, total: int | None = None) -> Iterator[Bar]:
        with self._inner.bar(title, total) as bar:

            def advance(steps: int = 1) -> None:
                bar.advance(steps)
                self.check(title)

            yield SimpleNamespace(advance=advance)


def run_config(
    config: dict[str, Any],
    store: Store,
    progress: Deadline,
    targets: list[float],
    seconds: float,
    row: dict[str, Any],
    save: Callable[[], None],
) -> None:
    """Fill `row` step by step, saving after each; what is in it already is not measured again.

    Raises:
        OutOfTimeError: the budget was spent before a step; the next run goes on there.
    """
    bench = Bench(config, store, progress)
    full = {s.name: s.units for s in bench.sites}
    started = time.monotonic()
    dense = bench.engine(full)
    try:
        row["version"], row["device"] = bench.runtime.version(), bench.runtime.device()
        row["clock"] = bench.runtime.clock_for(bench.workload)
        row["dense_ms"], row["work"] = bench.dense_ms(dense, seconds), bench.work()
        save()
        if is_quantized(config["precision"]):
            row["quantizer"] = bench.quantizer
            for other in ("fp32", "fp16"):
                runs = other in bench.runtime.capabilities.precisions
                if runs and other not in row.setdefault("against", {}):
                    progress.check(f"dense beside {other}")
                    row["against"][other] = bench.against(dense, other, seconds)
                    save()
        progress.check("latency table")
        table = bench.table(dense)
        row["table"], row["table_dense_ms"] = table.to_json(), table.predict_ms(bench.sites, full)
        row["additivity_error"] = table.additivity_error
        row["table_seconds"] = table.measured.get("seconds")
        save()
        if "flops_half" not in row:
            progress.check("half of the FLOPs")
            row["flops_half"] = bench.at_flops(dense, 0.5, seconds)
            save()
        row.setdefault("targets", [])
        for target in targets:
            if target not in [t["target"] for t in row["targets"]]:
                progress.check(f"target {target:g}")
                row["targets"].append(bench.at_target(dense, table, target, seconds))
                save()
    finally:
        dense.close()
        row["seconds"] = round(row.get("seconds", 0.0) + time.monotonic() - started, 1)
    row["done"] = True


def configurations(args: argparse.Namespace) -> list[dict[str, Any]]:
    """In order of worth: the paper's setting first, then the edge's, then the rest."""
    rows = [
        {
            "runtime": name,
            "shape": shape,
            "batch": batch,
            "sequence": args.sequence or (384 if batch == 32 and shape == "bert-base" else 128),
            "precision": precision,
        }
        for shape in args.shapes
        for batch in args.batches
        for precision in args.precisions
        for name in args.runtimes
    ]
    worth = {(128, "fp16"): 0, (1, "fp16"): 1, (32, "fp16"): 2, (128, "fp32"): 3}
    order = {name: i for i, name in enumerate(args.runtimes)}
    return sorted(
        rows,
        key=lambda r: (
            worth.get((r["batch"], r["precision"]), 4),
            args.shapes.index(r["shape"]),
            order[r["runtime"]],
        ),
    )


def possible(configs: list[dict[str, Any]], skipped: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that can be made and run here; why others cannot goes into `skipped`, by runtime and
    precision."""
    found = []
    for config in configs:
        why = _impossible(config["runtime"], config["precision"])
        if not why:
            found.append(config)
        elif (name := f"{config['runtime']} {config['precision']}") not in skipped:
            skipped[name] = why
            say(f"skipped {name}: {why}")
    return found


def _impossible(name: str, precision: str) -> str:
    """Why a precision cannot be measured on a runtime of this machine; empty where it can."""
    able = runtime_class(name).capabilities
    if precision not in able.precisions:
        return f"{name} does not run at {precision}"
    if not is_quantized(precision):
        return ""
    try:
        require_compute(able, precision, compute_of(runtime_class(name)().device()))
        quantizer_class(able.quantizer or "").require()
    except UserError as error:
        return f"{error.what} {error.got or ''}".strip()
    return ""


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code (those of `rfx.core.errors.ExitCode`)."""
    args = _arguments(argv)
    return run_command(
        lambda: _run(args), interrupted="What was measured is kept: the same command goes on."
    )


def _run(args: argparse.Namespace) -> int:
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "gpu.json"
    result: dict[str, Any] = {"benchmark": "gpu", "rows": [], "extras": {}}
    if file.exists():
        result = json.loads(file.read_text(encoding="utf-8"))
    result["skipped"] = {}
    store = Store(args.out / "cache", warn=lambda text: say(f"warning: {text}"))

    def save() -> None:
        result["environment"] = environment()
        atomic_write_text(file, json.dumps(result, indent=1) + "\n")
        atomic_write_text(args.out / "gpu.md", markdown(result))

    deadline = time.monotonic() + args.budget_seconds
    usable = []
    for name in args.runtimes:
        here = runtime_class(name).availability()
        if here.ok:
            usable.append(name)
        else:
            result["skipped"][name] = here.reason
            say(f"skipped {name}: {here.reason}")
    args.runtimes = usable
    if not usable:
        save()
        say("no runtime of the list can run here; see `rfx env`")
        return int(ExitCode.ENVIRONMENT)
    beside = [] if args.no_extras else [result["extras"]]

    def measure_beside() -> None:
        """Once, after the first table, because what is of most worth comes first."""
        from benchmarks.gpu_extras import extras

        while beside:
            extras(beside.pop(), deadline, save)

    def known(config: dict[str, Any]) -> dict[str, Any]:
        return next((r for r in result["rows"] if r["config"] == config), {})

    with Terminal() as terminal:
        progress = Deadline(terminal, deadline)
        # What failed before is tried again, after all that was not tried yet.
        for config in sorted(
            possible(configurations(args), result["skipped"]), key=lambda c: "error" in known(c)
        ):
            row = known(config)
            if row.get("done"):
                continue
            if time.monotonic() > deadline:
                result["skipped"].setdefault("out of time", []).append(config)
                continue
            if not row:
                row = {"config": config}
                result["rows"].append(row)
            row.pop("error", None)
            progress.note(" ".join(f"{k}={v}" for k, v in config.items()))
            try:
                run_config(config, store, progress, args.targets, args.seconds, row, save)
            except OutOfTimeError as error:
                progress.note(f"out of time before: {error}")
                result["skipped"].setdefault("out of time", []).append(config)
            except Exception as error:
                # Errors of CuPy, CUDA and the runtimes are of many kinds; the others go on.
                row["error"] = f"{type(error).__name__}: {first_line(error)}"
                if isinstance(error, UserError):
                    row["error"] = error.render()
                progress.warn(row["error"])
            gc.collect()
            free_pools()  # what a failed one leaves
            save()
            measure_beside()
        measure_beside()
    save()
    results().write(markdown(result) + "\n")
    say(f"written to {file} and {args.out / 'gpu.md'}")
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder of the results and of the cache that resumes them",
    )
    parser.add_argument(
        "--budget-seconds", type=float, default=540, help="of the whole run; default: 540"
    )
    parser.add_argument(
        "--runtimes", nargs="+", help="default: all that compute on a GPU, the preferred first"
    )
    parser.add_argument(
        "--shapes", nargs="+", choices=list(SHAPES), default=["bert-base", "minilm"]
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32, 128])
    parser.add_argument(
        "--sequence", type=int, help="default: 128, and 384 for BERT-base at batch 32"
    )
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=["fp32", "fp16", "bf16", "int8", "fp8"],
        default=["fp16", "fp32"],
    )
    parser.add_argument("--targets", nargs="+", type=float, default=[0.8, 0.7, 0.6, 0.5, 0.4])
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="of timing, of each engine against dense"
    )
    parser.add_argument(
        "--no-extras",
        action="store_true",
        help="without roofline, pruning time and the torch floor",
    )
    args = parser.parse_args(argv)
    args.runtimes = args.runtimes or gpu_runtimes()
    return args


if __name__ == "__main__":
    sys.exit(main())
