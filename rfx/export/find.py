"""The exporters and the quantizers by name."""

from __future__ import annotations

from typing import cast

from rfx.core import registry
from rfx.export.base import Exporter, Quantizer


def exporter(name: str = "onnx") -> Exporter:
    """The exporter `name`.

    Raises:
        UsageError: no exporter has this name.
        EnvironmentMissingError: the plug-in that brings it cannot be imported.
    """
    return cast("Exporter", registry.find("exporter", name)())


def quantizer(name: str = "modelopt") -> Quantizer:
    """The quantizer `name`.

    Raises:
        UsageError: no quantizer has this name.
        EnvironmentMissingError: the plug-in that brings it cannot be imported.
    """
    return cast("Quantizer", registry.find("quantizer", name))
