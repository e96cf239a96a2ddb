"""The mask tap: multiplies the input of each output projection by one real number a unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rfx.core.plan import Plan, Site

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch.utils.hooks import RemovableHandle


class MaskTap:
    """Context manager that masks `sites` of `model` while it is open, and leaves nothing behind.

    `masks[site.name]` is a tensor [units], or [batch, units] for one mask an example (per-example
    gradients). It is multiplied into the input [B, T, units * width] of the site's output
    projection; sites without a mask are left alone. Scaling a head's context equals scaling its
    attention probabilities (Kwon et al. 2022, section 3).

    >>> with MaskTap(model, sites, {"layer.0.mha": torch.tensor([0.0, 1.0])}):
    ...     masked = model(**batch).logits
    """

    def __init__(
        self, model: torch.nn.Module, sites: Sequence[Site], masks: Mapping[str, torch.Tensor]
    ):
        self.model, self.sites, self.masks = model, sites, masks
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> MaskTap:
        for site in self.sites:
            if site.name in self.masks:
                module = self.model.get_submodule(site.output)
                self._handles.append(module.register_forward_pre_hook(self._hook(site)))
        return self

    def _hook(self, site: Site) -> Callable[[torch.nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        def scale(_module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            x = args[0]  # [B, T, units * width]
            mask = self.masks[site.name].to(x.dtype)
            if site.width > 1:
                mask = mask.repeat_interleave(site.width, -1)
            if mask.dim() == 2:
                mask = mask.unsqueeze(1)  # [B, 1, units * width]
            return (x * mask, *args[1:])

        return scale

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def plan_masks(
    plan: Plan, scales: Mapping[str, np.ndarray] | None = None
) -> dict[str, torch.Tensor]:
    """Masks of a plan: float32 [units] by site, 0 where pruned, else 1 or the unit's scale."""
    import torch

    masks = {}
    for site in plan.sites:
        mask = torch.zeros(site.units)
        kept = list(site.kept)
        mask[kept] = 1.0
        if scales is not None and site.name in scales:
            mask[kept] = torch.as_tensor(scales[site.name], dtype=torch.float32)[kept]
        masks[site.name] = mask
    return masks
