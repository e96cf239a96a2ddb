"""A scorer: the absolute weights that read a unit, summed up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rfx.core.inputs import Batch
from rfx.core.plan import Site
from rfx.core.progress import Progress
from rfx.core.registry import register
from rfx.methods.scores.base import Scorer, Scores

if TYPE_CHECKING:
    import torch


@register("scorer", "example-weights")
class Weights(Scorer):
    """Sum of the absolute weights of the output projection that read the unit's channels."""

    name = "example-weights"

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
            weight = model.get_submodule(site.output).weight.detach().double()  # [d, units * width]
            sums = weight.abs().sum(0).view(site.units, site.width).sum(1)
            importance[site.name] = sums.cpu().numpy()
        return Scores(importance)
