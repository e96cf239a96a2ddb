"""What a precision is: how an fp32 file becomes a file of it, and how near to the fp32 file it is.

A new precision is a class in a file here, registered with `@register("precision", "name")`, and its
name among those of the runtimes that run it. fp16 and bf16 share `half.py`. Files of a quantized
precision are made by quantizers, see `rfx/export/quantizers/`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

if TYPE_CHECKING:
    import onnx


class NumberFormat:
    """What every precision says of itself.

    `tolerance` is the largest difference of outputs, as a share of their scale, at which two
    engines of it are the same function; a runtime may allow another. `grid` is the step of the FFN
    widths at which the tiles of a matrix product end on a GPU.
    """

    tolerance: ClassVar[float]
    grid: ClassVar[int]


class Precision(NumberFormat, ABC):
    """A number format that the matrix products of an exported file are converted to, as they
    are."""

    @abstractmethod
    def convert(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """`model` (fp32) at this precision: a new model, or `model` itself. Inputs and outputs keep
        names, types and shapes; initializers keep names and shapes.

        Raises:
            UnsupportedModelError: a weight is not finite, or does not fit.
        """


class QuantizedPrecision(NumberFormat):
    """A number format with scales, which have to be chosen. The file is made by a quantizer (see
    `rfx.export.quantizers.base`) and is no longer the same function: shapes and parity are proved
    on the fp32 file that it is made of, and it is compared with the dense model in fp32."""


@dataclass(frozen=True)
class Half:
    """A half type: what a format of 16 bits is called, and how numbers are rounded to it.

    Args:
        name: here, in recipes, and the ending of its tensors.
        element: its name in ONNX's protos.
        schema: its name in ONNX's operator schemas.
        largest: the largest number it holds.
        patterns: float32 numbers to little-endian 16-bit patterns, rounded to nearest, ties to
            even.
    """

    name: str
    element: str
    schema: str
    largest: float
    patterns: Callable[[np.ndarray], np.ndarray]
