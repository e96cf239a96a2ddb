"""Searches: how many units each site keeps under a budget. A new one is a class registered in
`SEARCHES`."""

from __future__ import annotations

from rfx.core.errors import UsageError
from rfx.methods.search.base import Search
from rfx.methods.search.enumeration import Enumeration
from rfx.methods.search.interaction import joint_values
from rfx.methods.search.knapsack import Knapsack
from rfx.methods.search.piecewise import Piecewise
from rfx.methods.search.problem import Problem, SearchResult
from rfx.methods.search.rearrange import Rearranged, rearrange, refined

SEARCHES: dict[str, type[Search]] = {
    "knapsack": Knapsack,
    "enumeration": Enumeration,
    "piecewise": Piecewise,
}


def search(name: str) -> Search:
    """The search called `name`."""
    if name not in SEARCHES:
        raise UsageError(
            "There is no such search.",
            got=name,
            allowed=", ".join(SEARCHES),
            next_step="correct method.search",
        )
    return SEARCHES[name]()


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
