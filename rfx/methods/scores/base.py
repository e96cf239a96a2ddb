"""What a scorer gives: how much each unit matters, and the gradients that a site's interactions are
made of."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rfx.core.errors import UsageError
from rfx.core.inputs import Batch
from rfx.core.plan import Site
from rfx.core.progress import Progress

if TYPE_CHECKING:
    import torch

    from rfx.models.streams import Resumed


@dataclass(frozen=True)
class Scores:
    """`importance[site]` float64 [units], >= 0, additive damage if the unit is removed.

    `gradients[site]` float32 [samples, units], the rows g of the site's Fisher block sum_b g gT
    (absent for scorers that have no interactions). `orders[site]` int64 [units], where a scorer
    knows the best order of removal (first to go first): the importance is then what each removal
    adds to the damage, in that order. `token_weights[site]` float32 [real tokens], in the order of
    the calibration batches: how much the model's output hangs on the site's output there.
    `precisions[site]` is what each precision but fp32 damages there, in the unit of the importance,
    where a scorer knows it: without it a search chooses among counts at one precision alone.
    """

    importance: Mapping[str, np.ndarray]
    gradients: Mapping[str, np.ndarray] = field(default_factory=dict)
    orders: Mapping[str, np.ndarray] = field(default_factory=dict)
    token_weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    precisions: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All parts as arrays by "part/site", and "precisions/site/precision"."""
        parts = ("importance", "gradients", "orders", "token_weights")
        arrays = {
            f"{part}/{site}": np.asarray(array)
            for part in parts
            for site, array in getattr(self, part).items()
        }
        for site, damage in self.precisions.items():
            for precision, value in damage.items():
                arrays[f"precisions/{site}/{precision}"] = np.asarray(value, dtype=np.float64)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Scores:
        """What `to_arrays` has given."""
        parts: dict[str, dict[str, Any]] = {}
        for key, array in arrays.items():
            part, site = key.split("/", 1)
            if part == "precisions":
                site, _, precision = site.rpartition("/")
                parts.setdefault(part, {}).setdefault(site, {})[precision] = float(array)
            else:
                parts.setdefault(part, {})[site] = array
        return cls(**parts)


def require_option(
    scorer: str, name: str, value: Any, least: float, *, whole: bool = False, above: bool = False
) -> None:
    """Raises UsageError unless an option is a number (a whole one) of at least `least`, or above
    it."""
    number = (
        isinstance(value, int if whole else (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
    )
    if not number or value < least or (above and value == least):
        raise UsageError(
            f"An option of the scorer {scorer!r} is out of range.",
            got=f"{name}: {value!r}",
            allowed=f"a {'whole ' if whole else ''}number {'above' if above else 'of at least'} "
            f"{least:g}",
            next_step="correct method.scorer_options",
        )


class Scorer(ABC):
    """A way to score units. Options are keyword arguments of the constructor; a scorer ignores
    those it has no use for, so that one recipe can name any of them."""

    name: ClassVar[str]
    has_gradients: ClassVar[bool] = False  # whether its scores have gradient rows
    uses_labels: ClassVar[bool] = False  # whether labels make a difference to it

    def __init__(self, *, per: str = "example", seed: int = 0, **_: Any):
        self.per, self.seed = per, seed

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """The options that a recipe may give: keyword arguments of the constructor, without those
        that it says elsewhere or not at all."""
        parameters = inspect.signature(cls.__init__).parameters.values()
        keywords = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        return tuple(sorted(keywords - {"per", "seed", "tokens_per_pass"}))

    @classmethod
    def without_labels(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options with which the scorer does without labels, where the examples have none.

        Raises:
            UsageError: with these options it cannot.
        """
        return dict(options)

    def watch(self, teacher: torch.nn.Module, batches: Iterable[Batch], task: Any) -> None:  # noqa: B027
        """Shown the dense model before students of it are scored; for scorers that compare the
        two."""

    @abstractmethod
    def score(
        self,
        model: torch.nn.Module,
        sites: Sequence[Site],
        batches: Iterable[Batch],
        task: Any,
        *,
        progress: Progress | None = None,
        resumed: Resumed | None = None,
    ) -> Scores:
        """Scores of every unit of `sites`. The model is left as it was.

        Args:
            resumed: the same model from a layer on that is not behind the first of `sites`, for
                scorers that run it: what lies before need not be run again.
            batches: (inputs, targets) of torch tensors, first axis the batch.
            task: has `losses(outputs, targets) -> torch [batch]`.
        """
