"""What a search is asked and what it answers: sites, their importance and their cost curves; kept
units and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rfx.core.errors import InfeasibleError, UsageError
from rfx.core.plan import Choice, Choices, Counts, Site
from rfx.cost.base import Cost
from rfx.methods.scores.base import Scores


@dataclass(frozen=True)
class Problem:
    """Choose for every site: most kept importance at no more than a budget of additive cost.

    `importance[site]` float64 [units] >= 0; `curves[site]` is {choice: cost} over the choices that
    may be taken, in any one additive unit (ms, MACs); `fixed` is the cost of what cannot be
    pruned. For an additive score and a cost that depends on the choice alone, the best set of k
    units of a site is its k most important ones, so a count decides which units stay.
    `orders[site]` int64 [units], where given, is the order in which units leave, in place of their
    importance. `values[site]` float64 [units + 1], where given, is what keeping the k most
    important units is worth in place of the sum of their importance (see
    `interaction.joint_values`). `damage[site]`, which several precisions need, is what each of them
    but one takes off that worth.
    """

    sites: tuple[Site, ...]
    importance: Mapping[str, np.ndarray]
    curves: Mapping[str, Mapping[Choice, float]]
    fixed: float = 0.0
    values: Mapping[str, np.ndarray] | None = None
    orders: Mapping[str, np.ndarray] | None = None
    damage: Mapping[str, Mapping[str, float]] | None = None

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
            own = {c.precision for c in curve}
            if len(own) > 1 and len(own - set((self.damage or {}).get(site.name, {}))) > 1:
                raise UsageError(
                    f"The choices of {site.name} are of several precisions, and the scores do not "
                    "say what each of them damages.",
                    got=", ".join(sorted(own)),
                    allowed="one precision, or scores with `precisions`",
                    next_step="use a cost of one precision",
                )
            bad = [
                choice.count
                for choice, cost in curve.items()
                if not 0 <= choice.count <= site.units or not math.isfinite(cost)
            ]
            if bad:
                raise UsageError(
                    f"The cost curve of {site.name} has counts that cannot be chosen or costs "
                    "that are not numbers.",
                    got=f"counts {bad[:5]}",
                    allowed=f"counts 0..{site.units} with finite costs",
                    next_step="correct the cost, or measure the table again",
                )

    @classmethod
    def of(
        cls,
        sites: Sequence[Site],
        scores: Scores,
        cost: Cost,
        *,
        values: Mapping[str, np.ndarray] | None = None,
    ) -> Problem:
        """The problem of these scores under a cost: the choices of a site are those on its
        curve."""
        return cls(
            tuple(sites),
            {s.name: np.asarray(scores.importance[s.name], dtype=np.float64) for s in sites},
            {s.name: cost.curve(s) for s in sites},
            cost.fixed,
            values,
            scores.orders or None,
            scores.precisions or None,
        )

    @property
    def dense_cost(self) -> float:
        """Cost with the largest choice of every site; of several precisions the dearest."""

        def largest(curve: Mapping[Choice, float]) -> Choice:
            return max(curve, key=lambda choice: (choice.count, curve[choice]))

        return self.cost({s.name: largest(self.curves[s.name]) for s in self.sites})

    @property
    def least_cost(self) -> float:
        """Cost of the fastest reachable point."""
        return math.fsum([self.fixed, *(min(self.curves[s.name].values()) for s in self.sites)])

    def cost(self, choices: Choices) -> float:
        """Cost of choices that are on the curves."""
        return math.fsum([self.fixed, *(self.curves[s.name][choices[s.name]] for s in self.sites)])

    def value(self, name: str, choice: Choice) -> float:
        """What a choice is worth at a site: the importance that it keeps."""
        return float(self.values_of(name, [choice])[0])

    def values_of(self, name: str, choices: Sequence[Choice]) -> np.ndarray:
        """`value` of several choices, float64 [choices]."""
        worth = self.prefix(name)[np.array([c.count for c in choices], dtype=np.int64)]
        damage = (self.damage or {}).get(name)
        if not damage:
            return worth
        return worth - np.array([damage.get(c.precision, 0.0) * (c.count > 0) for c in choices])

    def by_count(self, search: str) -> SingleCurves:
        """The problem for a search that knows counts alone.

        Args:
            search: its name, for the error.

        Raises:
            UsageError: the choices are of several precisions.
        """
        precisions = sorted({c.precision for curve in self.curves.values() for c in curve})
        if len(precisions) > 1:
            raise UsageError(
                f"The {search} search chooses among counts at one precision.",
                got=f"choices of {', '.join(precisions)}",
                allowed="one precision for all sites",
                next_step="use the knapsack search, which chooses both: method.search: knapsack",
            )
        curves = {
            name: {choice.count: cost for choice, cost in curve.items()}
            for name, curve in self.curves.items()
        }
        return SingleCurves(precisions[0], curves)

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
            raise UsageError(
                "The budget is not a number.", got=budget, next_step="give a number above 0"
            )
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
class SingleCurves:
    """Costs by site and count, all at one precision."""

    precision: str
    curves: Mapping[str, Mapping[int, float]]

    def choices(self, counts: Counts) -> dict[str, Choice]:
        return {name: Choice(int(count), self.precision) for name, count in counts.items()}


@dataclass(frozen=True)
class SearchResult:
    """A search's answer. Costs are in the problem's unit (ms or MACs), importance in the scorer's.

    `value` is the kept importance, `importance_total` the importance of every unit together and
    `value_share` the share of it that is kept; `optimality_gap` is the relative distance of `value`
    from an upper bound of any choice (LP relaxation), so the true loss is at most that; `price` is
    the importance that one more unit of cost would buy, the multiplier of the relaxation.
    """

    kept: Mapping[str, tuple[int, ...]]
    choices: Choices
    cost: float
    budget: float
    value: float
    importance_total: float
    optimality_gap: float
    price: float
    method: str

    @property
    def counts(self) -> Counts:
        return {name: choice.count for name, choice in self.choices.items()}

    @property
    def value_share(self) -> float:
        return self.value / self.importance_total if self.importance_total > 0 else 1.0
