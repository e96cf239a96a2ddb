"""Refiners: which units stay at a site, once a search has said how many."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from rfx.core.registry import register
from rfx.methods.scores.base import Scores
from rfx.methods.search.rearrange import best_swaps, one_pass, rearrange

Kept = Mapping[str, Sequence[int]]  # units by site name


class Refiner(ABC):
    """A way to exchange kept and removed units. Counts stay, so the cost stays."""

    name: ClassVar[str]
    needs_gradients: ClassVar[bool] = True  # whether it can do nothing without gradient rows

    @abstractmethod
    def __call__(
        self, kept: Kept, scores: Scores, among: Kept | None = None
    ) -> dict[str, tuple[int, ...]]:
        """The kept units after the exchange; none but units of `among`, where that is given."""


@register("refiner", "none")
class NoRefinement(Refiner):
    """The units that the search kept."""

    name = "none"
    needs_gradients = False

    def __call__(
        self, kept: Kept, scores: Scores, among: Kept | None = None
    ) -> dict[str, tuple[int, ...]]:
        return {name: tuple(units) for name, units in kept.items()}


@register("refiner", "best")
class Best(Refiner):
    """Swaps to a local optimum, where no single swap lowers the damage. Scores without gradients
    leave everything as it is."""

    name = "best"
    swaps = staticmethod(best_swaps)

    def __call__(
        self, kept: Kept, scores: Scores, among: Kept | None = None
    ) -> dict[str, tuple[int, ...]]:
        units = {name: tuple(u) for name, u in kept.items()}
        if not scores.gradients:
            return units
        return dict(rearrange(units, scores, swaps=self.swaps, among=among).kept)


@register("refiner", "reference")
class Reference(Best):
    """The one pass of the code of Kwon et al. 2022."""

    name = "reference"
    swaps = staticmethod(one_pass)
