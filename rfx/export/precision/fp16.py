"""fp16: half of the bytes and a smaller range: a weight beyond 65504 is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rfx.core.registry import register
from rfx.export.precision.base import Precision
from rfx.export.precision.half import to_half
from rfx.export.precision.halves import FP16

if TYPE_CHECKING:
    import onnx


@register("precision", "fp16")
class Fp16(Precision):
    """The half type fp16 in the matrix products."""

    tolerance = 1e-2
    grid = 64

    def convert(self, model: onnx.ModelProto) -> onnx.ModelProto:
        return to_half(model, FP16)
