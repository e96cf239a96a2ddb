"""The LP relaxation of the multiple-choice knapsack: an upper bound of every choice, and the price
of a millisecond.

Sinha and Zoltners (1979): the relaxation only mixes neighbours on each site's upper convex hull, so
it is solved by taking hull segments in the order of their slope until the budget is used up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rfx.core.plan import Choice
from rfx.methods.search.problem import Problem


@dataclass(frozen=True)
class Candidates:
    """The choices of one site that no other choice of it beats, by rising cost: Pareto front of
    (cost, value).

    `costs` are relative to the cheapest choice, whose cost is `base`; arrays have one entry a
    choice.
    """

    name: str
    base: float
    choices: tuple[Choice, ...]
    costs: np.ndarray  # float64 [choices], first 0
    values: np.ndarray  # float64 [choices], rising

    def only(self, keep: np.ndarray) -> Candidates:
        """The choices where `keep` [choices] holds."""
        return Candidates(
            self.name,
            self.base,
            tuple(self.choices[i] for i in np.flatnonzero(keep)),
            self.costs[keep],
            self.values[keep],
        )


@dataclass(frozen=True)
class Relaxation:
    """`upper` bounds the kept importance of any feasible choice; `price` is importance per unit of
    cost; `choices` is the feasible integral part of the relaxed solution."""

    upper: float
    price: float
    choices: dict[str, Choice]


def candidates(problem: Problem) -> list[Candidates]:
    """Pareto front of every site, in the order of `problem.sites`. Of equal choices the one with
    fewer units stays."""
    fronts = []
    for site in problem.sites:
        curve = problem.curves[site.name]
        choices = sorted(curve)
        counts = np.array([c.count for c in choices], dtype=np.int64)
        costs = np.array([curve[c] for c in choices], dtype=np.float64)
        values = problem.values_of(site.name, choices)
        order = np.lexsort((counts, -values, costs))  # cost, then more value, then fewer units
        best_before = np.maximum.accumulate(np.concatenate([[-np.inf], values[order][:-1]]))
        front = order[values[order] > best_before]
        base = float(costs[front[0]])
        fronts.append(
            Candidates(
                site.name,
                base,
                tuple(choices[i] for i in front),
                costs[front] - base,
                values[front],
            )
        )
    return fronts


def relax(problem: Problem, budget: float, fronts: list[Candidates] | None = None) -> Relaxation:
    """Solve the relaxation of `problem` at `budget`. Price 0 where the budget does not bind."""
    fronts = candidates(problem) if fronts is None else fronts
    # Sums of costs in another order round differently.
    room = (budget - problem.least_cost) * (1 + 1e-12)
    upper = math.fsum(float(c.values[0]) for c in fronts)
    chosen = {c.name: c.choices[0] for c in fronts}
    ends: list[Choice] = []
    owners, costs, gains = [], [], []
    for i, c in enumerate(fronts):
        hull = _hull(c.costs, c.values)
        if len(hull) > 1:
            owners.append(np.full(len(hull) - 1, i))
            ends += [c.choices[j] for j in hull[1:]]
            costs.append(np.diff(c.costs[hull]))
            gains.append(np.diff(c.values[hull]))
    if not owners:
        return Relaxation(upper, 0.0, chosen)
    owner, cost, gain = (np.concatenate(a) for a in (owners, costs, gains))
    slope = gain / cost
    # Stable: segments of one site stay in order.
    order = np.lexsort((np.arange(len(slope)), -slope))
    spent = np.cumsum(cost[order])
    whole = int(np.searchsorted(spent, room, side="right"))
    upper += math.fsum(gain[order[:whole]])
    for segment in order[:whole]:
        chosen[fronts[owner[segment]].name] = ends[segment]
    if whole == len(order):
        return Relaxation(upper, 0.0, chosen)
    split = order[whole]
    left = max(0.0, room - (float(spent[whole - 1]) if whole else 0.0))
    return Relaxation(upper + float(slope[split]) * left, float(slope[split]), chosen)


def _hull(costs: np.ndarray, values: np.ndarray) -> list[int]:
    """Indices of the upper concave hull of a Pareto front given by rising cost."""
    x, y = costs.tolist(), values.tolist()
    hull: list[int] = []
    for i in range(len(x)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (y[b] - y[a]) * (x[i] - x[b]) > (y[i] - y[b]) * (x[b] - x[a]):
                break
            hull.pop()
        hull.append(i)
    return hull
