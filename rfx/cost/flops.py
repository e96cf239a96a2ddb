"""Multiply-accumulates of a unit (Kwon et al. 2022, section 4; the embeddings, norms and the task's
head are left out)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from rfx.core.plan import Choice, Choices, Kind
from rfx.core.registry import register
from rfx.cost.base import AnySite, ComputedCost, Cost

FLOPS_GRID = 8  # filters; the step between the choices of `FlopsCost.coarse`


class LinearCost(Cost):
    """A cost where every kept unit of a site has one price."""

    linear: ClassVar[bool] = True

    @abstractmethod
    def price(self, site: AnySite) -> float:
        """The cost of one unit of `site`."""

    def step(self, site: AnySite) -> int:
        """Counts that may be chosen are multiples of this, or all units."""
        return 1

    @property
    def fixed(self) -> float:
        return 0.0

    def curve(self, site: AnySite) -> dict[Choice, float]:
        price = float(self.price(site))
        counts = sorted({*range(0, site.units + 1, self.step(site)), site.units})
        return {Choice(n): n * price for n in counts}

    def of(self, site: AnySite, choice: Choice) -> float:
        return self.price(site) * choice.count

    def predict(self, sites: Sequence[AnySite], choices: Choices) -> float:
        return self.fixed + float(sum(self.price(s) * choices[s.name].count for s in sites))


@register("cost", "flops")
@dataclass(frozen=True)
class FlopsCost(LinearCost, ComputedCost):
    """MACs of the prunable sublayers for one example.

    Args:
        hidden: the width of the residual stream.
        sequence: tokens of an example (a mean length need not be whole).
        filter_grid: the counts of filters that may be chosen are multiples of it, or all.
    """

    hidden: int
    sequence: float
    filter_grid: int = 1

    unit: ClassVar[str] = "flops"

    @classmethod
    def of_model(cls, *, hidden: int, tokens: float) -> FlopsCost:
        return cls(hidden, tokens)

    def price(self, site: AnySite) -> float:
        """A head has its q, k and v projections, scores and context, and its part of the output
        projection: 3 n D d + 2 n^2 d + n d D. A filter has its row of the first linear and its
        column of the second: 2 n D. Other sites say how many weights a unit has."""
        weights = getattr(site, "weights", 0) or _WEIGHTS[site.kind] * site.width * self.hidden
        return self.sequence * (weights + _SCORES[site.kind] * self.sequence * site.width)

    def step(self, site: AnySite) -> int:
        return self.filter_grid if site.kind is Kind.FFN else 1

    def coarse(self) -> FlopsCost:
        return replace(self, filter_grid=FLOPS_GRID)


# Of a unit of width 1: its weights for each channel of the stream, where a site does not say them
# (in plans and checkpoints of version 0.1); and the products of scores and context for each pair of
# tokens.
_WEIGHTS = {Kind.MHA: 4, Kind.FFN: 2}
_SCORES = {Kind.MHA: 2, Kind.FFN: 0}
