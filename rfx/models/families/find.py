"""Finds the sites of a model: families that a plug-in registers are asked first; all others are
found by what they compute. What is found is proved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rfx.core import registry
from rfx.core.errors import (
    UnsupportedModelError,
    UsageError,
    UserError,
    first_line,
    is_interrupt,
)
from rfx.core.inputs import InputSpec
from rfx.core.plan import Kind, Site
from rfx.models.canonical import canonical
from rfx.models.families.example import evaluating, examples, first_of
from rfx.models.families.family import Finder
from rfx.models.families.probe import Refused, products
from rfx.models.families.sites import LEVELS, as_formula, constants, found_sites
from rfx.models.families.taint import Taint
from rfx.models.prove import Proof

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


MOST_NAMED = 4  # of the modules that are left alone for one reason


@dataclass(frozen=True)
class Inspection:
    """What rfx sees of a model.

    Args:
        sites: the prunable sublayers, in the order in which they are computed; proved together.
        refused: dense modules between others that are left alone, and why.
        macs: multiply-accumulates of every dense module for one example of the probe.
        error: the largest difference between the masked and the shrunk model, relative to the scale
            of the outputs.
        rows: examples that were run to find the sites.
    """

    sites: tuple[Site, ...]
    refused: tuple[Refused, ...]
    macs: Mapping[str, int]
    error: float
    rows: int


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
    """The family of a model; its model type where no family is registered for it."""
    family = families().get(model.config.model_type)
    return family.name if family else str(model.config.model_type)


def refuse_family(config: PretrainedConfig, class_name: str = "") -> None:
    """Refuse a model by its configuration: its weights need not be read.

    Args:
        class_name: of the model, where there is one and its configuration does not say it.

    Raises:
        UnsupportedModelError: an encoder-decoder, or rfx has pruned the model.
    """
    named = next(iter(getattr(config, "architectures", None) or ()), None) or class_name
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"This {config.model_type} model is an encoder-decoder; rfx prunes encoders, and "
            "decoders with a classification head.",
            got=named or config.model_type,
            allowed="a model of one stack of layers",
            next_step="fine-tune one of these for your task, and prune that",
        )
    if getattr(config, "pruned_layers", None):
        raise UnsupportedModelError(
            "This model has been pruned by rfx already; pruning starts from the dense model.",
            got=f"pruned_layers in the configuration of {named or config.model_type}",
            next_step="give the dense checkpoint that it was made from, with a lower target",
        )


def find_sites(model: PreTrainedModel) -> list[Site]:
    """The prunable sublayers of `model` in the order in which they are computed.

    Raises:
        UnsupportedModelError: nothing can be pruned; the message says why, module by module.
        UsageError: the model is a constant.

    Examples:
        >>> sites = rfx.find_sites(subject.model)
        >>> sites[0].name, sites[0].units
        ('layer.0.mha', 12)
    """
    return list(inspect_model(model).sites)


def inspect_model(model: PreTrainedModel, inputs: InputSpec | None = None) -> Inspection:
    """Find the sites of a model and prove them: all together, or where that fails each by itself.

    Args:
        inputs: what the model is fed; None: text.

    Raises:
        UnsupportedModelError: nothing can be pruned; the message says why, module by module.
        UsageError: the model is a constant.
    """
    refuse_family(model.config, type(model).__name__)
    canonical(model)
    fed = examples(model, inputs)
    with evaluating(model), as_formula(model):
        proof = _proof(model, fed)
        family = families().get(model.config.model_type)
        refused: list[Refused] = []
        findings = None
        if family is not None:
            sites = family.sites(model)
        else:
            sites, refused, findings = found_sites(model, first_of(fed))
        macs = findings.macs if findings else products(Taint(model, first_of(fed)))
        layers = {s.layer_path for s in sites}
        error, sites, more = _proved(model, proof, sites)
        refused = [*refused, *more]
        if {s.layer_path for s in sites} != layers:
            # A layer without a site: they are no chain any more that could be run site by site.
            sites = [replace(s, layer_path="") for s in sites]
    if not sites:
        raise UnsupportedModelError(
            f"rfx finds nothing that it can prune in this {model.config.model_type} model.",
            got=_reasons(refused)
            or f"{type(model).__name__}, in which no dense module is fed by another one alone",
            allowed="a model with blocks whose inner channels nothing else reads",
            next_step="fine-tune a model of another family for your task, and prune that",
        )
    rows = findings.rows if findings else 0
    return Inspection(tuple(sites), tuple(refused), macs, error, rows)


def _reasons(refused: Sequence[Refused]) -> str:
    """Why modules are left alone, those of one reason together."""
    by_reason: dict[str, list[str]] = {}
    for one in refused:
        by_reason.setdefault(one.reason, []).append(one.path)
    said = []
    for reason, paths in by_reason.items():
        more = f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else ""
        said.append(f"{', '.join(paths[:MOST_NAMED])}{more}: {reason}")
    return "; ".join(said)


def _proof(model: PreTrainedModel, fed: Mapping[str, torch.Tensor]) -> Proof:
    """Raises UnsupportedModelError for a model that does not run on two texts."""
    try:
        return Proof(model, fed)
    except UserError:
        raise
    except Exception as error:
        # Whatever it was, it is the model's own code that raised it.
        if is_interrupt(error) or isinstance(error, MemoryError):
            raise
        raise UnsupportedModelError(
            f"{type(model).__name__} does not run on two texts of eight tokens.",
            got=first_line(error),
            allowed="a model that transformers runs on input_ids and attention_mask",
            next_step="run it so with transformers, and look at what it says",
        ) from None


def _told(model: PreTrainedModel, site: Site, level: int) -> Site:
    """The site with the numbers that modules have to be told; what describes a family may say them
    itself."""
    return site if site.constants else replace(site, constants=constants(model, site, level))


def _proved(
    model: PreTrainedModel, proof: Proof, sites: list[Site]
) -> tuple[float, list[Site], list[Refused]]:
    """The sites that are what they seem, told what they have to be; and the others."""
    refused: list[Refused] = []
    if not sites:
        return 0.0, [], refused
    for level in LEVELS:
        told = [_told(model, s, level) for s in sites]
        error, why = proof(told)
        if not why:
            return error, told, refused
    left = []
    for site in sites:
        reasons = []
        for level in LEVELS:
            told_one = _told(model, site, level)
            error, why = proof([told_one])
            if not why:
                left.append(told_one)
                break
            reasons.append(why)
        else:
            refused.append(Refused(site.output, reasons[0]))
    error, why = proof(left) if left else (0.0, "")
    if why:
        refused += [Refused(s.output, f"not together with the others: {why}") for s in left]
        left = []
    return error, left, refused


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
