"""Physically removes what a plan prunes: rows of q, k, v and the first FFN linear, columns of the
output projections.

An emptied sublayer becomes its constant: the output projection of nothing is its bias. The residual
and the LayerNorm around it stay.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from rfx.core.plan import Counts, Kind, Plan, Site, Update


class ConstantBias(nn.Module):
    """The output projection of a sublayer with no units: its bias, whatever comes in."""

    def __init__(self, features: int, device=None, dtype=None):
        super().__init__()
        self.in_features, self.out_features = 0, features
        self.bias = nn.Parameter(torch.zeros(features, device=device, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bias.view(
            *[1] * (x.dim() - 1), -1
        )  # [1, 1, d]: the residual's addition broadcasts it


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
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.returns, self.projection = returns, projection
        if projection:
            self.add_module(projection, ConstantBias(features, device, dtype))

    def forward(self, hidden_states: torch.Tensor, *_args, **_kwargs):
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
        out = model.get_submodule(site.output)
        d, device, dtype = out.out_features, out.weight.device, out.weight.dtype
        if kept == 0:
            inside = site.kind is Kind.MHA and site.output.startswith(site.block + ".")
            if site.kind is Kind.MHA:
                projection = site.output.removeprefix(site.block + ".") if inside else None
                _replace(
                    model, site.block, EmptyAttention(site.returns, projection, d, device, dtype)
                )
            else:
                _replace(model, site.inputs[0], EmptyRows())
            if not inside:
                _replace(model, site.output, ConstantBias(d, device, dtype))
            continue
        for path in site.inputs:
            like = model.get_submodule(path)
            _replace(model, path, _linear(like, like.in_features, kept * site.width))
        _replace(model, site.output, _linear(out, kept * site.width, d))
        if site.kind is Kind.MHA:
            # Forward passes shape by view(..., -1, head_dim); these are for whoever reads the
            # module.
            block = model.get_submodule(site.block)
            for name, value in (
                ("num_attention_heads", kept),
                ("num_heads", kept),
                ("n_heads", kept),
                ("all_head_size", kept * site.width),
            ):
                if hasattr(block, name):
                    setattr(block, name, value)


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
    """
    update = update or Update()
    small = copy.deepcopy(model)
    resize(small, sites, plan.counts)
    for site in sites:
        kept = list(plan[site.name].kept)
        channels = torch.tensor(site.channels_of(kept), dtype=torch.long)
        out, new_out = model.get_submodule(site.output), small.get_submodule(site.output)
        channels = channels.to(out.weight.device)
        if kept:
            for path in site.inputs:
                old, new = model.get_submodule(path), small.get_submodule(path)
                new.weight.copy_(old.weight[channels])
                if old.bias is not None:
                    new.bias.copy_(old.bias[channels])
            new_out.weight.copy_(output_weight(site, out, kept, channels, update))
        if new_out.bias is not None:
            bias = out.bias if out.bias is not None else torch.zeros_like(new_out.bias)
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
