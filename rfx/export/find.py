"""The exporters and the quantizers by name."""

from __future__ import annotations

from typing import cast

from rfx.core import registry
from rfx.core.errors import UserError
from rfx.export.base import Exporter
from rfx.export.quantizers.base import Quantizer


def exporter(name: str = "onnx") -> Exporter:
    """The exporter `name`.

    Raises:
        UsageError: no exporter has this name.
        EnvironmentMissingError: the plug-in that brings it cannot be imported.
    """
    return cast("Exporter", registry.find("exporter", name)())


def quantizer_class(name: str) -> type[Quantizer]:
    """The quantizer `name`, whether its library is installed or not.

    Raises:
        UsageError: no quantizer has this name.
        EnvironmentMissingError: the plug-in that brings it cannot be imported.
    """
    return cast("type[Quantizer]", registry.find("quantizer", name))


def default_quantizer(precision: str) -> str | None:
    """The name of the first quantizer that writes a precision without calibration inputs; None:
    there is none."""
    for name in registry.names("quantizer"):
        try:
            found = quantizer_class(name)
        except UserError:  # of a broken plug-in, which must not keep the rest from working
            continue
        if precision in found.precisions and not found.least_examples:
            return name
    return None
