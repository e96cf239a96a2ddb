"""Statistics of a sublayer that are no numbers are caught here, before they reach a solver, whose
own error would name neither the sublayer nor the cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rfx.core.errors import UsageError

if TYPE_CHECKING:
    import torch


def require_finite(sublayer: str, what: str, *tensors: torch.Tensor) -> None:
    """Raises UsageError unless all numbers of `tensors` are finite.

    Args:
        sublayer: the name of a site.
        what: what they are, in the plural: "gradients".
    """
    import torch

    wrong = sum(int((~torch.isfinite(t)).sum()) for t in tensors)
    if wrong:
        raise UsageError(
            f"The {what} of {sublayer} are not finite numbers.",
            got=f"{wrong} of {sum(t.numel() for t in tensors)} are NaN or infinite",
            allowed="activations and gradients that float32 can hold",
            next_step="look for NaN and for huge values in the labels, the inputs and the model's "
            "weights up to this sublayer",
        )
