"""Everything that needs a GPU, in one command: latency tables, how additive they are, speedups at latency targets.

    python -m benchmarks.gpu --out DIR [--budget-seconds 540] [--runtimes trt cuda] [--shapes bert-base minilm] ...

Works through its list in order of worth, writes as it goes, resumes where it stopped (the same --out), skips what is not
installed and says so. Leaves gpu.json and gpu.md in DIR. No network.

The models are encoders of random weights at the shapes of BERT-base and MiniLM: latency does not depend on weights. Dense
and pruned are timed in turns in one process; ratios are of medians with a bootstrap interval. With --runtimes ort the same
code runs on a CPU.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.gpu_report import markdown
from rfx.cost.flops import unit_costs
from rfx.cost.latency import Stacks, check_additivity, load_or_measure
from rfx.cost.table import LatencyTable
from rfx.environment import environment
from rfx.errors import ExitCode, InfeasibleError, UserError
from rfx.export.blocks import BlockShape, stack, stack_inputs
from rfx.export.precision import convert_precision
from rfx.plan import Counts, Kind, Plan, Site
from rfx.runtimes import Conditions, Engine, EngineOptions, runtime, runtime_class
from rfx.runtimes.base import Arrays, BoundRun
from rfx.scores.base import Scores
from rfx.search import Problem, search
from rfx.stages.close import NEAR, ROUNDS, WINDOW, corrected
from rfx.store import Store, atomic_write_text
from rfx.terminal import Terminal
from rfx.verify.latency import measure_pair

SHAPES = {  # name -> (block, layers)
    "bert-base": (BlockShape(768, 12, 64, 3072), 12),
    "minilm": (BlockShape(384, 12, 32, 1536), 6),
    "tiny": (BlockShape(64, 4, 16, 256), 3),
}
GPU_RUNTIMES = ("trt", "trt-rtx", "cuda")
SEED = 0


class Encoder(Engine):
    """An encoder engine that is fed hidden states, whatever tokens it is given."""

    def __init__(self, engine: Engine, shape: BlockShape, conditions: Conditions):
        self._engine, self.input_names, self.output_names = engine, engine.input_names, engine.output_names
        self._inputs = stack_inputs(shape, conditions.batch, conditions.sequence, SEED)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        return self._engine.run(self._inputs)

    def bind(self, inputs: Arrays) -> BoundRun:
        return self._engine.bind(self._inputs)

    def close(self) -> None:
        self._engine.close()


def sites_of(shape: BlockShape, layers: int) -> list[Site]:
    """The sites of an encoder that has no module paths."""
    kinds = ((Kind.MHA, shape.heads_total, shape.head_dim), (Kind.FFN, shape.filters_total, 1))
    return [Site(f"{i}.{k.value}", i, k, units, width, (), "", "", "", "") for i in range(layers) for k, units, width in kinds]


class Bench:
    """One configuration: a runtime, a shape, a batch size, a length, a precision."""

    def __init__(self, config: dict, store: Store, progress: Terminal):
        self.shape, self.layers = SHAPES[config["shape"]]
        self.conditions = Conditions(batch=config["batch"], sequence=config["sequence"], precision=config["precision"])
        self.runtime = runtime(config["runtime"], EngineOptions(store=store))
        self.sites = sites_of(self.shape, self.layers)
        self.store, self.progress = store, progress
        rng = np.random.default_rng(SEED)
        # Importance as trained models have it: heavy-tailed over units, uneven over layers.
        self.scores = Scores({s.name: rng.pareto(1.5, s.units) * np.exp(rng.normal(0, 0.7)) * s.width for s in self.sites})

    def engine(self, counts: Counts) -> Encoder:
        layers = [(counts[f"{i}.mha"], counts[f"{i}.ffn"]) for i in range(self.layers)]
        folder = self.store.scratch("gpu-bench")
        try:
            import onnx

            onnx.save(convert_precision(stack(self.shape, layers, seed=SEED), self.conditions.precision), str(folder / "m.onnx"))
            return Encoder(self.runtime.build(folder / "m.onnx", self.conditions), self.shape, self.conditions)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def pair(self, dense: Engine, counts: Counts, seconds: float, target: float | None = None):
        pruned = self.engine(counts)
        try:
            return measure_pair(self.runtime, dense, pruned, self.conditions, vocab_size=30522, seed=SEED, min_seconds=seconds,
                                max_seconds=2 * seconds, target=target)  # fmt: skip
        finally:
            pruned.close()

    def table(self, dense: Engine) -> LatencyTable:
        nothing = {s.name: 0 for s in self.sites}

        def with_additivity(table: LatencyTable) -> LatencyTable:
            rng = np.random.default_rng(SEED)
            plans = []
            for _ in range(3):
                kept = {s.name: range(int(rng.choice(sorted(table.curve(s.kind))))) for s in self.sites}
                plan = Plan.of(self.sites, kept)
                plans.append((plan, self.engine(plan.counts)))
            return check_additivity(table, self.sites, plans, dense, self.conditions, vocab_size=30522, progress=self.progress, seed=SEED)

        return load_or_measure(
            self.store, self.runtime, self.conditions, self.shape, self.layers, dense=dense, emptied=lambda: self.engine(nothing),
            model_hash="benchmark-encoder", vocab_size=30522, progress=self.progress, seed=SEED, finish=with_additivity,
            stacks=Stacks(self.shape, self.conditions.precision, SEED),
        )[0]  # fmt: skip

    def flops_share(self, counts: Counts) -> float:
        costs = unit_costs(self.sites, float(self.conditions.sequence), self.shape.hidden)
        return sum(costs[s.name] * counts[s.name] for s in self.sites) / sum(costs[s.name] * s.units for s in self.sites)

    def at_target(self, dense: Engine, table: LatencyTable, target: float, seconds: float) -> dict:
        """The closed loop of prune-export: search, build, time, correct the budget, at most three rounds."""
        dense_ms = table.predict_ms(self.sites, {s.name: s.units for s in self.sites})
        aim = target - min(0.02, target / 4)
        share, tried = aim, []
        for _ in range(ROUNDS):
            try:
                found = search("knapsack")(Problem.from_table(self.sites, self.scores, table), share * dense_ms)
            except InfeasibleError as error:
                if not tried:
                    return {"target": target, "infeasible": str(error.allowed)}
                break
            part = self.pair(dense, found.counts, seconds, target)
            tried.append((share, part.ratio, found, part))
            if target - WINDOW <= part.ratio <= target - NEAR:
                break
            share = corrected([t[:3] for t in tried], aim)
        below = [t for t in tried if t[1] <= target]
        _, ratio, found, part = max(below, key=lambda t: t[1]) if below else min(tried, key=lambda t: t[1])
        dropped = [s.name for s in self.sites if found.counts[s.name] == 0]
        return {
            "target": target, "ratio": ratio, "interval": part.interval, "landed": target - 0.04 <= ratio <= target,
            "rounds": [t[1] for t in tried], "flops": self.flops_share(found.counts), "speedup": part.speedup,
            "predicted": found.cost / dense_ms, "importance_kept": found.value_share, "emptied_sublayers": dropped,
            "latency": part.model_dump(mode="json"), "counts": found.counts,
        }  # fmt: skip

    def at_flops(self, dense: Engine, table: LatencyTable, share: float, seconds: float) -> dict:
        """The speedup at a share of the FLOPs, filters on the runtime's grid: what the paper reports."""
        costs = unit_costs(self.sites, float(self.conditions.sequence), self.shape.hidden)
        problem = Problem.from_unit_costs(self.sites, self.scores, costs, filter_grid=self.runtime.filter_grid)
        found = search("knapsack")(problem, share * problem.dense_cost)
        part = self.pair(dense, found.counts, seconds)
        return {"flops": self.flops_share(found.counts), "speedup": part.speedup, "ratio": part.ratio, "interval": part.interval}


