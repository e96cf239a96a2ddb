"""bf16: the range of fp32 with seven bits of mantissa."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rfx.core.registry import register
from rfx.export.precision.base import Half, Precision

if TYPE_CHECKING:
    import onnx


def _patterns(values: np.ndarray) -> np.ndarray:
    """NumPy has no bfloat16: the upper half of a float32, after rounding."""
    bits = values.view(np.uint32)
    return ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16).astype("<u2")


BF16 = Half(
    "bf16",
    "BFLOAT16",
    "tensor(bfloat16)",
    float(np.uint32(0x7F7F0000).view(np.float32)),
    _patterns,
)


@register("precision", "bf16")
class Bf16(Precision):
    """bfloat16 in the matrix products."""

    tolerance = 6e-2
    grid = 64

    def convert(self, model: onnx.ModelProto) -> onnx.ModelProto:
        from rfx.export.precision.half import to_half

        return to_half(model, BF16)
