"""What a scorer gives: how much each unit matters, and the gradients that a site's interactions are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rfx.plan import Site
from rfx.progress import Progress

if TYPE_CHECKING:
    import torch

Batch = tuple[dict[str, Any], dict[str, Any]]  # torch tensors by name: (inputs of the model, targets of the task)


@dataclass(frozen=True)
class Scores:
    """`importance[site]` float64 [units], >= 0, additive damage if the unit is removed.

    `gradients[site]` float32 [samples, units], the rows g of the site's Fisher block sum_b g gT (absent for scorers
    that have no interactions).
    """

    importance: Mapping[str, np.ndarray]
    gradients: Mapping[str, np.ndarray] = field(default_factory=dict)


class Scorer(ABC):
    """A way to score units. Options are keyword arguments of the constructor; a scorer ignores those it has no use for,
    so that one recipe can name any of them."""

    name: ClassVar[str]

    def __init__(self, *, per: str = "example", seed: int = 0, **_: Any):
        self.per, self.seed = per, seed

    @abstractmethod
    def score(
        self,
        model: torch.nn.Module,
        sites: Sequence[Site],
        batches: Iterable[Batch],
        task: Any,
        *,
        progress: Progress | None = None,
    ) -> Scores:
        """Scores of every unit of `sites`. The model is left as it was.

        Args:
            batches: (inputs, targets) of torch tensors, first axis the batch.
            task: has `losses(outputs, targets) -> torch [batch]`.
        """
