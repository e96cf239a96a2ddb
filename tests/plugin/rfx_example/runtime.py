"""A runtime: ONNX Runtime on the CPU under another name, which its version tells."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from rfx.core.registry import register
from rfx.runtimes.base import Capabilities
from rfx.runtimes.onnxruntime.runtime import OnnxRuntimeCpu


@register("runtime", "example-cpu")
class ExampleCpu(OnnxRuntimeCpu):
    name: ClassVar[str] = "example-cpu"
    capabilities: ClassVar[Capabilities] = replace(
        OnnxRuntimeCpu.capabilities, preference=200, stands_in=()
    )

    def version(self) -> str:
        return f"rfx-example 0.3 on {super().version()}"
