"""The end of every search: its answer with the figures that all of them report."""

from __future__ import annotations

import math

from rfx.methods.search.problem import Choices, Problem, SearchResult
from rfx.methods.search.relaxation import relax


def conclude(problem: Problem, choices: Choices, budget: float, method: str) -> SearchResult:
    """The result of what a search chose, with its cost and its distance from the relaxation's
    bound; `method` is the search's name."""
    value = math.fsum(problem.value(s.name, choices[s.name]) for s in problem.sites)
    total = math.fsum(float(problem.prefix(s.name)[-1]) for s in problem.sites)
    bound = relax(problem, budget)
    gap = max(0.0, bound.upper - value) / bound.upper if bound.upper > 0 else 0.0
    return SearchResult(
        kept={s.name: problem.top(s.name, choices[s.name].count) for s in problem.sites},
        choices={s.name: choices[s.name] for s in problem.sites},
        cost=problem.cost(choices),
        budget=float(budget),
        value=value,
        importance_total=total,
        optimality_gap=gap if gap > 1e-12 else 0.0,
        price=bound.price,
        method=method,
    )
