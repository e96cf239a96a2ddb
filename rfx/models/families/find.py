"""Finds the sites of a model: the registered families are asked first; the models of others are
read off a forward pass, then proved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rfx.core import registry
from rfx.core.errors import UnsupportedModelError, UsageError
from rfx.core.plan import Kind, Site
from rfx.models.families.family import Finder
from rfx.models.families.generic import generic_sites, reads_ahead

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# Families whose layers look prunable and are not; the reason is what the user reads.
REFUSED: dict[str, str] = {
    "albert": "its layers share one set of weights, so units cannot be removed layer by layer",
    "mpnet": "its relative position bias has one column a head, shared by all layers, and would "
    "have to be sliced too",
    "deberta": "its disentangled attention adds position terms a head that would have to be "
    "sliced too",
    "deberta-v2": "its disentangled attention adds position terms a head that would have to be "
    "sliced too",
    "xlnet": "its attention multiplies by whole tensors for relative positions, without a linear "
    "layer for each of query, key and value",
    "t5": "it is an encoder-decoder; rfx prunes encoders",
}

DECODER = "This model is a decoder: each token sees only those before it. rfx prunes encoders."


def families() -> dict[str, Finder]:
    """The registered families, by the model types that they are for.

    Raises:
        UsageError: two families are for one model type.
        EnvironmentMissingError: a plug-in that brings one cannot be imported.
    """
    found: dict[str, Finder] = {}
    for name in registry.names("family"):
        family: Finder = registry.find("family", name)()
        for model_type in family.model_types:
            if model_type in found:
                raise UsageError(
                    f"Two families are for the model type {model_type!r}.",
                    got=f"{found[model_type].name}, {family.name}",
                    allowed="one family for each model type",
                    next_step="uninstall the plug-in that brings one of them; `rfx env` lists them",
                )
            found[model_type] = family
    return found


def family_name(model: PreTrainedModel) -> str:
    """The family of a model, or "generic" with its model type where no family is for it."""
    family = families().get(model.config.model_type)
    return family.name if family else f"generic ({model.config.model_type})"


def refuse_family(config: PretrainedConfig, class_name: str = "") -> None:
    """Refuse a family that is known not to work by its configuration: its weights need not be read.

    Args:
        class_name: of the model, where there is one and its configuration does not say it.

    Raises:
        UnsupportedModelError: the family is refused or decodes, or rfx has pruned the model.
    """
    model_type = config.model_type
    named = next(iter(getattr(config, "architectures", None) or ()), None) or class_name
    encoders = ", ".join(sorted(families())) + ", and encoders with the same layer pattern"
    advice = "fine-tune one of these families for your task, and prune that"
    if model_type in REFUSED:
        raise UnsupportedModelError(
            f"rfx cannot prune the {model_type} family: {REFUSED[model_type]}.",
            got=named or model_type,
            allowed=encoders,
            next_step=advice,
        )
    if getattr(config, "pruned_layers", None):
        raise UnsupportedModelError(
            "This model has been pruned by rfx already; pruning starts from the dense model.",
            got=f"pruned_layers in the configuration of {named or model_type}",
            next_step="give the dense checkpoint that it was made from, with a lower target",
        )
    if _decodes(config):
        raise UnsupportedModelError(
            DECODER, got=named or model_type, allowed=encoders, next_step=advice
        )


def _decodes(config: PretrainedConfig) -> bool:
    """Whether transformers knows the model type for predicting the next token alone."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL,
    )
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED,
    )

    if getattr(config, "use_bidirectional_attention", False):
        return False
    return config.model_type in CAUSAL and config.model_type not in MASKED


def find_sites(model: PreTrainedModel) -> list[Site]:
    """The prunable sublayers of `model` in execution order, attention before FFN in each layer.

    Raises:
        UnsupportedModelError: a family that is known not to work, or one whose layers are not
            understood.

    Examples:
        >>> sites = rfx.find_sites(subject.model)
        >>> sites[0].name, sites[0].units
        ('layer.0.mha', 12)
    """
    refuse_family(model.config, type(model).__name__)
    model_type = model.config.model_type
    known = families()
    supported = ", ".join(sorted(known))
    family = known.get(model_type)
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
            DECODER,
            got=type(model).__name__,
            allowed=supported + ", and encoders with the same layer pattern",
            next_step="fine-tune one of these families for your task, and prune that",
        )
    return sites


def layout(sites: Sequence[Site]) -> str:
    """Whether the LayerNorms stand behind the residual sums or before the sublayers.

    Returns:
        "post-ln" where a LayerNorm of the layer follows the residual sum of its last sublayer (the
        FFN, where there is one), "pre-ln" where none does.
    """
    last = next((s for s in sites if s.kind is Kind.FFN), sites[-1])
    return "post-ln" if last.norm.startswith(last.layer_path + ".") else "pre-ln"


def position_limit(model: PreTrainedModel) -> int | None:
    """The most tokens the model takes; None where nothing limits them. RoBERTa and its kin keep the
    rows of the position table up to the padding's for themselves."""
    limit = int(getattr(model.config, "max_position_embeddings", 0) or 0)
    if limit <= 0:  # XLNet says -1
        return None
    for name, module in model.named_modules():
        if (
            name.endswith("position_embeddings")
            and getattr(module, "padding_idx", None) is not None
        ):
            return limit - module.padding_idx - 1
    return limit
