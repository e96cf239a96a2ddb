"""Everything that needs a GPU, in one command: latency tables, how additive they are, speedups at
latency targets.

    python -m benchmarks.gpu --out DIR [--budget-seconds 540] [--runtimes trt cuda] [--shapes
    bert-base minilm] ...

Works through its list in order of worth, writes as it goes, resumes where it stopped (the same
--out), skips what is not installed and says so. Leaves gpu.json and gpu.md in DIR. No network.

The models are encoders of random weights at the shapes of BERT-base and MiniLM: latency does not
depend on weights. Dense and pruned are timed in turns in one process; ratios are of medians with a
bootstrap interval. With --runtimes ort the same code runs on a CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks.gpu_report import markdown
from rfx.cli.terminal import Terminal
from rfx.core.entry import run_command
from rfx.core.environment import environment
from rfx.core.errors import ExitCode, InfeasibleError, UserError, first_line
from rfx.core.files import atomic_write_text
from rfx.core.inputs import InputSpec
from rfx.core.plan import Counts, Kind, Plan, Site
from rfx.core.store import Store
from rfx.core.workload import Workload
from rfx.cost.flops import FlopsCost
from rfx.cost.latency import load_or_measure
from rfx.cost.latency_cost import LatencyCost
from rfx.cost.stacks import Stacks
from rfx.cost.table import LatencyTable
from rfx.cost.whole import check_additivity
from rfx.export.blocks import BlockShape, stack, stack_inputs
from rfx.export.precision.convert import convert_precision
from rfx.methods.scores.base import Scores
from rfx.methods.search.knapsack import knapsack
from rfx.methods.search.problem import Problem
from rfx.pipeline.loop import LANDING, NEAR, ROUNDS, aim_at, corrected, on_target
from rfx.runtimes.base import Arrays, BoundRun, Engine, EngineOptions
from rfx.runtimes.find import runtime, runtime_class
from rfx.runtimes.gpu import free_pools
from rfx.runtimes.timing import interleave
from rfx.verify.latency import measure_pair

SHAPES = {  # name -> (block, layers)
    "bert-base": (BlockShape(768, 12, 64, 3072), 12),
    "minilm": (BlockShape(384, 12, 32, 1536), 6),
    "tiny": (BlockShape(64, 4, 16, 256), 3),
}
GPU_RUNTIMES = ("trt", "trt-rtx", "cuda")
SEED = 0
INPUTS = InputSpec.of_text(("input_ids", "attention_mask"), vocabulary=30522, positions=512)


class Encoder(Engine):
    """An encoder engine that is fed hidden states, whatever tokens it is given."""

    def __init__(self, engine: Engine, shape: BlockShape, workload: Workload):
        self._engine, self.input_names, self.output_names = (
            engine,
            engine.input_names,
            engine.output_names,
        )
        self._inputs = stack_inputs(shape, workload.batch, workload.sequence, SEED)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        return self._engine.run(self._inputs)

    def bind(self, inputs: Arrays) -> BoundRun:
        return self._engine.bind(self._inputs)

    def close(self) -> None:
        self._engine.close()


def sites_of(shape: BlockShape, layers: int) -> list[Site]:
    """The sites of an encoder that has no module paths."""
    kinds = ((Kind.MHA, shape.heads_total, shape.head_dim), (Kind.FFN, shape.filters_total, 1))
    return [
        Site(f"{i}.{k.value}", i, k, units, width, (), "", "", "", "")
        for i in range(layers)
        for k, units, width in kinds
    ]


class Bench:
    """One configuration: a runtime, a shape, a batch size, a length, a precision."""

    def __init__(self, config: dict, store: Store, progress: Deadline):
        self.shape, self.layers = SHAPES[config["shape"]]
        self.workload = Workload.of_text(
            batch=config["batch"], sequence=config["sequence"], precision=config["precision"]
        )
        self.runtime = runtime(config["runtime"], EngineOptions(store=store))
        self.sites = sites_of(self.shape, self.layers)
        self.store, self.progress = store, progress
        rng = np.random.default_rng(SEED)
        # Importance as trained models have it: heavy-tailed over units, uneven over layers.
        self.scores = Scores(
            {
                s.name: rng.pareto(1.5, s.units) * np.exp(rng.normal(0, 0.7)) * s.width
                for s in self.sites
            }
        )

    def engine(self, counts: Counts) -> Encoder:
        layers = [(counts[f"{i}.mha"], counts[f"{i}.ffn"]) for i in range(self.layers)]
        folder = self.store.scratch("gpu-bench")
        try:
            import onnx

            onnx.save(
                convert_precision(stack(self.shape, layers, seed=SEED), self.workload.precision),
                str(folder / "m.onnx"),
            )
            return Encoder(
                self.runtime.build(folder / "m.onnx", self.workload), self.shape, self.workload
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def pair(
        self,
        dense: Engine,
        counts: Counts,
        seconds: float,
        target: float | None = None,
        seed: int = SEED,
    ):
        pruned = self.engine(counts)
        try:
            return measure_pair(
                self.runtime,
                dense,
                pruned,
                self.workload,
                inputs=INPUTS,
                seed=seed,
                min_seconds=seconds,
                max_seconds=2 * seconds,
                target=target,
            )
        finally:
            pruned.close()

    def table(self, dense: Engine) -> LatencyTable:
        nothing = {s.name: 0 for s in self.sites}

        def with_additivity(table: LatencyTable) -> LatencyTable:
            rng = np.random.default_rng(SEED)
            plans = []
            for _ in range(3):
                kept = {
                    s.name: range(int(rng.choice(sorted(table.curve(s.kind))))) for s in self.sites
                }
                plan = Plan.of(self.sites, kept)
                plans.append((plan, self.engine(plan.counts)))
            return check_additivity(
                table,
                self.sites,
                plans,
                dense,
                self.workload,
                inputs=INPUTS,
                progress=self.progress,
                seed=SEED,
            )

        return load_or_measure(
            self.store,
            self.runtime,
            self.workload,
            self.shape,
            self.layers,
            dense=dense,
            emptied=lambda: self.engine(nothing),
            model_hash="benchmark-encoder",
            inputs=INPUTS,
            progress=self.progress,
            seed=SEED,
            finish=with_additivity,
            stacks=Stacks(self.shape, self.workload.precision, SEED),
        )[0]

    def flops_share(self, counts: Counts) -> float:
        return self.flops_cost().share(self.sites, counts)

    def flops_cost(self, filter_grid: int = 1) -> FlopsCost:
        return FlopsCost(self.shape.hidden, float(self.workload.sequence), filter_grid)

    def at_target(self, dense: Engine, table: LatencyTable, target: float, seconds: float) -> dict:
        """The closed loop of prune-export: search, build, time, correct the budget, at most three
        rounds. Then the chosen
        counts are built and timed anew: the sample that chose them says nothing of whether they
        landed."""
        dense_ms = table.predict_ms(self.sites, {s.name: s.units for s in self.sites})
        aim = aim_at(target)
        share, tried = aim, []
        for _ in range(ROUNDS):
            try:
                found = knapsack(
                    Problem.of(self.sites, self.scores, LatencyCost(table)), share * dense_ms
                )
            except InfeasibleError as error:
                if not tried:
                    return {"target": target, "infeasible": str(error.allowed)}
                break
            ratio = self.pair(dense, found.counts, seconds, target).ratio
            tried.append((share, ratio, found))
            if on_target(ratio, target):
                break
            share = corrected(tried, aim)
        below = [t for t in tried if t[1] <= target - NEAR] or [t for t in tried if t[1] <= target]
        _, chosen, found = (
            max(below, key=lambda t: t[1]) if below else min(tried, key=lambda t: t[1])
        )
        part = self.pair(dense, found.counts, seconds, target, seed=SEED + 1)
        dropped = [s.name for s in self.sites if found.counts[s.name] == 0]
        return {
            "target": target,
            "ratio": part.ratio,
            "interval": part.interval,
            "landed": target - LANDING <= part.ratio <= target,
            "rounds": [t[1] for t in tried],
            "chosen_ratio": chosen,
            "flops": self.flops_share(found.counts),
            "speedup": part.speedup,
            "predicted": found.cost / dense_ms,
            "importance_kept": found.value_share,
            "emptied_sublayers": dropped,
            "latency": part.model_dump(mode="json"),
            "counts": found.counts,
        }

    def dense_ms(self, dense: Engine, seconds: float) -> float:
        """Median of the dense engine alone."""
        run = dense.bind({})
        return float(
            np.median(
                interleave(
                    {"dense": run},
                    min_seconds=min(1.0, seconds),
                    max_seconds=2 * seconds,
                    seed=SEED,
                )["dense"]
            )
        )

    def work(self) -> dict[str, float]:
        """What the dense model cannot do without: its floating point operations, and the bytes of
        its weights and of the residual stream (fp32), read and written once a sublayer."""
        shape, c = self.shape, self.workload
        weights = (
            4 * shape.hidden * shape.heads_total * shape.head_dim
            + 2 * shape.hidden * shape.filters_total
        )
        stream = 2 * 4 * c.batch * c.sequence * shape.hidden
        return {
            "flop": 2 * c.batch * self.flops_cost().dense(self.sites),
            "bytes": float(
                self.layers * (weights * (4 if c.precision == "fp32" else 2) + 2 * stream)
            ),
        }

    def at_flops(self, dense: Engine, table: LatencyTable, share: float, seconds: float) -> dict:
        """The speedup at a share of the FLOPs, filters on the runtime's grid: what the paper
        reports."""
        cost = self.flops_cost(self.runtime.grid(Kind.FFN, self.workload.precision))
        problem = Problem.of(self.sites, self.scores, cost)
        found = knapsack(problem, share * problem.dense_cost)
        part = self.pair(dense, found.counts, seconds)
        return {
            "flops": self.flops_share(found.counts),
            "speedup": part.speedup,
            "ratio": part.ratio,
            "interval": part.interval,
        }


class OutOfTime(Exception):
    """The budget is spent; what was measured is kept."""


class Deadline:
    """Progress that ends a measurement once the budget is spent: a table's groups are in the store
    by then."""

    def __init__(self, inner: Terminal, deadline: float):
        self._inner, self._deadline = inner, deadline
        self.note, self.warn = inner.note, inner.warn

    def check(self, step: str) -> None:
        if time.monotonic() > self._deadline:
            raise OutOfTime(step)

    @contextmanager
    def bar(self, title: str, total: int | None = None) -> Iterator:
        with self._inner.bar(title, total) as bar:

            def advance(steps: int = 1) -> None:
                bar.advance(steps)
                self.check(title)

            yield SimpleNamespace(advance=advance)


def run_config(
    config: dict,
    store: Store,
    progress: Deadline,
    targets: list[float],
    seconds: float,
    row: dict,
    save,
) -> None:
    """Fill `row` step by step, saving after each; what is in it already is not measured again.

    Raises:
        OutOfTime: the budget was spent before a step; the next run goes on there.
    """
    bench = Bench(config, store, progress)
    full = {s.name: s.units for s in bench.sites}
    started = time.monotonic()
    dense = bench.engine(full)
    try:
        row["version"], row["device"], row["clock"] = (
            bench.runtime.version(),
            bench.runtime.device(),
            bench.runtime.clock_for(bench.workload),
        )
        row["dense_ms"], row["work"] = bench.dense_ms(dense, seconds), bench.work()
        save()
        progress.check("latency table")
        table = bench.table(dense)
        row["table"], row["table_dense_ms"] = table.to_json(), table.predict_ms(bench.sites, full)
        row["additivity_error"], row["table_seconds"] = (
            table.additivity_error,
            table.measured.get("seconds"),
        )
        save()
        if "flops_half" not in row:
            progress.check("half of the FLOPs")
            row["flops_half"] = bench.at_flops(dense, table, 0.5, seconds)
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


def configurations(args) -> list[dict]:
    """In order of worth: the paper's setting first, then the edge's, then the rest."""
    rows = []
    for shape in args.shapes:
        for batch in args.batches:
            for precision in args.precisions:
                for name in args.runtimes:
                    sequence = args.sequence or (
                        384 if batch == 32 and shape == "bert-base" else 128
                    )
                    rows.append(
                        {
                            "runtime": name,
                            "shape": shape,
                            "batch": batch,
                            "sequence": sequence,
                            "precision": precision,
                        }
                    )
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


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code (those of `rfx.core.errors.ExitCode`)."""
    args = _arguments(argv)
    return run_command(
        lambda: _run(args), interrupted="What was measured is kept: the same command goes on."
    )


