"""The half types that a file can have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rfx.core.errors import UnsupportedModelError
from rfx.export.precision.base import Half
from rfx.export.precision.bf16 import BF16
from rfx.export.precision.fp16 import FP16
from rfx.export.precision.graphs import tensor_values

if TYPE_CHECKING:
    import onnx

HALVES: dict[str, Half] = {h.name: h for h in (FP16, BF16)}


def rounded(tensor: onnx.TensorProto, half: Half) -> np.ndarray:
    """Values of a float32 tensor as little-endian 16-bit patterns of the half type, rounded to
    nearest, ties to even.

    Raises:
        UnsupportedModelError: a value that is not finite, or not within the type.
    """
    values = np.ascontiguousarray(tensor_values(tensor), dtype=np.float32)
    largest = float(np.max(np.abs(values), initial=0.0))
    if not largest <= half.largest:  # NaN too
        broken, other = not np.isfinite(largest), HALVES["bf16"]
        fits_other = not broken and half is not other and largest <= other.largest
        raise UnsupportedModelError(
            f"The weight {tensor.name} has a value that is not finite."
            if broken
            else f"The weight {tensor.name} has a value too large for {half.name}.",
            got=f"{largest:g}",
            allowed=f"up to {half.largest:g}",
            next_step="check the checkpoint"
            if broken
            else f"use --precision {'bf16' if fits_other else 'fp32'}",
        )
    return half.patterns(values)
