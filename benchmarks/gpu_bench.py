"""One configuration of the GPU benchmark: engines of random weights, their latency table, and what
pruning gains at latency targets and at a share of the FLOPs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.blocks import BlockShape, stack, stack_inputs
from rfx.core.errors import InfeasibleError
from rfx.core.inputs import BATCH, InputSpec, TensorInput
from rfx.core.plan import Choice, Counts, Kind, Plan, Site
from rfx.core.progress import Progress
from rfx.core.store import Store
from rfx.core.workload import SEQUENCE, Workload
from rfx.cost.alike import ModelShape, alike
from rfx.cost.bench import Bench as TableBench
from rfx.cost.curves import DENSE, Point
from rfx.cost.flops import FlopsCost
from rfx.cost.latency import load_or_measure
from rfx.cost.latency_cost import LatencyCost
from rfx.cost.table import LatencyTable
from rfx.cost.whole import check_additivity
from rfx.evidence.records import LatencyPart
from rfx.export.find import quantizer_class
from rfx.export.precision.convert import convert_precision, is_quantized
from rfx.measure.latency import measure_pair
from rfx.methods.scores.base import Scores
from rfx.methods.search.knapsack import knapsack
from rfx.methods.search.problem import Problem, SearchResult
from rfx.pipeline.loop import LANDING, NEAR, ROUNDS, aim_at, corrected, on_target, scale
from rfx.runtimes.base import Engine, EngineOptions
from rfx.runtimes.find import runtime
from rfx.runtimes.timing import interleave

if TYPE_CHECKING:
    import onnx

SHAPES = {  # by name the block and the number of layers
    "bert-base": (BlockShape(768, 12, 64, 3072), 12),
    "minilm": (BlockShape(384, 12, 32, 1536), 6),
    "tiny": (BlockShape(64, 4, 16, 256), 3),
}
SEED = 0
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}  # of a weight


def inputs_of(shape: BlockShape) -> InputSpec:
    """What an encoder without embeddings is fed: hidden states, and a mask without padding."""
    return InputSpec(
        (
            TensorInput("hidden", "float32", (BATCH, SEQUENCE, shape.hidden), "normal"),
            TensorInput("mask", "float32", (BATCH, 1, SEQUENCE, SEQUENCE), "zeros"),
        )
    )


def sites_of(shape: BlockShape, layers: int) -> list[Site]:
    """The sites of an encoder that has no module paths."""
    kinds = ((Kind.MHA, shape.heads_total, shape.head_dim), (Kind.FFN, shape.filters_total, 1))
    return [
        Site(f"{i}.{k.value}", i, k, units, width, (), "", "", "", "")
        for i in range(layers)
        for k, units, width in kinds
    ]


class Stacks:
    """The encoders that a table is measured with (see `rfx.cost.bench.TimedModels`): as many layers
    as the runtime needs to be timed with."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.layers = min(bench.layers, bench.runtime.capabilities.max_depth)
        self.sites = {kind.value: (self.layers, 0) for kind in Kind}

    @property
    def bytes(self) -> int:
        return self._model(DENSE).ByteSize()

    def file(self, point: Point, folder: Path) -> Path:
        import onnx

        onnx.save(self._model(point), str(folder / "stack.onnx"))
        return folder / "stack.onnx"

    def _model(self, point: Point) -> onnx.ModelProto:
        shape, (name, count) = self._bench.shape, point
        full = {"mha": shape.heads_total, "ffn": shape.filters_total}
        counts = full if point == DENSE else full | {name: count}
        layers = [(counts["mha"], counts["ffn"])] * self.layers
        return self._bench.model(layers, self._bench.workload.precision)


