"""Modules of a model by their path, with the type that a site promises."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rfx.core.plan import Site

if TYPE_CHECKING:
    import torch


def linear_at(model: torch.nn.Module, path: str) -> torch.nn.Linear:
    """The linear layer at `path`; weight [outputs, inputs]."""
    return cast("torch.nn.Linear", model.get_submodule(path))


def output_of(model: torch.nn.Module, site: Site) -> torch.nn.Linear:
    """The output projection of a site; weight [d, units * width]."""
    return linear_at(model, site.output)
