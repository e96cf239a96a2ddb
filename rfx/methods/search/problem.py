"""What a search is asked and what it answers: sites, their importance and their cost curves; kept
units and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rfx.core.errors import InfeasibleError, UsageError
from rfx.core.plan import Counts, Kind, Site
from rfx.cost.table import LatencyTable
from rfx.methods.scores.base import Scores


@dataclass(frozen=True)
class Problem:
    """Choose a kept count for every site: most kept importance at no more than a budget of additive
    cost.

    `importance[site]` float64 [units] >= 0; `curves[site]` is {count: cost} over the counts that
    may be chosen, in any one additive unit (ms, MACs); `fixed` is the cost of what cannot be
    pruned. For an additive score and a cost that depends on the count alone, the best set of k
    units of a site is its k most important ones, so a count decides all. `orders[site]` int64
    [units], where given, is the order in which units leave, in place of their importance.
    `values[site]` float64 [units + 1], where given, is what keeping the k most important units is
    worth in place of the sum of their importance (see `interaction.joint_values`).
    """

    sites: tuple[Site, ...]
    importance: Mapping[str, np.ndarray]
    curves: Mapping[str, Mapping[int, float]]
    fixed: float = 0.0
    values: Mapping[str, np.ndarray] | None = None
    orders: Mapping[str, np.ndarray] | None = None

    def __post_init__(self) -> None:
        for site in self.sites:
            importance = np.asarray(self.importance[site.name])
            if importance.shape != (site.units,):
                raise ValueError(
                    f"importance of {site.name} has shape {importance.shape}, not ({site.units},)"
                )
            if not np.isfinite(importance).all() or (importance < 0).any():
                raise UsageError(
                    f"The scores of {site.name} are not finite and non-negative.",
                    got=f"{int((~np.isfinite(importance)).sum())} not finite, "
                    f"{int((importance < 0).sum())} negative",
                    next_step="check the labels and the model's loss on the calibration data for "
                    "NaN",
                )
            if self.values is not None:
                values = np.asarray(self.values[site.name])
                if (
                    values.shape != (site.units + 1,)
                    or not np.isfinite(values).all()
                    or (np.diff(values) < 0).any()
                ):
                    raise ValueError(
                        f"values of {site.name} are not {site.units + 1} finite numbers that "
                        "never fall"
                    )
            curve = self.curves[site.name]
            if not curve:
                raise UsageError(
                    f"The cost curve of {site.name} is empty.",
                    next_step="measure the latency table again",
                )
            bad = [
                n
                for n, cost in curve.items()
                if not 0 <= n <= site.units or not math.isfinite(cost)
            ]
            if bad:
                raise UsageError(
                    f"The cost curve of {site.name} has counts that cannot be chosen or costs "
                    "that are not numbers.",
                    got=f"counts {bad[:5]}",
                    allowed=f"counts 0..{site.units} with finite costs",
                )

    @classmethod
    def from_table(
        cls,
        sites: Sequence[Site],
        scores: Scores,
        table: LatencyTable,
        *,
        values: Mapping[str, np.ndarray] | None = None,
    ) -> Problem:
        """Costs in ms from a measured table: the candidate counts of a site are those measured for
        its kind, without those that a larger count undercuts."""
        curves = {
            s.name: {n: ms for n, ms in table.choices(s.kind).items() if n <= s.units}
            for s in sites
        }
        return cls(
            tuple(sites),
            _importance(sites, scores),
            curves,
            float(table.fixed_ms),
            values,
            scores.orders or None,
        )

    @classmethod
    def from_unit_costs(
        cls,
        sites: Sequence[Site],
        scores: Scores,
        unit_cost: Mapping[str, float],
        *,
        fixed: float = 0.0,
        filter_grid: int = 1,
        values: Mapping[str, np.ndarray] | None = None,
    ) -> Problem:
        """Linear costs: `unit_cost[site]` for every unit kept (MACs, say). With `filter_grid` > 1
        the kept filters are multiples of it, or all."""
        curves = {}
        for s in sites:
            step = filter_grid if s.kind is Kind.FFN else 1
            counts = sorted({*range(0, s.units + 1, step), s.units})
            curves[s.name] = {n: n * float(unit_cost[s.name]) for n in counts}
        return cls(
            tuple(sites),
            _importance(sites, scores),
            curves,
            float(fixed),
            values,
            scores.orders or None,
        )

    @property
    def dense_cost(self) -> float:
        """Cost with the largest count that may be chosen at every site."""
        return self.cost({s.name: max(self.curves[s.name]) for s in self.sites})

    @property
    def least_cost(self) -> float:
        """Cost of the fastest reachable point."""
        return math.fsum([self.fixed, *(min(self.curves[s.name].values()) for s in self.sites)])

    def cost(self, counts: Counts) -> float:
        """Cost of counts that are on the curves."""
        return math.fsum([self.fixed, *(self.curves[s.name][counts[s.name]] for s in self.sites)])

    def prefix(self, name: str) -> np.ndarray:
        """Kept importance at each count: float64 [units + 1], entry k of the k most important
        units."""
        if self.values is not None:
            return np.asarray(self.values[name], dtype=np.float64)
        descending = np.asarray(self.importance[name], dtype=np.float64)[
            self._most_important_first(name)
        ]
        return np.concatenate([[0.0], np.cumsum(descending)])

    def top(self, name: str, count: int) -> tuple[int, ...]:
        """The `count` most important units of a site, sorted by index; of equals the lower
        index."""
        return tuple(sorted(int(u) for u in self._most_important_first(name)[:count]))

    def _most_important_first(self, name: str) -> np.ndarray:
        if self.orders is not None and name in self.orders:
            return np.asarray(self.orders[name])[::-1]
        return np.argsort(-np.asarray(self.importance[name], dtype=np.float64), kind="stable")

    def require_feasible(self, budget: float) -> None:
        """Raises InfeasibleError naming the fastest reachable point where nothing fits `budget`."""
        least = self.least_cost
        if math.isnan(budget):
            raise UsageError("The budget is not a number.", got=budget)
        if least > budget:
            dense = self.dense_cost
            share = math.ceil(least / dense * 1000) / 1000
            raise InfeasibleError(
                "No plan meets the budget: even the cheapest choice at every site costs more.",
                got=f"budget {budget:.6g} ({budget / dense:.4f} of dense)",
                allowed=f"{least:.6g}, {least / dense:.4f} of dense ({dense:.6g}), is the fastest "
                "reachable point",
                next_step=f"ask for {share:.3f} of dense or more, or start from a smaller model",
            )


@dataclass(frozen=True)
class SearchResult:
    """A search's answer. Costs are in the problem's unit (ms or MACs), importance in the scorer's.

    `value` is the kept importance and `value_share` its share of all; `optimality_gap` is the
    relative distance of `value` from an upper bound of any choice (LP relaxation), so the true loss
    is at most that; `price` is the importance that one more unit of cost would buy, the multiplier
    of the relaxation.
    """

    kept: Mapping[str, tuple[int, ...]]
    counts: Counts
    cost: float
    budget: float
    value: float
    value_share: float
    optimality_gap: float
    price: float
    method: str


def conclude(
    problem: Problem, counts: Counts, budget: float, cost: float, method: str
) -> SearchResult:
    """The result of chosen counts, with the figures that every search reports."""
    from rfx.methods.search.relaxation import relax

    value = math.fsum(float(problem.prefix(s.name)[counts[s.name]]) for s in problem.sites)
    total = math.fsum(float(problem.prefix(s.name)[-1]) for s in problem.sites)
    bound = relax(problem, budget)
    gap = max(0.0, bound.upper - value) / bound.upper if bound.upper > 0 else 0.0
    return SearchResult(
        kept={s.name: problem.top(s.name, counts[s.name]) for s in problem.sites},
        counts={s.name: int(counts[s.name]) for s in problem.sites},
        cost=float(cost),
        budget=float(budget),
        value=value,
        value_share=value / total if total > 0 else 1.0,
        optimality_gap=gap if gap > 1e-12 else 0.0,
        price=bound.price,
        method=method,
    )


def _importance(sites: Sequence[Site], scores: Scores) -> dict[str, np.ndarray]:
    return {s.name: np.asarray(scores.importance[s.name], dtype=np.float64) for s in sites}
