"""The cells of benchmarks.accuracy by pair, recipe and share, and means over their seeds."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

Key = tuple[str, str, float, int]  # (pair, recipe, share or target, calibration examples)
Cells = Mapping[int, dict[str, Any]]  # by seed
Grid = dict[Key, dict[int, dict[str, Any]]]

# The recipes in the order of the tables; others stand behind them, by name.
ORDER = (
    "rfx",
    "kprune",
    "kwon",
    "kwon-reference",
    "kwon-reference-rearranged",
    "kwon-reference-search",
    "magnitude",
    "random",
)


def grids(results: Mapping[str, Any]) -> tuple[Grid, Grid]:
    """The cells by share of the FLOPs, and those by target of measured latency."""
    flops: Grid = defaultdict(dict)
    latency: Grid = defaultdict(dict)
    for key, cell in results["cells"].items():
        pair, recipe, seed, share, examples = key.split("|")
        if share.startswith("latency"):
            latency[pair, recipe, float(share.split()[1]), int(examples)][int(seed)] = cell
        else:
            flops[pair, recipe, float(share), int(examples)][int(seed)] = cell
    return flops, latency


def of_pair(grid: Grid, pair: str, n: int) -> tuple[list[str], list[float]]:
    """The recipes, in their order, and the shares, the largest first, of a pair's cells with `n`
    calibration examples."""
    there = [k for k in grid if k[0] == pair and k[3] == n]
    return ordered(k[1] for k in there), sorted({k[2] for k in there}, reverse=True)


def mean(cells: Cells, name: str) -> float:
    """Over the seeds; not a number where no cell has a value."""
    values = [c[name] for c in cells.values() if c.get(name) is not None]
    return sum(values) / len(values) if values else math.nan


def spread(cells: Cells, name: str, digits: int) -> str:
    """The mean, and with several seeds their standard deviation."""
    values = [c[name] for c in cells.values() if c.get(name) is not None]
    deviation = f"±{statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return number(mean(cells, name), digits) + deviation


def number(value: float, digits: int) -> str:
    """The digits of a number; empty where it is none."""
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def usual(flops: Grid) -> dict[str, int]:
    """By pair the number of calibration examples that most of its cells have."""
    counts: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for (pair, _, _, examples), cells in flops.items():
        counts[pair][examples] += len(cells)  # by seed
    return {pair: max(c, key=lambda n: c[n]) for pair, c in counts.items()}


def ordered(recipes: Iterable[str]) -> list[str]:
    """Recipes in the order of the tables, each once."""
    there = set(recipes)
    return [r for r in ORDER if r in there] + sorted(there - set(ORDER))
