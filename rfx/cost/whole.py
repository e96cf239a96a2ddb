"""Whole models: those that anchor a latency table, and those that show whether its costs add up."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from rfx.core.inputs import InputSpec
from rfx.core.plan import Plan, Site
from rfx.core.progress import Progress
from rfx.core.workload import Workload
from rfx.cost import effort
from rfx.cost.bench import Bench
from rfx.cost.curves import DENSE
from rfx.cost.table import LatencyTable
from rfx.runtimes.base import BoundRun, Engine
from rfx.runtimes.timing import interleave, without_drift


def measure_anchors(
    bench: Bench,
    dense: Engine,
    emptied: Callable[[], Engine],
    without: Mapping[str, Callable[[], Engine]],
    reference_ms: float,
) -> tuple[float, float, dict[str, float]]:
    """Latency in ms of the dense and of the emptied model, and by curve what its partial sites add.
    All is on the scale of a table whose dense model took `reference_ms`.

    Args:
        without: by curve, builds the dense model in which its partial sites keep as many units as
            `Alike.least` says.
    """
    seed = bench.seed
    folder = bench.store.scratch("anchors")
    engines: list[Engine] = []

    def built(make: Callable[[], Engine]) -> BoundRun:
        engines.append(make())
        return bench.bind(engines[-1])

    try:
        times = _interleaved(
            {
                "reference": built(lambda: bench.build(DENSE, folder)),
                "dense": bench.bind(dense),
                "emptied": built(emptied),
                **{f"without {name}": built(make) for name, make in without.items()},
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
        name: float(np.median(times["dense"] - times[f"without {name}"])) * unit for name in without
    }
    dense_ms, emptied_ms = (float(np.median(times[n])) * unit for n in ("dense", "emptied"))
    return dense_ms, emptied_ms, added


def _bound(engine: Engine, inputs: InputSpec, workload: Workload, seed: int) -> BoundRun:
    return engine.bind(inputs.example(workload, seed=seed, names=engine.input_names))


def _interleaved(runs: Mapping[str, BoundRun], seed: int) -> dict[str, np.ndarray]:
    """Milliseconds of every run by name, [rounds]."""
    return without_drift(
        interleave(
            runs,
            min_rounds=effort.MIN_ROUNDS,
            min_seconds=effort.ANCHOR_SECONDS * len(runs),
            max_seconds=10 * effort.ANCHOR_SECONDS * len(runs),
            seed=seed,
        )
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
