"""Exact search on any cost table: multiple-choice knapsack by dynamic programming over sites on an
integer cost grid.

Costs are rounded up to the grid, so the answer is never over budget. Two rounds: a coarse grid
gives a good choice; with the bound of the relaxation it rules out the choices that cannot be in a
better one (Dyer, Riha and Walker 1995); the few that remain are solved on a grid as fine as the
allowed work permits. Integer costs are solved exactly.
"""

from __future__ import annotations

import math

import numpy as np

from rfx.core.plan import Choice
from rfx.core.registry import register
from rfx.methods.search.base import Search
from rfx.methods.search.conclude import conclude
from rfx.methods.search.problem import Choices, Problem, SearchResult
from rfx.methods.search.relaxation import Candidates, candidates, relax

_WORK = 120_000_000  # cell updates of the fine grid: well under a second
_MAX_BINS = 1 << 17  # of the fine grid; bounds the memory of the picks, int16 [sites, bins]


def knapsack(problem: Problem, budget: float, *, bins: int = 4000) -> SearchResult:
    """The choices of most importance with cost <= `budget`.

    Args:
        problem: sites, importance and cost curves; curves may be stepped, flat or not monotone.
        budget: in the unit of the curves, `problem.fixed` included.
        bins: cells of the coarse grid.

    Raises:
        InfeasibleError: even the cheapest choices cost more; the message names the fastest
            reachable point.
    """
    problem.require_feasible(budget)
    fronts = candidates(problem)
    largest = {c.name: c.choices[-1] for c in fronts}
    if problem.cost(largest) <= budget:
        return conclude(problem, largest, budget, "knapsack")

    room = budget - problem.least_cost
    bound = relax(problem, budget, fronts)
    # The relaxation's integral part fits too, up to floating-point noise: one of the first answers.
    best = _cheapest(fronts)
    for found in (bound.choices, _solve(fronts, room, None, bins)):
        if problem.cost(found) <= budget and _better(fronts, found, best):
            best = found
    few = _rule_out(fronts, bound.upper, bound.price, _value(fronts, best))
    choices = sum(len(c.choices) for c in few)
    fine = _solve(few, room, _integer_step(few, room), max(bins, min(_MAX_BINS, _WORK // choices)))
    if problem.cost(fine) <= budget and _better(fronts, fine, best):
        best = fine
    return conclude(problem, best, budget, "knapsack")


def _integer_step(fronts: list[Candidates], room: float) -> float | None:
    """The greatest common divisor of the costs where all are integers and that grid is small
    enough, else None."""
    costs = np.concatenate([c.costs for c in fronts])
    if not (np.equal(np.floor(costs), costs).all() and costs.max() < 2**53):
        return None
    step = math.gcd(*(int(c) for c in costs))
    return (
        float(step)
        if step and room / step * len(costs) <= 4 * _WORK and room / step <= 8 * _MAX_BINS
        else None
    )


def _solve(
    fronts: list[Candidates], room: float, exact: float | None, bins: int
) -> dict[str, Choice]:
    """Dynamic programme over sites. `best[c]` is the most importance of the sites so far within c
    cells of cost.

    Cost O(sum of choices * cells). Ties keep the cheaper choice, so fewer units.
    """
    if room <= 0:
        return _cheapest(fronts)
    step = exact or room / bins
    cells = math.floor(room / step) if exact else bins
    best = np.zeros(cells + 1)  # [cells + 1]
    picks = np.zeros((len(fronts), cells + 1), dtype=np.int16)
    for i, c in enumerate(fronts):
        # A hair above the quotient, so that one rounded down by floating point still ends at the
        # cell above.
        weights = c.costs / step if exact else np.ceil(c.costs / step * (1 + 1e-15))
        after = best + c.values[0]
        for j in range(1, len(c.choices)):
            if weights[j] > cells:
                break
            w = int(weights[j])
            with_choice = best[: cells + 1 - w] + c.values[j]
            better = with_choice > after[w:]
            np.copyto(after[w:], with_choice, where=better)
            np.copyto(picks[i, w:], j, where=better)
        best = after
    chosen: dict[str, Choice] = {}
    cell = cells
    for i in range(len(fronts) - 1, -1, -1):
        c, j = fronts[i], int(picks[i, cell])
        chosen[c.name] = c.choices[j]
        cell -= int(c.costs[j] / step if exact else math.ceil(c.costs[j] / step * (1 + 1e-15)))
    return chosen


def _rule_out(
    fronts: list[Candidates], upper: float, price: float, lower: float
) -> list[Candidates]:
    """Drop the choices that no answer better than `lower` can hold: forcing one costs its reduced
    value of `upper`."""
    slack = upper - lower + 1e-9 * abs(upper)
    kept = []
    for c in fronts:
        reduced = c.values - price * c.costs
        keep = reduced.max() - reduced <= slack
        keep[0] = True  # the cheapest stays, so that every sub-problem is feasible
        kept.append(c.only(keep))
    return kept


def _cheapest(fronts: list[Candidates]) -> dict[str, Choice]:
    return {c.name: c.choices[0] for c in fronts}


def _value(fronts: list[Candidates], choices: Choices) -> float:
    return math.fsum(float(c.values[c.choices.index(choices[c.name])]) for c in fronts)


def _better(fronts: list[Candidates], new: Choices, old: Choices) -> bool:
    a, b = _value(fronts, new), _value(fronts, old)
    return a > b or (a == b and _units(new) < _units(old))


def _units(choices: Choices) -> int:
    return sum(c.count for c in choices.values())


@register("search", "knapsack")
class Knapsack(Search):
    """See `knapsack`."""

    gives_way = True
    joint = True

    def __call__(self, problem: Problem, budget: float) -> SearchResult:
        return knapsack(problem, budget)
