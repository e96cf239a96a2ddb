"""Modules of a model by their path, with the type that a site promises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from rfx.core.plan import Site

if TYPE_CHECKING:
    import torch


def linear_at(model: torch.nn.Module, path: str) -> torch.nn.Linear:
    """The linear layer at `path`; weight [outputs, inputs]."""
    return cast("torch.nn.Linear", model.get_submodule(path))


def output_of(model: torch.nn.Module, site: Site) -> torch.nn.Linear:
    """The output projection of a site; weight [d, units * width]."""
    return linear_at(model, site.output)


def token_embeddings(model: Any) -> torch.nn.Module | None:
    """The table of the tokens; None for a model that is not fed any, as ConvNeXt and Wav2Vec2, for
    which transformers raises instead of giving None."""
    try:
        return cast("torch.nn.Module", model.get_input_embeddings())
    except (NotImplementedError, AttributeError):
        return None
