"""The half types: fp16, with five bits of exponent and ten of mantissa (IEEE 754 binary16), and
bf16, with the range of fp32 and seven bits of mantissa."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rfx.core.errors import UnsupportedModelError
from rfx.export.precision.base import Half
from rfx.export.precision.graphs import tensor_values

if TYPE_CHECKING:
    import onnx


def _fp16_patterns(values: np.ndarray) -> np.ndarray:
    return values.astype("<f2").view("<u2")


def _bf16_patterns(values: np.ndarray) -> np.ndarray:
    """NumPy has no bfloat16: the upper half of a float32, after rounding."""
    bits = values.view(np.uint32)
    return ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16).astype("<u2")


FP16 = Half("fp16", "FLOAT16", "tensor(float16)", 65504.0, _fp16_patterns)
BF16 = Half(
    "bf16",
    "BFLOAT16",
    "tensor(bfloat16)",
    float(np.uint32(0x7F7F0000).view(np.float32)),
    _bf16_patterns,
)
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
