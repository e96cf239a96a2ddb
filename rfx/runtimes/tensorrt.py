"""TensorRT: its place is prepared. This version of rfx says truthfully what is missing and builds no engine yet."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import ClassVar, NoReturn

from rfx.errors import EnvironmentMissingError
from rfx.runtimes.base import Availability, Conditions, Runtime

PACKAGES = ("tensorrt", "tensorrt_rtx")
INSTEAD = "run with --target ort (ONNX Runtime on this machine's CPU)"
NOT_YET = "this version of rfx has no TensorRT execution yet"


def gpu_count() -> tuple[int, str]:
    """How many CUDA GPUs the driver shows, and where there are none the reason. Needs neither torch nor CUDA."""
    library = None
    for name in ("libcuda.so.1", "libcuda.so", "nvcuda.dll"):
        try:
            library = ctypes.CDLL(name)
            break
        except OSError:
            continue
    if library is None:
        return 0, "no NVIDIA driver is installed (libcuda.so.1 not found)"
    status = library.cuInit(0)
    if status != 0:
        return 0, f"the NVIDIA driver shows no GPU (cuInit: error {status})"
    count = ctypes.c_int(0)
    status = library.cuDeviceGetCount(ctypes.byref(count))
    if status != 0 or count.value == 0:
        return 0, "the NVIDIA driver shows no GPU"
    return count.value, ""


class TensorRT(Runtime):
    """`trt`: never available in this version; `availability` names all that is missing, the GPU first."""

    name: ClassVar[str] = "trt"
    clock: ClassVar[str] = "GPU compute time"
    filter_grid: ClassVar[int] = 64
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "bf16")

    @classmethod
    def availability(cls) -> Availability:
        missing = []
        count, why_no_gpu = gpu_count()
        if not count:
            missing.append(why_no_gpu)
        if not any(importlib.util.find_spec(package) for package in PACKAGES):
            missing.append("the package tensorrt is not installed")
        return Availability(False, "; ".join([*missing, NOT_YET]), INSTEAD)

    def version(self) -> str:
        from importlib import metadata

        for package in ("tensorrt", "tensorrt-rtx", "tensorrt_rtx"):
            try:
                return f"{package} {metadata.version(package)}"
            except metadata.PackageNotFoundError:
                continue
        return "tensorrt (not installed)"

    def device(self) -> str:
        from rfx.environment import gpu_models

        return ", ".join(gpu_models()) or "no GPU"

    def build(self, onnx_path: Path, conditions: Conditions) -> NoReturn:
        """Not in this version.

        Raises:
            EnvironmentMissingError: always.
        """
        raise EnvironmentMissingError(
            "The TensorRT runtime cannot build an engine here.", got=self.availability().reason, next_step=INSTEAD
        )
