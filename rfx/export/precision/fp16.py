"""fp16: five bits of exponent and ten of mantissa (IEEE 754 binary16)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rfx.core.registry import register
from rfx.export.precision.base import Half, Precision

if TYPE_CHECKING:
    import onnx


def _patterns(values: np.ndarray) -> np.ndarray:
    return values.astype("<f2").view("<u2")


FP16 = Half("fp16", "FLOAT16", "tensor(float16)", 65504.0, _patterns)


@register("precision", "fp16")
class Fp16(Precision):
    """IEEE 754 binary16 in the matrix products."""

    tolerance = 1e-2
    grid = 64

    def convert(self, model: onnx.ModelProto) -> onnx.ModelProto:
        from rfx.export.precision.half import to_half

        return to_half(model, FP16)
