"""No compensation: the kept units stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rfx.core.inputs import Batch
from rfx.core.plan import Site, Update
from rfx.core.progress import Progress
from rfx.core.registry import register
from rfx.methods.compensate.base import Compensated, Compensator, Masks, given_masks
from rfx.methods.compensate.walk import Decide

if TYPE_CHECKING:
    import torch


@register("compensation", "none")
class NoCompensation(Compensator):
    name = "none"

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
        return Compensated(Update(), dict(given_masks(masks, self.name)))
