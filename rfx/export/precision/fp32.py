"""fp32: what a model is trained in; nothing is converted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rfx.core.registry import register
from rfx.export.precision.base import Precision

if TYPE_CHECKING:
    import onnx


@register("precision", "fp32")
class Fp32(Precision):
    """IEEE 754 binary32."""

    tolerance = 2e-4
    grid = 32

    def convert(self, model: onnx.ModelProto) -> onnx.ModelProto:
        return model
