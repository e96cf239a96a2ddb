"""Fisher information of the mask variables (Kwon et al. 2022, section 3, equations 4 to 6).

The damage of removing units is (1-m)^T I (1-m) / 2 with I = sum over examples of g g^T, g = dL/dm
at m = 1. A mask variable scales its unit's channels x of the output projection's input, so g = sum
over tokens and channels of x * dL/dx: the gradient that reaches x in one backward pass gives every
example's g, with no mask in the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.core.errors import UsageError
from rfx.core.inputs import Batch
from rfx.core.plan import Site
from rfx.core.progress import Progress
from rfx.core.registry import register
from rfx.methods.finite import require_finite
from rfx.methods.scores.base import Scores
from rfx.methods.scores.passes import GradientScorer, Tap
from rfx.methods.scores.predictive import Signs, fisher_probe

if TYPE_CHECKING:
    import torch


@register("scorer", "fisher")
class Fisher(GradientScorer["_Rows"]):
    """Diagonal importance sum g^2 (float64) and the rows g (float32 [samples, units]) by site.

    Args:
        per: "example" squares each example's gradient, as the paper's equation does; "batch"
            squares the mean gradient of each batch as it comes, as the paper's code does (one row a
            batch).
        loss: "label" is the task's loss; "predictive" takes the Fisher information of the model's
            own predictions, for data without labels.
        seed: of the random signs of the predictive form.
        tokens_per_pass: larger batches are split for the backward pass; the scores do not depend on
            it.
    """

    name = "fisher"
    has_gradients = True
    uses_labels = True

    def __init__(
        self,
        *,
        per: str = "example",
        loss: str = "label",
        seed: int = 0,
        tokens_per_pass: int | None = None,
        **_: Any,
    ):
        super().__init__(per=per, seed=seed, tokens_per_pass=tokens_per_pass)
        for value, allowed, what, key in (
            (per, ("example", "batch"), "gradient form", "gradients"),
            (loss, ("label", "predictive"), "loss", "scorer_options.loss"),
        ):
            if value not in allowed:
                raise UsageError(
                    f"There is no such Fisher {what}.",
                    got=value,
                    allowed=", ".join(allowed),
                    next_step=f"correct method.{key}",
                )
        self.loss = loss

    @classmethod
    def without_labels(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """The Fisher information of the model's own predictions needs no labels."""
        if options.get("loss") == "label":
            raise UsageError(
                "The Fisher information of the labels' loss needs labels.",
                got="calibration examples without any",
                allowed="loss: predictive, which needs none",
                next_step="leave method.scorer_options.loss out, or give a labelled --train",
            )
        return {**options, "loss": "predictive"}

    def tap(self, model: torch.nn.Module, sites: Sequence[Site]) -> _Rows:
        return _Rows(model, sites, self.per)

    def scalars(
        self,
        outputs: Any,
        inputs: Mapping[str, torch.Tensor],
        beside: Mapping[str, torch.Tensor],
        task: Any,
        signs: Signs,
    ) -> torch.Tensor:
        if self.loss == "label":
            return task.losses(outputs, beside)
        return fisher_probe(outputs, inputs, task.output_names, signs)

    def beside(
        self, number: int, targets: Mapping[str, torch.Tensor]
    ) -> Mapping[str, torch.Tensor]:
        return targets if self.loss == "label" else {}

    def conclude(
        self,
        model: torch.nn.Module,
        tap: _Rows,
        batches: Iterable[Batch],
        task: Any,
        progress: Progress,
    ) -> Scores:
        import torch

        importance, gradients = {}, {}
        for site in tap.sites:
            g = np.concatenate(tap.rows.pop(site.name)).astype(np.float32)  # [samples, units]
            squares = np.einsum("bu,bu->u", g, g, dtype=np.float64)
            require_finite(site.name, "gradients", torch.from_numpy(squares))
            importance[site.name], gradients[site.name] = squares, g
        return Scores(importance, gradients)


class _Rows(Tap):
    """For every site g [samples, units] = sum over tokens and channels of x * dL/dx: a row an
    example, or their mean over each batch."""

    def __init__(self, model: torch.nn.Module, sites: Sequence[Site], per: str):
        super().__init__(model, sites)
        self.per = per
        self.rows: dict[str, list[np.ndarray]] = {s.name: [] for s in sites}
        self._pass: dict[str, torch.Tensor] = {}  # of the pass under way
        # Of the passes that ended.
        self._batch: dict[str, list[torch.Tensor]] = {s.name: [] for s in sites}

    def add(self, site: Site, x: torch.Tensor, gradient: torch.Tensor) -> None:
        import torch

        total = torch.float64 if gradient.dtype is torch.float64 else torch.float32
        g = (x * gradient).sum(dim=1, dtype=total)  # [B, units * width]
        if site.width > 1:
            g = g.view(len(g), site.units, site.width).sum(dim=2)  # [B, units]
        before = self._pass.get(site.name)
        self._pass[site.name] = g if before is None else before + g  # a layer may run in chunks

    def end_pass(self) -> None:
        for name, g in self._pass.items():
            self._batch[name].append(g)
        self._pass = {}

    def end_batch(self) -> None:
        import torch

        for name, parts in self._batch.items():
            g = torch.cat(parts)  # [B, units]
            self.rows[name].append(
                (g if self.per == "example" else g.mean(0, keepdim=True)).cpu().numpy()
            )
            parts.clear()
