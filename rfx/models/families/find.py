"""Finds the sites of a model. Families are described as data; others are read off a forward pass,
then proved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rfx.core.errors import UnsupportedModelError
from rfx.core.plan import Kind, Site
from rfx.models.families.bert import BERT, ELECTRA, ROBERTA
from rfx.models.families.distilbert import DISTILBERT
from rfx.models.families.family import Family
from rfx.models.families.generic import generic_sites, probe_inputs, reads_ahead

if TYPE_CHECKING:
    import torch

FAMILIES: dict[str, Family] = {
    t: f for f in (BERT, ROBERTA, ELECTRA, DISTILBERT) for t in f.model_types
}

# Families whose layers look prunable and are not; the reason is what the user reads.
REFUSED: dict[str, str] = {
    "albert": "its layers share one set of weights, so units cannot be removed layer by layer",
    "mpnet": "its relative position bias has one column a head, shared by all layers, and would "
    "have to be sliced too",
    "deberta": "its disentangled attention adds position terms a head that would have to be "
    "sliced too",
    "deberta-v2": "its disentangled attention adds position terms a head that would have to be "
    "sliced too",
    "t5": "it is an encoder-decoder; rfx prunes encoders",
}


def family_name(model: torch.nn.Module) -> str:
    family = FAMILIES.get(model.config.model_type)
    return family.name if family else f"generic ({model.config.model_type})"


def _class_name(model: torch.nn.Module) -> str:
    """The model's class, or what its configuration says it is: a family may be refused before there
    is a model."""
    return (
        next(iter(getattr(model.config, "architectures", None) or ()), None) or type(model).__name__
    )


def find_sites(model: torch.nn.Module) -> list[Site]:
    """The prunable sublayers of `model` in execution order, attention before FFN in each layer.

    Raises:
        UnsupportedModelError: a family that is known not to work, or one whose layers are not
            understood.
    """
    model_type = model.config.model_type
    supported = ", ".join(sorted(FAMILIES))
    if model_type in REFUSED:
        raise UnsupportedModelError(
            f"rfx cannot prune the {model_type} family: {REFUSED[model_type]}.",
            got=_class_name(model),
            allowed=supported + ", and encoders with the same layer pattern",
            next_step="fine-tune one of these families for your task, and prune that",
        )
    if getattr(model.config, "pruned_layers", None):
        raise UnsupportedModelError(
            "This model has been pruned by rfx already; pruning starts from the dense model.",
            got=f"pruned_layers in the configuration of {_class_name(model)}",
            next_step="give the dense checkpoint that it was made from, with a lower target",
        )
    family = FAMILIES.get(model_type)
    sites = family.sites(model) if family else generic_sites(model)
    if not sites:
        raise UnsupportedModelError(
            f"rfx does not understand the layers of this {model_type} model.",
            got=type(model).__name__,
            allowed=supported
            + ", and encoders whose layers are q, k, v, output projection, and a two-linear FFN",
            next_step="fine-tune one of these families for your task, and prune that",
        )
    if not family and not reads_ahead(model, sites[-1].layer_path):
        raise UnsupportedModelError(
            "This model is a decoder: each token sees only those before it. rfx prunes encoders.",
            got=type(model).__name__,
            allowed=supported + ", and encoders with the same layer pattern",
            next_step="fine-tune one of these families for your task, and prune that",
        )
    return sites


__all__ = [
    "FAMILIES",
    "REFUSED",
    "Family",
    "Kind",
    "Site",
    "family_name",
    "find_sites",
    "generic_sites",
    "probe_inputs",
]


def layout(sites) -> str:
    """ "post-ln" where a LayerNorm of the layer follows the FFN's residual sum, "pre-ln" where none
    does."""
    ffn = next(s for s in sites if s.kind is Kind.FFN)
    return "post-ln" if ffn.norm.startswith(ffn.layer_path + ".") else "pre-ln"


def position_limit(model) -> int | None:
    """The most tokens the model takes; None where nothing limits them. RoBERTa and its kin keep the
    rows of the position table up to the padding's for themselves."""
    limit = int(getattr(model.config, "max_position_embeddings", 0) or 0)
    if not limit:
        return None
    for name, module in model.named_modules():
        if (
            name.endswith("position_embeddings")
            and getattr(module, "padding_idx", None) is not None
        ):
            return limit - module.padding_idx - 1
    return limit
