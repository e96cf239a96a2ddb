"""Whole models: those that anchor a latency table, and those that show whether its costs add up."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rfx.core.inputs import InputSpec
from rfx.core.plan import Kind, Plan, Site
from rfx.core.progress import Progress
from rfx.core.workload import Workload
from rfx.cost import effort
from rfx.cost.stacks import Bench
from rfx.cost.table import LatencyTable
from rfx.export.blocks import stack_inputs
from rfx.runtimes.base import BoundRun, Engine
from rfx.runtimes.timing import interleave


@dataclass(frozen=True)
class Partial:
    """Sites of one kind that compute a part of what the others do.

    Args:
        sites: their names.
        without: builds the engine of the dense model in which `units_left` units of them stay.
    """

    sites: tuple[str, ...]
    without: Callable[[], Engine]


def units_left(kind: str) -> int:
    """How many units a partial site of a kind keeps where its cost is measured. Without any head
    the last layer would read one position of the layer before it too, which is then computed there
    alone: that gain is no part of what a head costs."""
    return 1 if kind == Kind.MHA.value else 0


def measure_anchors(
    bench: Bench,
    dense: Engine,
    emptied: Callable[[], Engine],
    partial: Mapping[str, Partial],
    inputs: InputSpec,
    reference_ms: float,
) -> tuple[float, float, dict[str, tuple[int, float, int]]]:
    """Latency in ms of the dense and of the emptied model, and by kind how many partial sites
    there are, what they add, and above how many units. All is on the scale of a table whose deepest
    dense stack took `reference_ms`."""
    workload, seed = bench.workload, bench.seed
    folder = bench.store.scratch("anchors")
    engines: list[Engine] = []

    def built(make: Callable[[], Engine]) -> Engine:
        engines.append(make())
        return engines[-1]

    try:
        empty = built(emptied)
        others = {kind: built(part.without) for kind, part in partial.items()}
        reference = bench.build(bench.dense, bench.depths[-1], folder)
        engines.append(reference)
        stacked = stack_inputs(bench.shape, workload.batch, workload.sequence, seed)
        times = _interleaved(
            {
                "reference": reference.bind(stacked),
                "dense": _bound(dense, inputs, workload, seed),
                "emptied": _bound(empty, inputs, workload, seed),
                **{f"without {k}": _bound(e, inputs, workload, seed) for k, e in others.items()},
            },
            seed,
        )
    finally:
        for engine in engines:
            engine.close()
        shutil.rmtree(folder, ignore_errors=True)
    unit = reference_ms / float(np.median(times["reference"]))
    # Round by round: what a clock drifts by is no gain of the small part that these sites add.
    added = {
        kind: (
            len(part.sites),
            float(np.median(times["dense"] - times[f"without {kind}"])) * unit,
            units_left(kind),
        )
        for kind, part in partial.items()
    }
    dense_ms, emptied_ms = (float(np.median(times[n])) * unit for n in ("dense", "emptied"))
    return dense_ms, emptied_ms, added


def _bound(engine: Engine, inputs: InputSpec, workload: Workload, seed: int) -> BoundRun:
    return engine.bind(inputs.example(workload, seed=seed, names=engine.input_names))


def _interleaved(runs: Mapping[str, BoundRun], seed: int) -> dict[str, np.ndarray]:
    """Milliseconds of every run by name, [rounds]."""
    return interleave(
        runs,
        min_rounds=effort.MIN_ROUNDS,
        min_seconds=effort.ANCHOR_SECONDS * len(runs),
        max_seconds=10 * effort.ANCHOR_SECONDS * len(runs),
        seed=seed,
    )


def check_additivity(
    table: LatencyTable,
    sites: Sequence[Site],
    engines: Sequence[tuple[Plan, Engine]],
    dense: Engine,
    workload: Workload,
    *,
    inputs: InputSpec,
    progress: Progress,
    seed: int,
) -> LatencyTable:
    """The table with `additivity` filled in: predicted against measured latency of whole pruned
    models.

    Both are shares of the dense model's latency, from one interleaved run, put on the table's
    scale.
    """
    try:
        runs = {"dense": _bound(dense, inputs, workload, seed)}
        for i, (_, engine) in enumerate(engines):
            runs[str(i)] = _bound(engine, inputs, workload, seed)
        times = _interleaved(runs, seed)
    finally:
        for _, engine in engines:
            engine.close()
    dense_ms = table.predict_ms(sites, {s.name: s.units for s in sites})
    rows: list[dict[str, object]] = []
    for i, (plan, _) in enumerate(engines):
        predicted = table.predict_ms(sites, plan.counts)
        measured = dense_ms * float(np.median(times[str(i)]) / np.median(times["dense"]))
        rows.append(
            {
                "plan": plan.hash,
                "layers": plan.layers,
                "predicted_ms": predicted,
                "measured_ms": measured,
                "error": predicted / measured - 1,
            }
        )
    return replace(table, additivity=tuple(rows))
