"""Physically removes what a plan prunes: rows of the dense modules before an output projection (q,
k and v; the first linear of an FFN), its columns, and parameters beside them that have a place for
each unit.

An emptied sublayer becomes its constant: the output projection of nothing is its bias. The residual
and the LayerNorm around it stay.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from rfx.core.plan import Counts, Kind, Plan, Site, Update
from rfx.core.site import Slice
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


class EmptyBlock(nn.Module):
    """A block whose projection has no units left. `returns` as in `Site`; `projection` is the path
    of the projection where the block holds its own."""

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
            at: nn.Module = self
            *above, name = projection.split(".")
            for part in above:
                at.add_module(part, nn.Module())
                at = at.get_submodule(part)
            at.add_module(name, ConstantBias(features, device, dtype))

    def forward(
        self, *args: object, **kwargs: object
    ) -> torch.Tensor | tuple[torch.Tensor | None, ...]:
        hidden = next(a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor))
        x = hidden[..., :0]  # [B, T, 0]
        if self.projection:
            x = self.get_submodule(self.projection)(x)
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


def empty(model: nn.Module, site: Site) -> None:
    """Leave a sublayer without units, in place: what remains is the bias of its output
    projection."""
    out = output_of(model, site)
    facts = (out.out_features, out.weight.device, out.weight.dtype)
    if not site.block or (site.kind is Kind.FFN and not site.weights):
        # What lies between the rows and the projection computes with no channels at all.
        for path in site.inputs:
            _replace(model, path, EmptyRows())
        for table in site.tables:
            _resize_table(model, table, 0)
        _tell(model, site, 0)
        _replace(model, site.output, ConstantBias(*facts))
        return
    inside = site.output.startswith(site.block + ".")
    projection = site.output.removeprefix(site.block + ".") if inside else None
    _replace(model, site.block, EmptyBlock(site.returns, projection, *facts))
    if not inside:
        _replace(model, site.output, ConstantBias(*facts))


def _tell(model: nn.Module, site: Site, units: int) -> None:
    """Set the numbers that modules keep of their own size. In checkpoints of version 0.1 these
    have no constants: forward passes there shape by view(..., -1, head_dim), and the numbers are
    for whoever reads the module."""
    for constant in site.constants:
        holder: Any = model.get_submodule(constant.module)
        name = constant.attribute.removeprefix("config.")
        if name != constant.attribute:  # modules share one configuration
            holder.config = copy.copy(holder.config)
            holder = holder.config
        setattr(holder, name, constant.each * units)
    if site.weights or site.kind is not Kind.MHA or not site.block:
        return
    block = model.get_submodule(site.block)
    sizes = {"num_attention_heads": units, "num_heads": units, "n_heads": units}
    for name, value in (*sizes.items(), ("all_head_size", units * site.width)):
        if hasattr(block, name):
            setattr(block, name, value)


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
            empty(model, site)
            continue
        for path in site.inputs:
            like = linear_at(model, path)
            _replace(model, path, _linear(like, like.in_features, site.rows(path).size(kept)))
        out = output_of(model, site)
        _replace(model, site.output, _linear(out, kept * site.width, out.out_features))
        for table in site.tables:
            _resize_table(model, table, kept)
        _tell(model, site, kept)


def _resize_table(model: nn.Module, table: Slice, units: int) -> None:
    module = model.get_submodule(table.module)
    old = getattr(module, table.parameter)
    shape = list(old.shape)
    shape[table.dim] = table.size(units)
    setattr(module, table.parameter, nn.Parameter(old.new_empty(shape)))
    if isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = shape


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
                rows = torch.tensor(site.rows(path).kept(kept), device=old.weight.device)
                new.weight.copy_(old.weight[rows])
                if old.bias is not None:
                    new.bias.copy_(old.bias[rows])
            for table in site.tables:
                whole = getattr(model.get_submodule(table.module), table.parameter)
                part = getattr(small.get_submodule(table.module), table.parameter)
                index = torch.tensor(table.kept(kept), device=whole.device)
                part.copy_(whole.index_select(table.dim, index))
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
