"""What a quantizer is: how an fp32 file becomes one whose products are quantized.

A new quantizer is a class registered with `@register("quantizer", "name")` (rfx/core/registry.py).
Which one makes the files for a runtime is said in that runtime's `Capabilities.quantizer`. The
number format that it writes is a precision of its own (`rfx/export/precision/`), since two
quantizers may write the same one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rfx.core.errors import UsageError

if TYPE_CHECKING:
    import onnx

Feed = Mapping[str, np.ndarray]  # the inputs of one run of a graph, by name


def package_version(package: str) -> str:
    """The version of a library that quantizes, in words where it is not installed."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"


class Quantizer(ABC):
    """Quantizes fp32 files. What it writes is no longer the same function: shapes and parity are
    proved on the fp32 file that it is made of.

    `precisions` are the names of those that it writes. `least_examples` is the number of
    calibration examples below which its scales are chance; 0: it needs none at all. `portable` is
    the name of the quantizer that does the same with weights of 7 bits on every CPU; None: there is
    none, or it does so itself, which `seven_bits` says.

    Args:
        precision: one of `precisions`.
        keep_fp32: paths of modules whose products are not quantized.

    Raises:
        UsageError: it does not write this precision.
    """

    name: str = ""  # that it was found by
    precisions: ClassVar[tuple[str, ...]]
    least_examples: ClassVar[int] = 0
    portable: ClassVar[str | None] = None
    seven_bits: ClassVar[bool] = False

    def __init__(self, precision: str = "int8", keep_fp32: Collection[str] = ()) -> None:
        if precision not in self.precisions:
            raise UsageError(
                "The quantizer of this runtime does not write this precision.",
                got=precision,
                allowed=", ".join(self.precisions),
                next_step="give one of these with --precision",
            )
        self.precision, self.keep_fp32 = precision, frozenset(keep_fp32)

    @classmethod
    @abstractmethod
    def require(cls) -> None:
        """Asked before any work: raises EnvironmentMissingError where the library that quantizes
        cannot be used here."""

    @abstractmethod
    def method(self) -> str:
        """What quantizes, with its version and its options, in words: recorded in the evidence, and
        part of the keys that such files are stored under."""

    def table_method(self) -> str:
        """What the key of a latency table says of it; empty where the runtime's own version, which
        the key has anyway, says it all."""
        return self.method()

    @abstractmethod
    def convert(self, model: onnx.ModelProto, calibration: Sequence[Feed]) -> onnx.ModelProto:
        """`model` (fp32) quantized: a new model, or `model` itself where nothing in it can be.
        Inputs and outputs keep names, types and shapes.

        Args:
            calibration: inputs that the scales of activations are chosen by, each of one run. They
                may hold more than the graph has inputs.

        Raises:
            EnvironmentMissingError: the library that quantizes is not installed.
            UsageError: it needs calibration inputs and there are none, or an activation of the
                model is not finite on them.
            UnsupportedModelError: a weight is not finite.
            InternalCheckError: the library failed.
        """

    @abstractmethod
    def compare(self, plain: onnx.ModelProto, quantized: onnx.ModelProto) -> tuple[int, list[str]]:
        """How many products of a file are quantized, and what in it is not that of the fp32 file
        that it was made of, each in words."""
