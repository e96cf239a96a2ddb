"""The pruned model in the dense model's shape: what a plan and its update compute, before anything
is removed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from rfx.core.plan import Plan, Site, Update
from rfx.models.modules import output_of
from rfx.models.shrink import output_weight


@contextmanager
def as_student(
    model: nn.Module, sites: Sequence[Site], plan: Plan, update: Update | None = None
) -> Iterator[None]:
    """While open, `model` computes what `shrink(model, sites, plan, update)` would: the columns of
    pruned units are zero in every output projection, the update's weights and biases are in place.
    Afterwards it is as it was."""
    update = update or Update()
    before = []
    try:
        with torch.no_grad():
            for site in sites:
                out = output_of(model, site)
                before.append((out, out.weight, out.bias))
                kept = list(plan[site.name].kept)
                channels = torch.tensor(site.channels_of(kept), dtype=torch.long)
                channels = channels.to(out.weight.device)
                weight = torch.zeros_like(out.weight)
                if kept:
                    weight[:, channels] = output_weight(site, out, kept, channels, update)
                out.weight = nn.Parameter(weight, requires_grad=False)
                if site.name in update.biases:
                    out.bias = nn.Parameter(
                        torch.as_tensor(update.biases[site.name]).to(weight), requires_grad=False
                    )
        yield
    finally:
        for out, weight, bias in before:
            out.weight, out.bias = weight, bias
