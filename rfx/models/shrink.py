"""Physically removes what a plan prunes: rows of q, k, v and the first FFN linear, columns of the
output projections.

An emptied sublayer becomes its constant: the output projection of nothing is its bias. The residual
and the LayerNorm around it stay.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from rfx.core.plan import Counts, Kind, Plan, Site, Update
from rfx.models.modules import linear_at, output_of


class ConstantBias(nn.Module):
    """The output projection of a sublayer with no units: its bias, whatever comes in."""

    def __init__(
        self,
        features: int,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.in_features, self.out_features = 0, features
        self.bias = nn.Parameter(torch.zeros(features, device=device, dtype=dtype))  # [d]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # [1, 1, d]: the residual's addition broadcasts it.
        return self.bias.view(*[1] * (x.dim() - 1), -1)


class EmptyRows(nn.Module):
    """A Linear with no outputs: [B, T, d] -> [B, T, 0]."""

    def __init__(self) -> None:
        super().__init__()
        self.out_features = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[..., :0]


class EmptyAttention(nn.Module):
    """An attention block with no heads. `returns` as in `Site`; `projection` where the block holds
    its own."""

    def __init__(
        self,
        returns: int,
        projection: str | None = None,
        features: int = 0,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.returns, self.projection = returns, projection
        if projection:
            self.add_module(projection, ConstantBias(features, device, dtype))

    def forward(
        self, hidden_states: torch.Tensor, *_args: object, **_kwargs: object
    ) -> torch.Tensor | tuple[torch.Tensor | None, ...]:
        x = hidden_states[..., :0]  # [B, T, 0]
        if self.projection:
            x = getattr(self, self.projection)(x)
        return x if self.returns == 0 else (x,) + (None,) * (self.returns - 1)


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _linear(like: nn.Linear, inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(
        inputs,
        outputs,
        bias=like.bias is not None,
        device=like.weight.device,
        dtype=like.weight.dtype,
    )


@dataclass(frozen=True)
class Slicing:
    """How the modules of one kind of site take fewer units, beside the rows and columns of their
    linear layers.

    Args:
        empty: makes a sublayer without units: (model, site). The output projection then gives its
            bias alone; this function has to see to that where the projection lies inside of what it
            replaces.
        resized: tells the modules around the linear layers how many units are left: (model, site,
            units).
        free: whether a part of the units can be computed by slicing the linear layers alone.
    """

    empty: Callable[[nn.Module, Site], None]
    resized: Callable[[nn.Module, Site, int], None]
    free: bool


def _constant(model: nn.Module, site: Site) -> None:
    """The output projection becomes its bias."""
    out = output_of(model, site)
    bias = ConstantBias(out.out_features, out.weight.device, out.weight.dtype)
    _replace(model, site.output, bias)


def _empty_attention(model: nn.Module, site: Site) -> None:
    out = output_of(model, site)
    inside = site.output.startswith(site.block + ".")
    projection = site.output.removeprefix(site.block + ".") if inside else None
    empty = EmptyAttention(
        site.returns, projection, out.out_features, out.weight.device, out.weight.dtype
    )
    _replace(model, site.block, empty)
    if not inside:
        _constant(model, site)


def _resized_attention(model: nn.Module, site: Site, units: int) -> None:
    """Forward passes shape by view(..., -1, head_dim); these are for whoever reads the module."""
    block = model.get_submodule(site.block)
    sizes = {"num_attention_heads": units, "num_heads": units, "n_heads": units}
    for name, value in (*sizes.items(), ("all_head_size", units * site.width)):
        if hasattr(block, name):
            setattr(block, name, value)


def _empty_ffn(model: nn.Module, site: Site) -> None:
    _replace(model, site.inputs[0], EmptyRows())
    _constant(model, site)


def _nothing_to_tell(model: nn.Module, site: Site, units: int) -> None:
    """The sizes of its linear layers are all that an FFN has."""


SLICING = {
    Kind.MHA: Slicing(_empty_attention, _resized_attention, free=False),
    Kind.FFN: Slicing(_empty_ffn, _nothing_to_tell, free=True),
}


def resize(model: nn.Module, sites: Sequence[Site], counts: Counts) -> None:
    """Give the modules of `sites` the shapes of `counts`, in place, with weights that mean nothing
    yet.

    Works on the meta device too: this is how a shrunk checkpoint is laid out before its weights are
    read.
    """
    for site in sites:
        kept = counts[site.name]
        if kept == site.units:
            continue
        if kept == 0:
            SLICING[site.kind].empty(model, site)
            continue
        for path in site.inputs:
            like = linear_at(model, path)
            _replace(model, path, _linear(like, like.in_features, kept * site.width))
        out = output_of(model, site)
        _replace(model, site.output, _linear(out, kept * site.width, out.out_features))
        SLICING[site.kind].resized(model, site, kept)


@torch.no_grad()
def shrink(
    model: nn.Module, sites: Sequence[Site], plan: Plan, update: Update | None = None
) -> nn.Module:
    """A smaller copy of `model` with `update` baked in: its logits equal those of the masked model.

    Baking is exact: a unit's scale multiplies its columns of the output projection (W_O[:, unit] *=
    m_unit).

    Args:
        sites: all sites of `model`, as `find_sites` gave them.
        plan: the units to keep.
        update: scales, or new weights and biases of output projections.

    Examples:
        >>> small = rfx.shrink(subject.model, subject.sites, plan)
    """
    update = update or Update()
    small = copy.deepcopy(model)
    resize(small, sites, plan.counts)
    for site in sites:
        kept = list(plan[site.name].kept)
        channels = torch.tensor(site.channels_of(kept), dtype=torch.long)
        out, new_out = output_of(model, site), output_of(small, site)
        channels = channels.to(out.weight.device)
        if kept:
            for path in site.inputs:
                old, new = linear_at(model, path), linear_at(small, path)
                new.weight.copy_(old.weight[channels])
                if old.bias is not None:
                    new.bias.copy_(old.bias[channels])
            new_out.weight.copy_(output_weight(site, out, kept, channels, update))
        if new_out.bias is not None:
            bias: torch.Tensor = (
                out.bias if out.bias is not None else torch.zeros_like(new_out.bias)
            )
            if site.name in update.biases:
                bias = torch.as_tensor(update.biases[site.name]).to(new_out.bias)
            new_out.bias.copy_(bias)
    for parameter in small.parameters():
        parameter.requires_grad_(True)
    return small.eval()


def output_weight(
    site: Site, out: nn.Linear, kept: list[int], channels: torch.Tensor, update: Update
) -> torch.Tensor:
    """The output projection's columns of the kept units with the update in place, [d, kept
    channels]."""
    if site.name in update.weights:
        return torch.as_tensor(update.weights[site.name]).to(out.weight)  # [d, kept channels]
    weight = out.weight[:, channels]
    if site.name in update.scales:
        scale = torch.as_tensor(update.scales[site.name], dtype=torch.float64)[
            kept
        ].repeat_interleave(site.width)
        weight = (weight.double() * scale.to(weight.device)).to(out.weight.dtype)
    return weight


def parameter_count(model: nn.Module) -> int:
    """Parameters of the model, shared ones once."""
    return sum(p.numel() for p in model.parameters())
