"""A half type: what a precision of 16 bits is called, and how numbers are rounded to it.

A new type of 16 bits is a file here that describes it and a line in `known.py`. A precision of
another kind (INT8 with scales of its own) is a file here with a function that makes a new ONNX
model of an fp32 one, and a line in `convert.py`. Either adds its name to the precisions of the
recipe's workload and of the runtimes that run it. What needs calibration data is a quantizer, see
`rfx/export/modelopt/`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Half:
    """A half type.

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
