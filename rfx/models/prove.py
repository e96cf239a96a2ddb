"""Proves on the model itself that its sites are what they seem: mask units, remove them,
compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rfx.core.errors import UnsupportedModelError, UsageError, first_line
from rfx.core.inputs import BATCH, InputSpec
from rfx.core.plan import Kind, Plan, Site
from rfx.core.workload import Workload
from rfx.models.families.generic import probe_inputs
from rfx.models.masks import MaskTap, plan_masks

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput

TOLERANCE = 1e-3  # of the logits' scale; a wrong anatomy differs by orders of magnitude more


def prove(model: PreTrainedModel, sites: Sequence[Site], inputs: InputSpec | None = None) -> float:
    """Largest difference between masked and shrunk outputs, relative to the outputs' scale.

    Two plans are tried: every second unit of every site, and one emptied attention with one emptied
    FFN.

    Args:
        inputs: what the model is fed; None: text.

    Raises:
        UsageError: the model is a constant.
        UnsupportedModelError: they differ, or the mask has no effect.
    """
    import torch

    from rfx.models.shrink import shrink

    fed = probe_inputs(model) if inputs is None else _examples(model, inputs)
    halves = {s.name: range(0, s.units, 2) for s in sites}
    empties = {s.name: range(s.units) for s in sites}
    for kind in Kind:
        names = [s.name for s in sites if s.kind is kind]
        if names:
            # The first attention and the last FFN: two layers, so that neither hides the other.
            empties[names[0 if kind is Kind.MHA else -1]] = range(0)

    def outputs(module: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([t.flatten() for t in _tensors(module(**fed))])

    worst = 0.0
    was_training = model.training
    model.eval()
    try:
        dense = outputs(model)
        if not bool(torch.isfinite(dense).all()):
            raise _refusal(model, "its outputs are not finite numbers")
        with torch.no_grad():
            if all(bool((t == t[:1]).all()) for t in _tensors(model(**fed)) if len(t) > 1):
                raise UsageError(
                    "This model is a constant: it gives the same output whatever it is fed.",
                    got=f"{type(model).__name__}: the same outputs for two inputs that differ",
                    allowed="a model whose head was trained",
                    next_step="look whether the weights of the head are all zero",
                )
        scale = float(dense.abs().max()) + 1e-12
        for kept in (halves, empties):
            plan = Plan.of(sites, kept)
            with MaskTap(
                model, sites, {k: v.to(dense.device) for k, v in plan_masks(plan).items()}
            ):
                masked = outputs(model)
            if torch.equal(masked, dense):
                raise _refusal(model, "masking half of its units changes nothing")
            try:
                small = outputs(shrink(model, sites, plan))
            except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
                raise _refusal(
                    model, f"the shrunk model does not run ({first_line(error)})"
                ) from None
            worst = max(worst, float((masked - small).abs().max()) / scale)
    finally:
        model.train(was_training)
    if not worst <= TOLERANCE:
        raise _refusal(
            model,
            f"the shrunk model differs from the masked one by {worst:.2g} of the outputs' scale",
        )
    return worst


def _examples(model: PreTrainedModel, inputs: InputSpec) -> dict[str, torch.Tensor]:
    """Two examples, eight long on every axis that is free."""
    import torch

    sizes = {axis: 8 for axis in inputs.dynamic_axes if axis != BATCH}
    arrays = inputs.example(Workload(batch=2, axes=sizes))
    device = next(model.parameters()).device
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def _tensors(output: ModelOutput) -> list[torch.Tensor]:
    import torch

    return [v for v in output.to_tuple() if isinstance(v, torch.Tensor)]


def _refusal(model: PreTrainedModel, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"rfx cannot prove that {type(model).__name__} can be pruned: {reason}.",
        got=f"model type {model.config.model_type}",
        allowed="bert, roberta, electra, distilbert, and encoders with the same layer pattern",
        next_step="fine-tune one of these families for your task, and prune that",
    )
