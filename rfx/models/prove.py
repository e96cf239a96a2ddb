"""Proves on the model itself that its sites are what they seem: mask units, remove them,
compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rfx.core.errors import UnsupportedModelError, UsageError, first_line, is_interrupt
from rfx.core.inputs import InputSpec
from rfx.core.plan import Kind, Plan, Site
from rfx.models.families.example import evaluating, examples
from rfx.models.families.taint import tensors
from rfx.models.masks import MaskTap, plan_masks

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

TOLERANCE = 1e-4  # of the outputs' scale; a wrong anatomy differs by orders of magnitude more
NO_EFFECT = "masking half of its units changes nothing"


def prove(model: PreTrainedModel, sites: Sequence[Site], inputs: InputSpec | None = None) -> float:
    """Largest difference between masked and shrunk outputs, relative to the outputs' scale.

    Args:
        inputs: what the model is fed; None: text.

    Raises:
        UsageError: the model is a constant.
        UnsupportedModelError: they differ, or the mask has no effect.
    """
    with evaluating(model):
        error, why = Proof(model, examples(model, inputs))(sites)
    if why:
        raise UnsupportedModelError(
            f"rfx cannot prove that {type(model).__name__} can be pruned: {why}.",
            got=f"model type {model.config.model_type}",
            allowed="sites that can be masked and removed with the same result",
            next_step="look at what can be pruned with `rfx sites`",
        )
    return error


class Proof:
    """What proofs of one model share: its outputs on two examples.

    Args:
        model: in eval mode.
        fed: tensors [2, ...], by input.

    Raises:
        UsageError: the model is a constant.
        UnsupportedModelError: its outputs are not finite.
    """

    def __init__(self, model: nn.Module, fed: Mapping[str, torch.Tensor]) -> None:
        import torch

        self.model, self.fed = model, dict(fed)
        parts = self._parts(model)
        self.dense = torch.cat([t.flatten() for t in parts])
        if not bool(torch.isfinite(self.dense).all()):
            raise UnsupportedModelError(
                f"rfx cannot prune {type(model).__name__}: its outputs are not finite numbers.",
                got="outputs that are not finite for two texts of random tokens",
                allowed="a model whose outputs are finite",
                next_step="look whether the weights are those that were trained",
            )
        if all(bool((t == t[:1]).all()) for t in parts if t.dim() and len(t) > 1):
            raise UsageError(
                "This model is a constant: it gives the same output whatever it is fed.",
                got=f"{type(model).__name__}: the same outputs for two inputs that differ",
                allowed="a model whose head was trained",
                next_step="look whether the weights of the head are all zero",
            )
        self.scale = float(self.dense.abs().max()) + 1e-12

    def _parts(self, model: nn.Module) -> list[torch.Tensor]:
        import torch

        with torch.no_grad():
            return list(tensors(model(**self.fed)))

    def _outputs(self, model: nn.Module) -> torch.Tensor:
        import torch

        return torch.cat([t.flatten() for t in self._parts(model)])

    def __call__(self, sites: Sequence[Site]) -> tuple[float, str]:
        """Mask every second unit of the sites, then all units of one attention and one FFN; shrink
        likewise; compare.

        Returns:
            The largest difference, relative to the outputs' scale, and why the sites are not what
            they seem: empty where they are.
        """
        import torch

        from rfx.models.shrink import shrink

        worst = 0.0
        for kept in _plans(sites):
            plan = Plan.of(sites, kept)
            masks = {k: v.to(self.dense.device) for k, v in plan_masks(plan).items()}
            with MaskTap(self.model, sites, masks):
                masked = self._outputs(self.model)
            if torch.equal(masked, self.dense):
                return worst, NO_EFFECT
            try:
                small = self._outputs(shrink(self.model, sites, plan))
            except Exception as error:
                # A model that was cut wrongly fails in any way that its code fails in.
                if is_interrupt(error):
                    raise
                return float("inf"), f"the shrunk model does not run ({first_line(error)})"
            if small.shape != masked.shape:
                return float("inf"), "the shrunk model gives outputs of another shape"
            worst = max(worst, float((masked - small).abs().max()) / self.scale)
        if not worst <= TOLERANCE:
            return worst, (
                f"the shrunk model differs from the masked one by {worst:.2g} of the outputs' scale"
            )
        return worst, ""


def _plans(sites: Sequence[Site]) -> Iterator[dict[str, range]]:
    yield {s.name: range(0, s.units, 2) for s in sites}
    empties = {s.name: range(s.units) for s in sites}
    for kind in Kind:
        names = [s.name for s in sites if s.kind is kind]
        if names:
            # The first attention and the last FFN: two layers, so that neither hides the other.
            empties[names[0 if kind is Kind.MHA else -1]] = range(0)
    yield empties