def _run(args) -> int:
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "gpu.json"
    result = (
        json.loads(file.read_text(encoding="utf-8"))
        if file.exists()
        else {"benchmark": "gpu", "rows": [], "extras": {}}
    )
    result["skipped"] = {}
    store = Store(args.out / "cache", warn=lambda text: print(f"warning: {text}", file=sys.stderr))

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
            print(f"skipped {name}: {here.reason}", file=sys.stderr)
    args.runtimes = usable
    if not usable:
        save()
        print("no runtime of the list can run here; see `rfx env`", file=sys.stderr)
        return int(ExitCode.ENVIRONMENT)
    beside = [] if args.no_extras else [result["extras"]]

    def measure_beside() -> None:  # once, behind the first table: what is of most worth comes first
        from benchmarks.gpu_extras import extras

        while beside:
            extras(beside.pop(), deadline, save)

    def known(config: dict) -> dict:
        return next((r for r in result["rows"] if r["config"] == config), {})

    with Terminal() as terminal:
        progress = Deadline(terminal, deadline)
        # What failed before is tried again, after all that was not tried yet.
        for config in sorted(configurations(args), key=lambda c: "error" in known(c)):
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
            except OutOfTime as error:
                progress.note(f"out of time before: {error}")
                result["skipped"].setdefault("out of time", []).append(config)
            except Exception as error:  # noqa: BLE001 - of CuPy, CUDA and the runtimes, in many kinds: the others go on
                row["error"] = (
                    error.render()
                    if isinstance(error, UserError)
                    else f"{type(error).__name__}: {first_line(error)}"
                )
                progress.warn(row["error"])
            gc.collect()
            free_pools()  # what a failed one leaves
            save()
            measure_beside()
        measure_beside()
    save()
    print(markdown(result))
    print(f"written to {file} and {args.out / 'gpu.md'}", file=sys.stderr)
    return 0


def _arguments(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder of the results and of the cache that resumes them",
    )
    parser.add_argument("--budget-seconds", type=float, default=540)
    parser.add_argument("--runtimes", nargs="+", default=list(GPU_RUNTIMES))
    parser.add_argument(
        "--shapes", nargs="+", choices=list(SHAPES), default=["bert-base", "minilm"]
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32, 128])
    parser.add_argument(
        "--sequence", type=int, help="default: 128, and 384 for BERT-base at batch 32"
    )
    parser.add_argument(
        "--precisions", nargs="+", choices=["fp32", "fp16", "bf16"], default=["fp16", "fp32"]
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
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
