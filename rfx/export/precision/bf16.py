"""bf16: the range of fp32 with seven bits of mantissa."""

from __future__ import annotations

import numpy as np

from rfx.export.precision.base import Half


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
