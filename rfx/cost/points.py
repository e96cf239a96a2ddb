"""Which models a latency table is measured on."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from rfx.core.kind import Kind
from rfx.cost.alike import Alike, ModelShape
from rfx.cost.curves import Point
from rfx.runtimes.base import Runtime

MAX_COUNTS = 49  # measured counts of a curve; a finer grid of the runtime is thinned to this
MAX_POINTS = 120  # of all curves together, about; where a model has many, each is thinned more
FEWEST = 5  # counts of a curve, at least


def thinned(total: int, grid: int, most: int = MAX_COUNTS) -> list[int]:
    """Multiples of the runtime's grid from 0 to all, thinned by doubling the step where they are
    too many."""
    step = max(1, grid)
    while total / step > most - 1:
        step *= 2
    return sorted({*range(0, total + 1, step), total})


def counts_of(shape: ModelShape, runtime: Runtime, precision: str) -> dict[str, list[int]]:
    """The counts that are measured first, by curve."""
    most = max(FEWEST, min(MAX_COUNTS, MAX_POINTS // len(shape.alike)))
    found = {}
    for group in shape.alike:
        grid = 1 if group.kind is Kind.MHA else runtime.grid(group.kind, precision)
        counts = thinned(group.units, grid, most)
        found[group.name] = sorted({*counts, group.least}) if group.partial else counts
    return found


def points_of(group: Alike, counts: Iterable[int]) -> list[Point]:
    """The models of some counts of a curve, but for the dense one, the largest first."""
    return [(group.name, n) for n in sorted(counts, reverse=True) if n < group.units]


def possible_points(shape: ModelShape, runtime: Runtime, precision: str) -> list[Point]:
    """Every model that a measurement may ask for beside the dense one, the midpoints included."""
    found: list[Point] = []
    for group in shape.alike:
        counts = counts_of(shape, runtime, precision)[group.name]
        if group.kind is Kind.FFN and not runtime.capabilities.smooth:
            middles = {(a + b) // 2 for a, b in pairwise(counts) if a > 0}
            counts = sorted({*counts, *(n for n in middles if n % 8 == 0)})
        found += points_of(group, counts)
    return found
