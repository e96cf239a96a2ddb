"""What a compensation is given and what it gives back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rfx.core.errors import UsageError
from rfx.core.inputs import Batch
from rfx.core.plan import Site, Update
from rfx.core.progress import Progress
from rfx.methods.compensate.walk import Decide, SiteRecord

if TYPE_CHECKING:
    import torch

Masks = Mapping[str, np.ndarray]  # 0/1 by site name, [units]


@dataclass(frozen=True)
class Compensated:
    """The `update` of the masks that were asked for or decided on the way, and a record of every
    site."""

    update: Update
    masks: Masks
    sites: tuple[SiteRecord, ...] = ()


def given_masks(masks: Masks | Decide, compensation: str) -> Masks:
    """The masks, for a compensation that needs all of them before it begins.

    Raises:
        UsageError: they would be decided on the way.
    """
    if callable(masks):
        raise UsageError(
            f"The compensation {compensation!r} needs all masks before it begins.",
            got="a function that decides them on the way",
            next_step="correct method.compensate or method.schedule",
        )
    return masks


class Compensator(ABC):
    """A way for kept units to make up for those that went. Options are keyword arguments of the
    constructor; one that a compensator has no use for is ignored, so that one recipe can name any
    of them."""

    name: ClassVar[str]
    verb: ClassVar[str] = ""  # the stage's name; "" where there is nothing to do
    on_the_way: ClassVar[bool] = (
        False  # whether the masks may be decided site by site (a function in place of masks)
    )

    def __init__(self, **_: Any):  # noqa: B027 - options are the subclasses'
        pass

    @abstractmethod
    def fit(
        self,
        model: torch.nn.Module,
        sites: Sequence[Site],
        masks: Masks | Decide,
        batches: Iterable[Batch],
        *,
        head_positions: str = "all",
        token_weights: Mapping[str, np.ndarray] | None = None,
        teacher_masks: Callable[[], Masks] | None = None,
        progress: Progress | None = None,
    ) -> Compensated:
        """Fit to the dense `model`, which is left as it was.

        Args:
            masks: 0/1 by site name; where `on_the_way`, a function that decides each site's when
                its turn comes (see `Walk`).
            head_positions, token_weights: see `rfx.methods.compensate.walk.Walk`.
            teacher_masks: the teacher of Kwon et al.'s reference code.
        """
