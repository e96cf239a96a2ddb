"""Searches: how many units each site keeps under a budget. A new one is a function registered in
`SEARCHES`."""

from __future__ import annotations

from collections.abc import Callable

from rfx.core.errors import UsageError
from rfx.methods.search.enumeration import enumeration
from rfx.methods.search.interaction import joint_values
from rfx.methods.search.knapsack import knapsack
from rfx.methods.search.piecewise import piecewise
from rfx.methods.search.problem import Problem, SearchResult
from rfx.methods.search.rearrange import Rearranged, rearrange, refined

SEARCHES: dict[str, Callable[..., SearchResult]] = {
    "knapsack": knapsack,
    "enumeration": enumeration,
    "piecewise": piecewise,
}


def search(name: str) -> Callable[..., SearchResult]:
    """The search called `name`: a function (problem, budget) -> SearchResult."""
    if name not in SEARCHES:
        raise UsageError(
            "There is no such search.",
            got=name,
            allowed=", ".join(SEARCHES),
            next_step="correct method.search",
        )
    return SEARCHES[name]


__all__ = [
    "SEARCHES",
    "Problem",
    "Rearranged",
    "SearchResult",
    "joint_values",
    "rearrange",
    "refined",
    "search",
]
