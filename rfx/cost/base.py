"""What a choice costs. A budget is stated in some unit; a cost gives the price of every choice in
that unit, and the price of a whole model.

The searches work with any cost. A recipe states a budget as a share of the latency or of the FLOPs;
another unit also needs its key in `rfx/recipe/spec.py` and its branch in `rfx/pipeline/loop.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from rfx.core.plan import Choice, Counts, Site, SitePlan

AnySite = Site | SitePlan  # both say name, kind, units and width, which is all that a cost needs


class Cost(ABC):
    """Additive costs of the sites of a model, in one unit.

    The cost of a model is `fixed`, which nothing can prune, and the sum over its sites of what
    their choices cost. `linear` says that every unit of a kind of site costs the same, whatever
    the others are; a search may use that.
    """

    unit: ClassVar[str]  # "ms", "flops": of a budget, and of every number here
    linear: ClassVar[bool] = False

    @property
    @abstractmethod
    def fixed(self) -> float:
        """The cost of what cannot be pruned."""

    @abstractmethod
    def curve(self, site: AnySite) -> dict[Choice, float]:
        """The choices that a search may take at `site`, each with its cost."""

    @abstractmethod
    def predict(self, sites: Sequence[AnySite], counts: Counts) -> float:
        """The cost of a whole model with `counts` units kept; counts that are on no curve are
        interpolated."""

    def of(self, site: AnySite, choice: Choice) -> float:
        """The cost of one choice at `site`.

        Raises:
            KeyError: the choice is not on the curve.
        """
        return self.curve(site)[choice]

    def dense(self, sites: Sequence[AnySite]) -> float:
        """The cost of the model with every unit of `sites` kept."""
        return self.predict(sites, {s.name: s.units for s in sites})

    def share(self, sites: Sequence[AnySite], counts: Counts) -> float:
        """The cost of a model as a share of the dense model's."""
        return self.predict(sites, counts) / self.dense(sites)

    def coarse(self) -> Cost:
        """The same cost with fewer choices, for searches whose work grows with their number; this
        cost itself where that is no concern."""
        return self