class Bench:
    """One configuration: a runtime, a shape, a batch size, a length, a precision."""

    def __init__(self, config: dict[str, Any], store: Store, progress: Progress) -> None:
        self.shape, self.layers = SHAPES[config["shape"]]
        self.workload = Workload.of_text(
            batch=config["batch"], sequence=config["sequence"], precision=config["precision"]
        )
        self.runtime = runtime(config["runtime"], EngineOptions(store=store))
        self.sites = sites_of(self.shape, self.layers)
        self.inputs = inputs_of(self.shape)
        self.store, self.progress = store, progress
        precision = self.workload.precision
        self.quantizer = ""  # in words, of a quantized precision
        if is_quantized(precision):
            name = self.runtime.capabilities.quantizer or ""
            self.quantizer = quantizer_class(name)(precision).table_method()
        rng = np.random.default_rng(SEED)
        # Importance as trained models have it: heavy-tailed over units, uneven over layers.
        self.scores = Scores(
            {
                s.name: rng.pareto(1.5, s.units) * np.exp(rng.normal(0, 0.7)) * s.width
                for s in self.sites
            }
        )

    def model(self, layers: list[tuple[int, int]], precision: str) -> onnx.ModelProto:
        """An encoder of layers with so many heads and filters."""
        workload = self.workload
        return convert_precision(
            stack(self.shape, layers, seed=SEED),
            precision,
            quantizer=self.runtime.capabilities.quantizer,
            calibration=[stack_inputs(self.shape, workload.batch, workload.sequence, SEED)],
        )

    def engine(self, counts: Counts, precision: str | None = None) -> Engine:
        """The engine of an encoder that keeps `counts` of its units, at the precision of the
        configuration or at another one."""
        import onnx

        workload = replace(self.workload, precision=precision or self.workload.precision)
        layers = [(counts[f"{i}.mha"], counts[f"{i}.ffn"]) for i in range(self.layers)]
        folder = self.store.scratch("gpu-bench")
        try:
            onnx.save(self.model(layers, workload.precision), str(folder / "m.onnx"))
            return self.runtime.build(folder / "m.onnx", workload)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def pair(
        self,
        dense: Engine,
        counts: Counts,
        seconds: float,
        target: float | None = None,
        seed: int = SEED,
    ) -> LatencyPart:
        """Dense and pruned, timed in turns for at least so many seconds."""
        pruned = self.engine(counts)
        try:
            return measure_pair(
                self.runtime,
                dense,
                pruned,
                self.workload,
                inputs=self.inputs,
                seed=seed,
                min_seconds=seconds,
                max_seconds=2 * seconds,
                target=target,
            )
        finally:
            pruned.close()

    def table(self, dense: Engine) -> LatencyTable:
        """The latency table, with its error on three random plans; from the store where it is
        there."""
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
                inputs=self.inputs,
                progress=self.progress,
                seed=SEED,
            )

        shape = ModelShape(self.shape.name, self.shape.hidden, self.layers, alike(self.sites))
        bench = TableBench(
            self.store,
            self.runtime,
            self.workload,
            shape,
            Stacks(self),
            self.inputs,
            self.progress,
            SEED,
        )
        return load_or_measure(
            bench,
            dense=dense,
            emptied=lambda: self.engine(nothing),
            without={},
            model_hash="benchmark-encoder",
            finish=with_additivity,
            quantizer=self.quantizer,
        )[0]

    def against(self, dense: Engine, precision: str, seconds: float) -> dict[str, Any]:
        """The dense model at the precision of the configuration beside the dense model at another
        one, timed in turns: what quantizing alone gains."""
        other = self.engine({s.name: s.units for s in self.sites}, precision)
        try:
            part = measure_pair(
                self.runtime,
                other,
                dense,
                self.workload,
                inputs=self.inputs,
                seed=SEED + 2,
                min_seconds=seconds,
                max_seconds=2 * seconds,
            )
        finally:
            other.close()
        return {"ratio": part.ratio, "interval": part.interval, "ms": part.dense_ms}

    def flops_share(self, counts: Counts) -> float:
        """The FLOPs of some counts as a share of the dense encoder's."""
        return self.flops_cost().share(self.sites, {n: Choice(k) for n, k in counts.items()})

    def flops_cost(self, filter_grid: int = 1) -> FlopsCost:
        """MACs of the sublayers for one example."""
        return FlopsCost(self.shape.hidden, float(self.workload.sequence), filter_grid)

    def at_target(
        self, dense: Engine, table: LatencyTable, target: float, seconds: float
    ) -> dict[str, Any]:
        """The closed loop of prune-export: search, build, time, correct the budget, in at most
        three rounds. Then the chosen counts are built and timed anew, because the sample that chose
        them cannot tell whether they landed."""
        dense_ms = table.predict_ms(self.sites, {s.name: s.units for s in self.sites})
        aim = aim_at(target)
        share = aim
        tried: list[tuple[float, float, SearchResult]] = []  # (budget share, measured ratio, found)
        problem = Problem.of(self.sites, self.scores, LatencyCost(table))
        for _ in range(ROUNDS):
            try:
                found = knapsack(problem, share * dense_ms)
            except InfeasibleError as error:
                if not tried:
                    return {"target": target, "infeasible": str(error.allowed)}
                break
            ratio = self.pair(dense, found.counts, seconds, target).ratio
            tried.append((share, ratio, found))
            if on_target(ratio, target):
                break
            share = corrected(tried, aim)
        clear = target - NEAR * scale(target)
        below = [t for t in tried if t[1] <= clear] or [t for t in tried if t[1] <= target]
        best = max(below, key=lambda t: t[1]) if below else min(tried, key=lambda t: t[1])
        _, chosen, found = best
        part = self.pair(dense, found.counts, seconds, target, seed=SEED + 1)
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
            "emptied_sublayers": [s.name for s in self.sites if found.counts[s.name] == 0],
            "latency": part.model_dump(mode="json"),
            "counts": found.counts,
        }

    def dense_ms(self, dense: Engine, seconds: float) -> float:
        """Median latency of the dense engine alone."""
        feeds = self.inputs.example(self.workload, seed=SEED, names=dense.input_names)
        times = interleave(
            {"dense": dense.bind(feeds)},
            min_seconds=min(1.0, seconds),
            max_seconds=2 * seconds,
            seed=SEED,
        )
        return float(np.median(times["dense"]))

    def work(self) -> dict[str, float]:
        """The least that the dense model has to do: its floating point operations, and the bytes of
        its weights and of the residual stream (fp32), which is read and written once a
        sublayer."""
        shape, c = self.shape, self.workload
        weights = (
            4 * shape.hidden * shape.heads_total * shape.head_dim
            + 2 * shape.hidden * shape.filters_total
        )
        stream = 2 * 4 * c.batch * c.sequence * shape.hidden
        return {
            "flop": 2 * c.batch * self.flops_cost().dense(self.sites),
            "bytes": float(self.layers * (weights * BYTES[c.precision] + 2 * stream)),
        }

    def at_flops(self, dense: Engine, share: float, seconds: float) -> dict[str, Any]:
        """The speedup at a share of the FLOPs, which is what the paper reports. The counts of
        filters lie on the runtime's grid."""
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
