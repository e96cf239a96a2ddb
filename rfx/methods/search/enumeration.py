"""Algorithm 1 of Kwon et al. 2022 (section 4.1): the search for costs that are linear in the kept
units (FLOPs).

All heads cost the same and all filters cost the same, so for every number of kept heads the best
choice is the most important heads of the whole model and as many of the most important filters as
still fit. Corrected against the
reference code: no head at all is a choice, head counts that do not fit are skipped, filters are
capped. It knows counts alone, so all choices have to be of one precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rfx.core.errors import UsageError
from rfx.core.plan import Kind, Site
from rfx.core.registry import register
from rfx.methods.search.base import Search
from rfx.methods.search.conclude import conclude
from rfx.methods.search.problem import Problem, SearchResult


@dataclass(frozen=True)
class Pool:
    """Units of one kind from all sites, most important first; of equals, those of earlier sites and
    lower index."""

    owners: np.ndarray  # int64 [units]: index of the site
    prefix: np.ndarray  # float64 [units + 1]: importance of the first k

    @classmethod
    def of(cls, importance: list[np.ndarray]) -> Pool:
        """`importance[i]` float64 [units of site i]."""
        values = (
            np.concatenate([np.asarray(a, dtype=np.float64) for a in importance])
            if importance
            else np.empty(0)
        )
        owners = np.repeat(np.arange(len(importance)), [len(a) for a in importance])
        order = np.argsort(-values, kind="stable")
        return cls(
            owners[order].astype(np.int64), np.concatenate([[0.0], np.cumsum(values[order])])
        )

    def __len__(self) -> int:
        return len(self.owners)


def fill(
    heads: Pool, filters: Pool, room: float, head_cost: float, filter_cost: float
) -> tuple[int, int, float] | None:
    """Algorithm 1 on two pools: (kept heads, kept filters, their importance), or None where `room`
    is negative.

    Unit costs of 0 mean that all units of that kind are free. Ties keep the fewest heads.
    """
    if room < 0:
        return None
    k = np.arange(len(heads) + 1)
    left = room - k * head_cost  # [heads + 1]
    k, left = k[left >= 0], left[left >= 0]
    if filter_cost > 0:
        f = np.minimum(np.floor(left / filter_cost), len(filters)).astype(np.int64)
        # The quotient may be off by one where a multiple meets the budget exactly.
        f += (f < len(filters)) & ((f + 1) * filter_cost <= left)
        f -= (f > 0) & (f * filter_cost > left)
    else:
        f = np.full(len(k), len(filters), dtype=np.int64)
    values = heads.prefix[k] + filters.prefix[f]
    best = int(np.argmax(values))  # the first of equals
    return int(k[best]), int(f[best]), float(values[best])


def enumeration(problem: Problem, budget: float) -> SearchResult:
    """Keep the units of most importance with `fixed + heads * head cost + filters * filter cost` <=
    `budget`.

    Raises:
        InfeasibleError: the budget is below the cost of the model with every sublayer empty.
        UsageError: the costs are not linear with one cost a head and one a filter, over every
            count, at one precision.
    """
    single = problem.by_count("enumeration")
    problem.require_feasible(budget)
    by_kind = {kind: [s for s in problem.sites if s.kind is kind] for kind in Kind}
    cost = {kind: _unit_cost(single.curves, sites) for kind, sites in by_kind.items()}
    pools = {
        kind: Pool.of([problem.importance[s.name] for s in sites])
        for kind, sites in by_kind.items()
    }
    room = budget - problem.cost(single.choices({s.name: 0 for s in problem.sites}))
    found = fill(pools[Kind.MHA], pools[Kind.FFN], room, cost[Kind.MHA], cost[Kind.FFN])
    if found is None:  # require_feasible lets this through only by rounding
        found = (0, 0, 0.0)
    kept = {Kind.MHA: found[0], Kind.FFN: found[1]}
    counts = {}
    for kind, sites in by_kind.items():
        per_site = np.bincount(pools[kind].owners[: kept[kind]], minlength=len(sites))
        counts.update({s.name: int(n) for s, n in zip(sites, per_site, strict=True)})
    return conclude(problem, single.choices(counts), budget, "enumeration")


def _unit_cost(curves: Mapping[str, Mapping[int, float]], sites: list[Site]) -> float:
    """The one cost of a unit of these sites (of one kind)."""
    costs = []
    for s in sites:
        curve = curves[s.name]
        counts = np.array(sorted(curve))
        ms = np.array([curve[int(n)] for n in counts], dtype=np.float64)
        unit = (ms[-1] - ms[0]) / s.units
        complete = len(counts) == s.units + 1
        if (
            not complete
            or unit < 0
            or not np.allclose(ms, ms[0] + unit * counts, rtol=1e-9, atol=1e-9 * abs(ms).max())
        ):
            raise UsageError(
                f"The enumeration search needs linear costs at every count, and those of {s.name} "
                "are not.",
                got=f"{len(counts)} counts of {s.units + 1}",
                next_step="use the knapsack search, which is exact on any costs",
            )
        costs.append(unit)
    if costs and not np.allclose(costs, costs[0], rtol=1e-9):
        raise UsageError(
            "The enumeration search needs one cost for all units of a kind.",
            got=f"costs from {min(costs):.6g} to {max(costs):.6g}",
            next_step="use the knapsack search, which is exact on any costs",
        )
    return float(costs[0]) if costs else 0.0


@register("search", "enumeration")
class Enumeration(Search):
    """See `enumeration`."""

    gives_way = True

    def __call__(self, problem: Problem, budget: float) -> SearchResult:
        return enumeration(problem, budget)
