"""The latency search of Kwon et al. 2022 (section 4.1, A.2): a piece-wise linear fit of the table,
then Algorithm 1.

The latency of a sublayer with k units is modelled as 0 (k = 0), c (k <= T) and c + a (k - T)
beyond. Every sublayer that survives pays c once and keeps its T best units for it; what is left of
the budget buys further units at a each by Algorithm 1; every number of dropped sublayers is tried.
This is the algorithm as the paper means it, not as the reference code runs it (the budget is the
same for every combination, and the T units count). Costs here are relative to the measured empty
sublayer. The fit only guides: the answer is priced on the table, and tightened until it fits.
It knows counts alone, so all choices have to be of one precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rfx.core.errors import UsageError
from rfx.core.plan import Counts, Kind, Site
from rfx.core.registry import register
from rfx.methods.search.base import Search
from rfx.methods.search.conclude import conclude
from rfx.methods.search.enumeration import Pool, fill
from rfx.methods.search.problem import Problem, SearchResult

_ROUNDS = 60


@dataclass(frozen=True)
class PiecewiseFit:
    """LAT(k) = `empty` (k = 0), `empty + constant` (1 <= k <= `threshold`), `+ slope * (k -
    threshold)` beyond."""

    empty: float
    constant: float
    threshold: int
    slope: float
    squared_error: float

    def __call__(self, count: int) -> float:
        if count == 0:
            return self.empty
        return self.empty + self.constant + self.slope * max(0, count - self.threshold)


def fit(curve: Mapping[int, float]) -> PiecewiseFit:
    """Least squares over every threshold, on the measured counts (not on their positions in the
    list).

    For a threshold at the i-th count: c the mean cost up to it, a the slope through the origin of
    (cost - c) against (count - threshold), at least 0. A curve without count 0 has `empty` 0, as in
    the paper.
    """
    empty = float(curve.get(0, 0.0))
    counts = np.array(sorted(n for n in curve if n > 0), dtype=np.float64)
    costs = np.array([curve[int(n)] for n in counts], dtype=np.float64) - empty
    best: PiecewiseFit | None = None
    for i in range(len(counts)):
        constant = float(costs[: i + 1].mean())
        beyond, rise = counts[i + 1 :] - counts[i], costs[i + 1 :] - constant
        slope = max(0.0, float(beyond @ rise / (beyond @ beyond))) if len(beyond) else 0.0
        error = float(
            ((costs[: i + 1] - constant) ** 2).sum() + ((rise - slope * beyond) ** 2).sum()
        )
        if best is None or error < best.squared_error:
            best = PiecewiseFit(empty, constant, int(counts[i]), slope, error)
    if best is None:
        raise UsageError(
            "A cost curve needs a count above 0.",
            got=sorted(curve),
            next_step="give the cost of every count of units, from 0 to all of them",
        )
    return best


def piecewise(problem: Problem, budget: float) -> SearchResult:
    """The paper's latency search; every answer fits the table's own budget.

    Raises:
        InfeasibleError: no choice fits the budget.
        UsageError: the curves of sites of one kind differ by more than their scale, or lack count
            0.
    """
    single = problem.by_count("piecewise")
    problem.require_feasible(budget)
    by_kind = {kind: [s for s in problem.sites if s.kind is kind] for kind in Kind}
    fits = {kind: _shared_fit(single.curves, sites) for kind, sites in by_kind.items() if sites}
    models = {kind: _Survivors(problem, sites, fits.get(kind)) for kind, sites in by_kind.items()}
    empty = problem.cost(single.choices({s.name: 0 for s in problem.sites}))

    # Tighten the budget of the fitted model until the answer fits the table. All sites empty fits,
    # or nothing does.
    # Sites that compute a part of what the others do cost less than the fit says.
    target = budget + _overstated(single.curves, by_kind)
    for _ in range(_ROUNDS):
        counts = _snap(single.curves, _best_combination(models, target - empty))
        cost = problem.cost(single.choices(counts))
        if cost <= budget:
            return conclude(problem, single.choices(counts), budget, "piecewise")
        target -= max(cost - budget, 0.002 * abs(budget - empty))
    counts = {name: min(curve, key=curve.__getitem__) for name, curve in single.curves.items()}
    return conclude(problem, single.choices(counts), budget, "piecewise")


class _Survivors:
    """Of one kind of site, for every number of dropped sublayers: who survives, their base value,
    their further units.

    Dropped first are those whose T most important units are worth least.
    """

    def __init__(self, problem: Problem, sites: list[Site], fitted: PiecewiseFit | None):
        self.sites, self.fit = sites, fitted
        prefixes = [problem.prefix(s.name) for s in sites]
        free = [min(fitted.threshold, s.units) for s in sites] if fitted else []
        base = np.array([p[t] for p, t in zip(prefixes, free, strict=True)])
        order = np.argsort(base, kind="stable")
        self.free = free
        self.survivors = [np.sort(order[dropped:]) for dropped in range(len(sites) + 1)]
        self.base = [float(base[alive].sum()) for alive in self.survivors]
        self.pools = [
            Pool.of([np.diff(prefixes[i])[free[i] :] for i in alive]) for alive in self.survivors
        ]

    def constant(self, dropped: int) -> float:
        return (len(self.sites) - dropped) * self.fit.constant if self.fit else 0.0

    @property
    def slope(self) -> float:
        return self.fit.slope if self.fit else 0.0

    def counts(self, dropped: int, bought: int) -> Counts:
        """Kept units with the `bought` best further units of the survivors."""
        alive = self.survivors[dropped]
        further = np.bincount(self.pools[dropped].owners[:bought], minlength=len(alive))
        counts = {s.name: 0 for s in self.sites}
        counts.update(
            {self.sites[i].name: self.free[i] + int(n) for i, n in zip(alive, further, strict=True)}
        )
        return counts


def _best_combination(models: Mapping[Kind, _Survivors], room: float) -> Counts:
    """Over all numbers of dropped sublayers (p MHA, q FFN): most importance, base units included,
    within `room`."""
    mha, ffn = models[Kind.MHA], models[Kind.FFN]
    best, best_value = (len(mha.sites), len(ffn.sites), 0, 0), -1.0
    for p in range(len(mha.sites) + 1):
        for q in range(len(ffn.sites) + 1):
            left = room - mha.constant(p) - ffn.constant(q)
            found = fill(mha.pools[p], ffn.pools[q], left, mha.slope, ffn.slope)
            if found is None:
                continue
            value = mha.base[p] + ffn.base[q] + found[2]
            if value > best_value:
                best, best_value = (p, q, found[0], found[1]), value
    p, q, heads, filters = best
    return {**mha.counts(p, heads), **ffn.counts(q, filters)}


def _snap(curves: Mapping[str, Mapping[int, float]], counts: Counts) -> Counts:
    """Every count moved to the nearest one that may be chosen (of two, the lower)."""
    return {
        name: min(curves[name], key=lambda n: (abs(n - count), n)) for name, count in counts.items()
    }


def _shared_fit(curves: Mapping[str, Mapping[int, float]], sites: list[Site]) -> PiecewiseFit:
    """The fit of the dearest curve. Those of sites that compute a part of what the others do are
    that curve by another scale, which is left to the pricing."""
    own = [curves[s.name] for s in sites]
    dearest = max(own, key=lambda curve: max(curve.values()))
    if 0 not in dearest or not all(_scaled(curve, dearest) for curve in own):
        raise UsageError(
            "The piece-wise linear search needs one cost curve for each kind of sublayer, with "
            "count 0; they may differ by a scale.",
            got=f"curves of {', '.join(s.name for s in sites[:4])}, ...",
            next_step="use the knapsack search, which is exact on any costs",
        )
    return fit(dearest)


def _overstated(
    curves: Mapping[str, Mapping[int, float]], by_kind: Mapping[Kind, list[Site]]
) -> float:
    """By how much the dearest curve of each kind overstates what all sites cost with all units."""
    full = {s.name: max(curves[s.name].values()) for sites in by_kind.values() for s in sites}
    return sum(
        max(full[other.name] for other in sites) - full[s.name]
        for sites in by_kind.values()
        for s in sites
    )


def _scaled(curve: Mapping[int, float], other: Mapping[int, float]) -> bool:
    """Whether one curve is another one by some scale, above what an empty sublayer costs."""
    counts = sorted(other)
    if sorted(curve) != counts:
        return False
    a, b = (np.asarray([c[n] - c[0] for n in counts]) for c in (curve, other))
    scale = float(a @ b) / float(b @ b) if b.any() else 1.0
    return bool(np.allclose(a, scale * b, rtol=1e-6, atol=1e-9 * float(np.abs(b).max())))


@register("search", "piecewise")
class Piecewise(Search):
    """See `piecewise`."""

    gives_way = True

    def __call__(self, problem: Problem, budget: float) -> SearchResult:
        return piecewise(problem, budget)
