"""Magnitude: the squared norm of a unit's weights in the output projection. A control that needs no
data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rfx.core.inputs import Batch
from rfx.core.plan import Site
from rfx.core.progress import Progress
from rfx.core.registry import register
from rfx.methods.scores.base import Scorer, Scores
from rfx.models.modules import output_of

if TYPE_CHECKING:
    import torch


@register("scorer", "magnitude")
class Magnitude(Scorer):
    """Sum of squares of the weights that read the unit's channels: what its removal takes out of
    the projection."""

    name = "magnitude"

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
        importance = {}
        for site in sites:
            weight = output_of(model, site).weight.detach().double()  # [d, units * width]
            importance[site.name] = (
                weight.square().sum(0).view(site.units, site.width).sum(1).cpu().numpy()
            )
        return Scores(importance)
