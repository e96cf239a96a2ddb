"""bf16: half of the bytes and the range of fp32, with fewer digits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rfx.core.registry import register
from rfx.export.precision.base import Precision
from rfx.export.precision.half import to_half
from rfx.export.precision.halves import BF16

if TYPE_CHECKING:
    import onnx


@register("precision", "bf16")
class Bf16(Precision):
    """The half type bf16 in the matrix products."""

    tolerance = 6e-2
    grid = 64

    def convert(self, model: onnx.ModelProto) -> onnx.ModelProto:
        return to_half(model, BF16)
