"""What a choice costs. A budget is stated in some unit; a cost gives the price of every choice in
that unit, and the price of a whole model.

A new unit that can be computed (parameters, say) is a `ComputedCost` registered with
`@register("cost", "name")`, and a key of the same name in the recipe's `Budget`. One that is read
off the dense model's ONNX file is a `FileCost`.
Latency is the one cost that is measured: its table and its closed loop are the pipeline's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from rfx.core.plan import FULL, Choice, Choices, Plan, Site, SitePlan

if TYPE_CHECKING:
    import onnx

AnySite = Site | SitePlan  # both say name, kind, units and width, which is all that a cost needs


class Cost(ABC):
    """Additive costs of the sites of a model, in one unit.

    The cost of a model is `fixed`, which nothing can prune, and the sum over its sites of what
    their choices cost. `linear` says that every unit of a kind of site costs the same, whatever
    the others are; a search may use that.
    """

    unit: ClassVar[str]  # "ms", "flops", "bytes": of a budget, and of every number here
    linear: ClassVar[bool] = False

    @property
    def precision(self) -> str:
        """The precision of a choice that names none of its own."""
        return FULL

    @property
    @abstractmethod
    def fixed(self) -> float:
        """The cost of what cannot be pruned."""

    @abstractmethod
    def curve(self, site: AnySite) -> dict[Choice, float]:
        """The choices that a search may take at `site`, each with its cost."""

    @abstractmethod
    def predict(self, sites: Sequence[AnySite], choices: Choices) -> float:
        """The cost of a whole model with a choice at every site; counts that are on no curve are
        interpolated."""

    def of(self, site: AnySite, choice: Choice) -> float:
        """The cost of one choice at `site`.

        Raises:
            KeyError: the choice is not on the curve.
        """
        return self.curve(site)[choice]

    def dense(self, sites: Sequence[AnySite]) -> float:
        """The cost of the model with every unit of `sites` kept."""
        return self.predict(sites, {s.name: Choice(s.units, self.precision) for s in sites})

    def share(self, sites: Sequence[AnySite], choices: Choices) -> float:
        """The cost of a model as a share of the dense model's."""
        return self.predict(sites, choices) / self.dense(sites)

    def share_of(self, plan: Plan) -> float:
        """The cost of a plan as a share of the dense model's."""
        return self.share(plan.sites, plan.choices(self.precision))

    def coarse(self) -> Cost:
        """The same cost with fewer choices, for searches whose work grows with their number; this
        cost itself where that is no concern."""
        return self


class ComputedCost(Cost):
    """A cost that is computed from what is known of a model, and so may be a recipe's budget
    (registry kind "cost")."""

    @classmethod
    @abstractmethod
    def of_model(cls, *, hidden: int, tokens: float) -> ComputedCost:
        """The cost for a model.

        Args:
            hidden: the width of the residual stream.
            tokens: of an example, on average.
        """


class FileCost(Cost):
    """A cost that is read off the ONNX files of the dense model (registry kind "cost")."""

    @classmethod
    @abstractmethod
    def of_files(
        cls,
        graphs: Sequence[onnx.ModelProto],
        sites: Sequence[Site],
        *,
        precision: str,
        more: float = 0.0,
    ) -> FileCost:
        """The cost for a model.

        Args:
            graphs: the dense model in all its files, as it is served.
            precision: of these files.
            more: bytes that the file of a pruned model has beside those of the dense one, in its
                metadata; negative where it has fewer.
        """
