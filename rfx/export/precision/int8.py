"""INT8: matrix products in integers of 8 bits. What makes such a file is the quantizer of the
runtime that it is for."""

from __future__ import annotations

from rfx.core.registry import register
from rfx.export.precision.base import QuantizedPrecision


@register("precision", "int8")
class Int8(QuantizedPrecision):
    """Integers of 8 bits."""

    tolerance = 1e-1
    grid = 32
