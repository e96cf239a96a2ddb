"""A measured table is noisy: what may be chosen within its noise, and how steady the choice is.

Two plans whose predicted latencies differ by less than the table's own noise cannot be told apart
by it, so the one that loses less is taken. How far the choice hangs on the noise is seen by
searching again under tables that differ by as much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rfx.core.errors import InfeasibleError
from rfx.core.plan import Site
from rfx.cost.latency_cost import LatencyCost
from rfx.cost.table import LatencyTable
from rfx.methods.scores.base import Scores
from rfx.methods.search.problem import SearchResult
from rfx.methods.search.searcher import Searcher

NOISE = 0.01  # of a cost that says no interval of its own, as a share of it
REDRAWS = 6
_HALF_WIDTHS = 1.96  # standard deviations in half of a 95 % interval


@dataclass(frozen=True)
class Steadiness:
    """What searches under redrawn tables have in common with the one under the table itself.

    `share` of the units have the same fate, on average; `band` has the least and the greatest share
    of the importance that these plans and the result itself keep.
    """

    share: float
    band: tuple[float, float]


def noise_ms(table: LatencyTable, sites: Sequence[Site]) -> float:
    """By how much two plans may differ, in ms, and not be told apart by the table. Sites that cost
    alike share their curve, and so its error."""
    noise = 0.0
    for name in {table.curve_of(s) for s in sites}:
        full = max(table.curve(name))
        error = _deviation(table, name, full) * math.fsum(
            table.shares.get(s.name, 1.0) for s in sites if table.curve_of(s) == name
        )
        noise += error**2
    return math.sqrt(noise)


def redrawn(table: LatencyTable, random: np.random.Generator) -> LatencyTable:
    """The same table as another measurement might have given it."""
    costs = {
        name: {
            count: max(ms + random.normal() * _deviation(table, name, count), 0.0)
            for count, ms in curve.items()
        }
        for name, curve in table.costs_ms.items()
    }
    return replace(table, costs_ms=costs)


def steadiness(
    searcher: Searcher,
    table: LatencyTable,
    sites: Sequence[Site],
    scores: Scores,
    result: SearchResult,
    *,
    seed: int,
) -> Steadiness | None:
    """How steady a result is, by `REDRAWS` searches within the same budget; None where no redrawn
    table has a plan within it."""
    random = np.random.default_rng([seed, 17])
    shares, values = [], [result.value_share]
    for _ in range(REDRAWS):
        other = replace(searcher, cost=LatencyCost(redrawn(table, random)))
        try:
            again = other(sites, scores, result.budget)
        except InfeasibleError:
            continue
        moved = sum(len(set(result.kept[s.name]) ^ set(again.kept[s.name])) for s in sites)
        shares.append(1 - moved / sum(s.units for s in sites))
        values.append(again.value_share)
    if not shares:
        return None
    return Steadiness(math.fsum(shares) / len(shares), (min(values), max(values)))


def _deviation(table: LatencyTable, curve: str, count: int) -> float:
    """Standard deviation of a cost, ms."""
    half_width = table.errors_ms.get(curve, {}).get(count)
    if half_width:
        return half_width / _HALF_WIDTHS
    return NOISE * table.costs_ms[curve][count]
