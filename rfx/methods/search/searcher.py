"""A search bound to a cost: what a schedule asks for choices under a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rfx.core.errors import InfeasibleError
from rfx.core.plan import Kind, Site
from rfx.cost.base import Cost
from rfx.cost.restricted import NOTHING, Restriction
from rfx.methods.scores.base import Scores
from rfx.methods.search.base import Search
from rfx.methods.search.enumeration import enumeration
from rfx.methods.search.interaction import joint_values
from rfx.methods.search.knapsack import knapsack
from rfx.methods.search.problem import Problem, SearchResult


@dataclass(frozen=True)
class Searcher:
    """The choices of greatest kept importance whose cost is within a budget, in `cost.unit`.

    Args:
        search: the search of the method.
        interactions: "block" counts what removed units of a site do together, where the scores
            have gradients and the search can use that; "none" takes every unit on its own.
        cost: of the choices.
        restriction: what may not be chosen.

    Under a linear cost (FLOPs) and with every unit on its own, one price a kind makes Algorithm 1
    of Kwon et al. 2022 exact, so it is used whichever of rfx's own searches is named
    (`Search.gives_way`). With interactions, or with
    scores that have an order of removal, a linear cost is a knapsack over fewer choices
    (`Cost.coarse`).
    """

    search: Search
    interactions: str
    cost: Cost
    restriction: Restriction = NOTHING

    def __call__(self, sites: Sequence[Site], scores: Scores, budget: float) -> SearchResult:
        """Choices for `sites`; `budget` includes the cost of what cannot be pruned.

        Raises:
            InfeasibleError: even the cheapest choices cost more.
        """
        try:
            return self._found(sites, scores, budget)
        except InfeasibleError as error:
            if not self.restriction:
                raise
            raise InfeasibleError(
                error.what,
                got=error.got,
                allowed=error.allowed,
                next_step="freeze fewer sublayers (--freeze), leave --drop-layers out, or "
                f"{error.next_step}",
            ) from None

    def _found(self, sites: Sequence[Site], scores: Scores, budget: float) -> SearchResult:
        interact = self.interactions == "block" and self.search.joint and bool(scores.gradients)
        values = joint_values(sites, scores) if interact else None
        cost = self.restriction.of(self.cost)
        if self.restriction and self.search.gives_way and self.cost.linear:
            # The choices of a site are no longer all of one price.
            return knapsack(Problem.of(sites, scores, cost.coarse(), values=values), budget)
        if not self.cost.linear or not self.search.gives_way:
            return self.search(Problem.of(sites, scores, cost, values=values), budget)
        priced = {s.kind for s in sites} <= {Kind.MHA, Kind.FFN}  # one price a kind
        if priced and values is None and not scores.orders:
            return enumeration(Problem.of(sites, scores, self.cost), budget)
        return knapsack(Problem.of(sites, scores, self.cost.coarse(), values=values), budget)
