"""Random scores: the control that every method has to beat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.core.inputs import Batch
from rfx.core.plan import Site
from rfx.core.progress import Progress
from rfx.core.registry import register
from rfx.methods.scores.base import Scorer, Scores

if TYPE_CHECKING:
    import torch


@register("scorer", "random")
class Random(Scorer):
    """Uniform in (0, 1], the same for the same seed and sites."""

    name = "random"

    def score(
        self,
        model: torch.nn.Module,
        sites: Sequence[Site],
        batches: Iterable[Batch] = (),
        task: Any = None,
        *,
        progress: Progress | None = None,
        resumed: Any = None,
    ) -> Scores:
        """See `Scorer.score`; `batches` are not read."""
        rng = np.random.default_rng(self.seed)
        return Scores({site.name: 1.0 - rng.random(site.units) for site in sites})
