"""Which blocks a latency table is measured at, and in how deep stacks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rfx.core.plan import Kind
from rfx.cost.curves import Point
from rfx.export.blocks import BlockShape
from rfx.runtimes.base import Runtime

MAX_FILTER_COUNTS = 49  # measured filter counts; a finer grid of the runtime is thinned to this


def filter_counts(total: int, grid: int) -> list[int]:
    """Multiples of the runtime's grid from 0 to all, thinned by doubling the step where they are
    too many."""
    step = max(1, grid)
    while total / step > MAX_FILTER_COUNTS - 1:
        step *= 2
    return sorted({*range(0, total + 1, step), total})


def grid_points(shape: BlockShape, filters: Sequence[int]) -> list[Point]:
    """The blocks that are measured first: every head count with all filters, every filter count
    with all heads, none."""
    H, F = shape.heads_total, shape.filters_total
    return sorted(
        {(h, F) for h in range(H + 1)} | {(H, f) for f in filters} | {(0, 0)}, reverse=True
    )


def counts_of(shape: BlockShape, runtime: Runtime, precision: str) -> tuple[list[int], list[int]]:
    """The counts of heads and of filters that are measured first."""
    grid = runtime.grid(Kind.FFN, precision)
    return list(range(shape.heads_total + 1)), filter_counts(shape.filters_total, grid)


def possible_points(shape: BlockShape, runtime: Runtime, precision: str) -> list[Point]:
    """Every block that a measurement may ask for, the midpoints included."""
    _, counts = counts_of(shape, runtime, precision)
    middles = (
        set()
        if runtime.capabilities.smooth
        else {(a + b) // 2 for a, b in pairwise(counts) if a > 0 and (a + b) // 2 % 8 == 0}
    )
    return grid_points(shape, sorted({*counts, *middles}))


def possible_depths(layers: int, runtime: Runtime) -> list[int]:
    """Every depth of a stack."""
    low, high = depths(layers, runtime.capabilities.max_depth)
    return sorted({low, (low + high) // 2, high})


def depths(layers: int, most: int = 12) -> tuple[int, int]:
    """The depths of the stacks: the model's (at most the runtime's `max_depth`), and a quarter of
    it. Far apart, so that the slope is sharp; the dense block is measured halfway too, which tells
    whether latency is linear in depth."""
    deepest = min(max(layers, 2), most)
    return max(1, deepest // 4), deepest
