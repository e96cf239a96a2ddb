"""FP8: matrix products in floating-point numbers of 8 bits (e4m3: four of the exponent, three of
the fraction). What makes such a file is the quantizer of the runtime that it is for."""

from __future__ import annotations

from rfx.core.registry import register
from rfx.export.precision.base import QuantizedPrecision


@register("precision", "fp8")
class Fp8(QuantizedPrecision):
    """Floating-point numbers of 8 bits."""

    tolerance = 1e-1
    grid = 32
