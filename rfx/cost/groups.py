"""Timing models in groups, each against the dense one that all groups have in common."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rfx.cost import effort
from rfx.cost.bench import Bench
from rfx.cost.curves import DENSE, Point
from rfx.runtimes.base import BoundRun, Engine
from rfx.runtimes.timing import interleave, without_drift

MAX_GROUP = 16  # models that are timed in turns; what an interruption costs
RESAMPLES = 200


@dataclass
class Measured:
    """Latencies of the models so far, each group in units of the dense one that all groups have in
    common: machines drift between groups."""

    # Bootstrap samples, the estimate first: [1 + RESAMPLES]
    times: dict[Point, np.ndarray] = field(default_factory=dict)
    reference: list[float] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
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
        self.parts.append(part)
        self.run_facts.update(saved["measurement"])
        for (name, n), values in saved["times"]:
            self.times[name, n] = np.asarray(values) / saved["reference_ms"]

    def samples(self) -> dict[Point, np.ndarray]:
        """Milliseconds."""
        return {p: s * self.unit for p, s in self.times.items()}


class Reference:
    """The dense model that every group is timed against: built and bound once for all groups, when
    the first of them is measured (a run that finds all in the store builds nothing)."""

    def __init__(self, bench: Bench):
        self.bench = bench
        self._engines: list[Engine] = []
        self._runs: dict[str, BoundRun] = {}

    def bind(self, point: Point, folder: Path, engines: list[Engine]) -> BoundRun:
        """A model's engine, added to `engines`, bound."""
        engines.append(self.bench.build(point, folder))
        return self.bench.bind(engines[-1])

    def runs(self, folder: Path) -> dict[str, BoundRun]:
        if not self._runs:
            self._runs[_run_name(DENSE)] = self.bind(DENSE, folder, self._engines)
        return dict(self._runs)

    def close(self) -> None:
        self._runs.clear()
        for engine in self._engines:
            engine.close()


def _run_name(point: Point) -> str:
    return f"{point[0]}/{point[1]}"


def measure_points(
    done: Measured, reference: Reference, points: Sequence[Point], seed: int, entry: str, title: str
) -> None:
    """Measure in groups, each against the reference. Those that an interrupted run finished are
    taken from the store; the rest is divided anew, since less or more memory may be free now."""
    bench = reference.bench
    store, left, number = bench.store, list(points), 0
    while (
        left
        and (saved := store.get_json("latency-part", store.key(entry, seed, number))) is not None
    ):
        done.take(saved, store.key(entry, seed, number))
        left = [p for p in left if p not in done.times]
        number += 1
    if not left:
        return
    size = group_size(bench)
    groups = _groups(left, size, seed)
    with bench.progress.bar(title, number + len(groups)) as bar:
        bar.advance(number)
        for i, group in enumerate(groups, number):
            part = store.key(entry, seed, i)
            saved = measure_group(reference, group, -(-len(points) // size), seed + i)
            store.put_json("latency-part", part, saved)
            done.take(saved, part)
            bar.advance()


def group_size(bench: Bench) -> int:
    """How many models the runtime has memory for beside the reference."""
    return max(2, min(MAX_GROUP, int(bench.runtime.group_bytes() // bench.size())))


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
    """Latencies of the models of one group, and of the dense one."""
    folder = reference.bench.store.scratch("timed")
    engines: list[Engine] = []
    runs: dict[str, BoundRun] = {}
    try:
        runs |= reference.runs(folder)
        runs |= {_run_name(p): reference.bind(p, folder, engines) for p in group}
        times = without_drift(
            interleave(
                runs,
                min_rounds=effort.MIN_ROUNDS,
                min_seconds=effort.SECONDS[0] / groups,
                max_seconds=effort.SECONDS[1] / groups,
                warmup_ms=20.0,
                seed=seed,
            )
        )
        facts = {k: v for run in runs.values() for k, v in run.measurement().items()}
    finally:
        runs.clear()  # they hold their buffers
        for engine in engines:
            engine.close()
        shutil.rmtree(folder, ignore_errors=True)
    rows = len(times[_run_name(DENSE)])
    rng = np.random.default_rng(seed)
    # [1 + R, rounds]
    draws = np.concatenate([np.arange(rows)[None], rng.integers(0, rows, (RESAMPLES, rows))])
    medians = [(p, np.median(times[_run_name(p)][draws], axis=1).tolist()) for p in (DENSE, *group)]
    return {
        "times": medians,
        "reference_ms": float(np.median(times[_run_name(DENSE)])),
        "rounds": rows,
        "measurement": facts,
    }