def run_config(config: dict, store: Store, progress: Terminal, targets: list[float], seconds: float, row: dict, save) -> None:
    """Fill `row` step by step, saving after each."""
    bench = Bench(config, store, progress)
    full = {s.name: s.units for s in bench.sites}
    started = time.monotonic()
    dense = bench.engine(full)
    try:
        row["version"], row["device"], row["clock"] = bench.runtime.version(), bench.runtime.device(), bench.runtime.clock_for(bench.conditions)
        table = bench.table(dense)
        row["table"] = table.to_json()
        row["dense_ms"] = table.predict_ms(bench.sites, full)
        row["additivity_error"] = table.additivity_error
        row["table_seconds"] = table.measured.get("seconds")
        save()
        row["flops_half"] = bench.at_flops(dense, table, 0.5, seconds)
        save()
        row.setdefault("targets", [])
        for target in targets:
            row["targets"].append(bench.at_target(dense, table, target, seconds))
            save()
    finally:
        dense.close()
    row["seconds"] = round(time.monotonic() - started, 1)
    row["done"] = True


def configurations(args) -> list[dict]:
    """In order of worth: the paper's setting first, then the edge's, then the rest."""
    rows = []
    for shape in args.shapes:
        for batch in args.batches:
            for precision in args.precisions:
                for name in args.runtimes:
                    sequence = args.sequence or (384 if batch == 32 and shape == "bert-base" else 128)
                    rows.append({"runtime": name, "shape": shape, "batch": batch, "sequence": sequence, "precision": precision})
    worth = {(128, "fp16"): 0, (1, "fp16"): 1, (32, "fp16"): 2, (128, "fp32"): 3}
    order = {name: i for i, name in enumerate(args.runtimes)}
    return sorted(rows, key=lambda r: (worth.get((r["batch"], r["precision"]), 4), args.shapes.index(r["shape"]), order[r["runtime"]]))


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "gpu.json"
    result = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"benchmark": "gpu", "rows": [], "extras": {}}
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
    if not args.no_extras:
        from benchmarks.gpu_extras import extras

        extras(result["extras"], deadline, save)
    with Terminal() as progress:
        for config in configurations(args):
            known = next((r for r in result["rows"] if r["config"] == config), None)
            if known and known.get("done"):
                continue
            if time.monotonic() > deadline:
                result["skipped"].setdefault("out of time", []).append(config)
                continue
            row = known or {"config": config}
            row.pop("error", None)
            row.pop("targets", None)
            if known is None:
                result["rows"].append(row)
            progress.note(" ".join(f"{k}={v}" for k, v in config.items()))
            try:
                run_config(config, store, progress, args.targets, args.seconds, row, save)
            except UserError as error:  # one that cannot run says so, the others go on
                row["error"], row["done"] = error.render(), True
                progress.warn(error.render())
            save()
    save()
    print(markdown(result))
    print(f"written to {file} and {args.out / 'gpu.md'}", file=sys.stderr)
    return 0


def _arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results and of the cache that resumes them")
    parser.add_argument("--budget-seconds", type=float, default=540)
    parser.add_argument("--runtimes", nargs="+", default=list(GPU_RUNTIMES))
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["bert-base", "minilm"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32, 128])
    parser.add_argument("--sequence", type=int, help="default: 128, and 384 for BERT-base at batch 32")
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "fp16", "bf16"], default=["fp16", "fp32"])
    parser.add_argument("--targets", nargs="+", type=float, default=[0.8, 0.7, 0.6, 0.5, 0.4])
    parser.add_argument("--seconds", type=float, default=3.0, help="of timing, of each engine against dense")
    parser.add_argument("--no-extras", action="store_true", help="without roofline, pruning time and the torch floor")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
