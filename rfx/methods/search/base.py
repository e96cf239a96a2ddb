"""What a search is: choices of most importance under a budget."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from rfx.methods.search.problem import Problem, SearchResult


class Search(ABC):
    """A way to choose. `joint` says whether it takes `Problem.values` of any shape, in which
    removed units of a site interact; others go by the importance of single units. `gives_way` says
    that under a linear cost an exact search takes its place (see `Searcher`)."""

    joint: ClassVar[bool] = False
    gives_way: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, problem: Problem, budget: float) -> SearchResult:
        """The choices of most importance that cost at most `budget`, `problem.fixed` included.

        Raises:
            InfeasibleError: even the cheapest choices cost more.
        """
