"""Timing stacks in groups, each against the dense stacks that all groups have in common."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rfx.core.workload import Workload
from rfx.cost import effort
from rfx.cost.points import Point
from rfx.cost.stacks import Bench
from rfx.export.blocks import BlockShape, stack_inputs
from rfx.runtimes.base import BoundRun, Engine, Runtime
from rfx.runtimes.timing import interleave

MAX_GROUP = 16  # points that are timed in turns; what an interruption costs
RESAMPLES = 200


@dataclass
class Measured:
    """Slopes of the points so far, each group in units of the reference that all groups have in
    common: machines drift between groups."""

    # Bootstrap samples, the estimate first: [1 + RESAMPLES]
    slopes: dict[Point, np.ndarray] = field(default_factory=dict)
    reference: list[float] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    bends: list[float] = field(default_factory=list)
    # Entries of the store that can go when all is done.
    parts: list[str] = field(default_factory=list)
    run_facts: dict[str, object] = field(default_factory=dict)  # see BoundRun.measurement

    @property
    def unit(self) -> float:
        return float(np.median(self.reference))

    def take(self, saved: Mapping, part: str) -> None:
        """One group's results, as `measure_group` gives them and the store keeps them."""
        self.reference.append(saved["reference_ms"])
        self.rounds.append(saved["rounds"])
        self.bends.append(saved["bend"])
        self.parts.append(part)
        self.run_facts.update(saved["measurement"])
        for (h, f), values in saved["slopes"]:
            self.slopes[h, f] = np.asarray(values) / saved["reference_ms"]

    def samples(self) -> dict[Point, np.ndarray]:
        """Milliseconds."""
        return {p: s * self.unit for p, s in self.slopes.items()}


class Reference:
    """The dense stacks at three depths that every group is timed against: built and bound once for
    all groups, when the first of them is measured (a run that finds all in the store builds
    nothing)."""

    def __init__(self, bench: Bench):
        self.bench = bench
        low, high = bench.depths
        self.three = (low, (low + high) // 2, high)
        self._inputs = stack_inputs(
            bench.shape, bench.workload.batch, bench.workload.sequence, bench.seed
        )
        self._engines: list[Engine] = []
        self._runs: dict[str, BoundRun] = {}

    def bind(self, point: Point, depth: int, folder: Path, engines: list[Engine]) -> BoundRun:
        """A stack's engine, added to `engines`, bound."""
        engines.append(self.bench.build(point, depth, folder))
        return engines[-1].bind(self._inputs)

    def runs(self, folder: Path) -> dict[str, BoundRun]:
        point = self.bench.dense
        for depth in self.three:
            name = _run_name(point, depth)
            if name not in self._runs:
                self._runs[name] = self.bind(point, depth, folder, self._engines)
        return dict(self._runs)

    def close(self) -> None:
        self._runs.clear()
        for engine in self._engines:
            engine.close()


def _run_name(point: Point, depth: int) -> str:
    return f"{point[0]}/{point[1]}/{depth}"


def measure_points(
    done: Measured, reference: Reference, points: Sequence[Point], seed: int, entry: str, title: str
) -> None:
    """Measure in groups, each against the reference. Those that an interrupted run finished are
    taken from the store; the rest is divided anew, since less or more memory may be free now."""
    bench = reference.bench
    store, left, number = bench.store, [p for p in points if p != bench.dense], 0
    while (
        left
        and (saved := store.get_json("latency-part", store.key(entry, seed, number))) is not None
    ):
        done.take(saved, store.key(entry, seed, number))
        left = [p for p in left if p not in done.slopes]
        number += 1
    size = group_size(bench.runtime, bench.shape, bench.workload, bench.depths)
    groups = _groups(left, size, seed)
    with bench.progress.bar(title, number + len(groups)) as bar:
        bar.advance(number)
        for i, group in enumerate(groups, number):
            part = store.key(entry, seed, i)
            saved = measure_group(reference, group, -(-len(points) // size), seed + i)
            store.put_json("latency-part", part, saved)
            done.take(saved, part)
            bar.advance()


def group_size(runtime: Runtime, shape: BlockShape, workload: Workload, ds: tuple[int, int]) -> int:
    """How many points the runtime has memory for beside the reference: weights, and activations
    that engines do not share."""
    inner = shape.heads_total * shape.head_dim
    weights = 4 * shape.hidden * inner + 2 * shape.hidden * shape.filters_total  # one block
    tokens = workload.batch * workload.sequence
    activations = (
        runtime.capabilities.own_activations
        * tokens
        * (
            4 * shape.hidden
            + 3 * inner
            + shape.filters_total
            + 2 * shape.heads_total * workload.sequence
        )
    )
    each = (4 if workload.precision == "fp32" else 2) * (weights * sum(ds) + activations * len(ds))
    return max(2, min(MAX_GROUP, int(runtime.group_bytes() // each)))


def _groups(points: Sequence[Point], size: int, seed: int) -> list[list[Point]]:
    """The points in parts of `size`. Shuffled, so that what one part has in common is no step in a
    curve."""
    order = np.random.default_rng(seed).permutation(len(points))
    return [
        [points[i] for i in order[start : start + size]] for start in range(0, len(points), size)
    ]


def measure_group(
    reference: Reference, group: list[Point], groups: int, seed: int
) -> dict[str, Any]:
    """Slopes over depth of the points of one group, and of the dense point."""
    ds, dense = reference.bench.depths, reference.bench.dense
    folder = reference.bench.store.scratch("stacks")
    engines: list[Engine] = []
    runs: dict[str, BoundRun] = {}
    try:
        runs |= reference.runs(folder)
        runs |= {_run_name(p, d): reference.bind(p, d, folder, engines) for p in group for d in ds}
        times = interleave(
            runs,
            min_rounds=effort.MIN_ROUNDS,
            min_seconds=effort.SECONDS[0] / groups,
            max_seconds=effort.SECONDS[1] / groups,
            warmup_ms=20.0,
            seed=seed,
        )
        facts = {k: v for run in runs.values() for k, v in run.measurement().items()}
    finally:
        runs.clear()  # they hold their buffers
        for engine in engines:
            engine.close()
        shutil.rmtree(folder, ignore_errors=True)
    rows = len(next(iter(times.values())))
    rng = np.random.default_rng(seed)
    # [1 + R, rounds]
    draws = np.concatenate([np.arange(rows)[None], rng.integers(0, rows, (RESAMPLES, rows))])
    x = np.asarray(ds, dtype=np.float64) - np.mean(ds)
    slopes = []
    for point in (dense, *group):
        # [depths, 1 + R]
        medians = np.stack([np.median(times[_run_name(point, d)][draws], axis=1) for d in ds])
        slopes.append((point, (x @ medians / (x @ x)).tolist()))
    low, middle, top = (float(np.median(times[_run_name(dense, d)])) for d in reference.three)
    expected = low + (top - low) * (reference.three[1] - ds[0]) / (ds[1] - ds[0])
    return {
        "slopes": slopes,
        "reference_ms": top,
        "rounds": rows,
        "bend": middle / expected - 1,
        "measurement": facts,
    }
