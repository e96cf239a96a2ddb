"""TensorRT and TensorRT-RTX: engines built, kept, run and timed through CUDA graphs. Needs an
NVIDIA GPU and CuPy.

`trt` takes whichever of the two is installed, TensorRT first; `trt-rtx` takes TensorRT-RTX.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from rfx.core.errors import EnvironmentMissingError, first_line
from rfx.core.registry import register
from rfx.core.workload import Workload
from rfx.runtimes.base import Availability, Capabilities, EngineOptions, Runtime
from rfx.runtimes.gpu import (
    compute_capability,
    gpu_count,
    gpu_group_bytes,
    gpu_name,
    gpu_state,
)
from rfx.runtimes.tensorrt.build import (
    BUILDER_LEVEL,
    INSTALL,
    OLDEST,
    PACKAGES,
    build_engine,
    installed_version,
    known_capabilities,
    library,
    module_name,
    require_options,
    too_old,
)
from rfx.runtimes.tensorrt.engine import TrtEngine, deserialise
from rfx.runtimes.tensorrt.file import (
    build_ahead,
    engine_facts,
    read_engine_file,
    require_capabilities,
    require_same,
    write_engine_file,
)
from rfx.runtimes.tensorrt.log import inspected_layers, new_builder

INSTEAD = (
    "run this on the machine with the GPU; here, prune-export takes --target ort (ONNX Runtime on "
    "this machine's CPU), or the "
    "device's table: --table table.json"
)
CUPY = "pip install cupy-cuda13x (with CUDA 13) or cupy-cuda12x (with CUDA 12)"


@register("runtime", "trt")
class TensorRT(Runtime):
    """`trt`: strongly typed engines; the clock is GPU compute time of a CUDA graph, without
    transfers.

    Unverified on hardware until a committed result under benchmarks/results says otherwise.
    """

    name: ClassVar[str] = "trt"
    clock: ClassVar[str] = "GPU compute time (CUDA events around a queued CUDA graph, no transfers)"
    capabilities: ClassVar[Capabilities] = Capabilities(
        device="gpu",
        precisions=("fp32", "fp16", "bf16", "int8", "fp8"),
        quantizer="modelopt",
        preference=10,
        engine_file="model.engine",
        earlier_engine_files=("model.plan",),  # of version 0.1
        engine_suffix=".engine",
        profiled=True,
        serving="tensorrt",
        locates_differences=True,
        max_depth=6,  # a GPU's clock is sharp enough for few layers, which build quickly
        smooth=False,  # latency goes in steps of tiles
        own_activations=True,
        least_compute={"fp8": (8, 9)},  # Ada and Hopper
        verified=False,
    )

    def __init__(self, options: EngineOptions | None = None) -> None:
        super().__init__(options)
        if self.name == "trt-rtx" or gpu_count()[0]:
            # Without a GPU `trt` stands for a board's, whatever is installed here.
            require_options(module_name(self.name) or "", self.options)

    @classmethod
    def availability(cls) -> Availability:
        count, why_no_gpu = gpu_count()
        module = module_name(cls.name)
        reasons, steps = [], []
        if not count:
            reasons.append(why_no_gpu)
            steps.append(INSTEAD)
        if module is None:
            reasons.append(f"{' or '.join(PACKAGES[cls.name])} is not installed")
            steps.append(INSTALL[cls.name])
        elif module == "tensorrt" and too_old(installed_version(module)):
            reasons.append(
                f"tensorrt {installed_version(module)} is older than {OLDEST[0]}.{OLDEST[1]}"
            )
            steps.append(INSTALL[cls.name])
        if count and module == "tensorrt_rtx" and (refused := _not_for_this_gpu()):
            reasons.append(refused)
            steps.append(f"run with --target cuda, or install TensorRT itself: {INSTALL['trt']}")
        if importlib.util.find_spec("cupy") is None:
            reasons.append("CuPy is not installed (device buffers and CUDA graphs)")
            steps.append(CUPY)
        if count and not reasons and (broken := _broken(str(module))):
            reasons.append(broken[0])
            steps.append(broken[1])
        # Without a GPU nothing that can be installed helps: the first step alone.
        return Availability(
            not reasons,
            "; ".join(reasons),
            "; ".join(steps[:1] if not count else steps) if reasons else "",
        )

    def version(self) -> str:
        module = module_name(self.name)
        options = {
            k: v
            for k, v in self.options.to_json().items()
            if (k, v) != ("builder_level", BUILDER_LEVEL)
        }
        # The profile too: it changes kernels.
        more = "".join(f", {k} {v}" for k, v in sorted(options.items()))
        return (
            f"{module} {installed_version(module)}{more}"
            if module
            else f"{PACKAGES[self.name][0]} (not installed)"
        )

    def device(self) -> str:
        return gpu_name()

    def tolerance(self, precision: str) -> float:
        # fp32 products run as TF32 (10 bits of mantissa) where the GPU has it, as everywhere in the
        # field.
        return 1e-2 if precision == "fp32" else super().tolerance(precision)

    def group_bytes(self) -> int:
        return gpu_group_bytes() or super().group_bytes()

    def measurement(self, workload: Workload) -> dict[str, Any]:
        """CuPy's events do not block, so the host spins. `queued_behind`: see
        `TrtBoundRun.time_ms`."""
        level = BUILDER_LEVEL if self.options.builder_level is None else self.options.builder_level
        facts = {
            "transfers": "excluded",
            "streams": 1,
            "cuda_graph": True,
            "clock_source": "cudaEvent",
            "spin_wait": True,
            "queued_behind": "an untimed run of the same graph",
            "host_memory": "pageable",
            "builder_level": level,
        }
        return facts | ({"tf32": True} if workload.precision == "fp32" else {})

    def state(self) -> dict[str, Any] | None:
        return gpu_state()

    def build(self, onnx_path: Path, workload: Workload) -> TrtEngine:
        """Build an engine for the GPU of this machine.

        Raises:
            EnvironmentMissingError: no GPU, no TensorRT, no CuPy.
            UsageError, UnsupportedModelError: see `build_engine`.
        """
        self._require_gpu()
        trt = library(self.name)
        built = build_engine(trt, Path(onnx_path), workload, self.options, device=self.device())
        facts = engine_facts(
            trt, built, Path(onnx_path), workload, self.options, device=self.device()
        )
        engine = deserialise(trt, built.engine, facts, str(onnx_path))
        if not facts["layers"]:  # TensorRT-RTX prints them while it builds, TensorRT is asked
            facts["layers"] = inspected_layers(trt, engine.engine)
        return engine

    def load(self, path: Path, workload: Workload) -> TrtEngine:
        """An engine file that was built before.

        Raises:
            UsageError: no such file.
            EnvironmentMissingError: truncated or damaged, built by another TensorRT or for another
                GPU, or no GPU here.
        """
        data, facts = read_engine_file(path)
        self._require_gpu()
        trt = library(self.name)
        here = {"library": f"{trt.__name__} {trt.__version__}", "device": self.device()}
        require_same(path, facts, here, portable=bool(facts.get("compute_capabilities")))
        return deserialise(trt, data, facts, str(path))

    def serving_platform(self) -> str | None:
        """TensorRT's backend of Triton reads engines of TensorRT, and none of TensorRT-RTX, which
        serves `trt` where TensorRT itself is not installed."""
        return self.capabilities.serving if module_name(self.name) == "tensorrt" else None

    def _require_gpu(self) -> None:
        here = self.availability()
        if not here.ok:
            raise EnvironmentMissingError(
                f"The runtime {self.name!r} cannot run an engine here.",
                got=here.reason,
                next_step=here.next_step,
            )


@register("runtime", "trt-rtx")
class TensorRTRtx(TensorRT):
    """`trt-rtx`: TensorRT-RTX; engines are compiled further on the device when they are first
    run."""

    name: ClassVar[str] = "trt-rtx"
    capabilities: ClassVar[Capabilities] = replace(
        TensorRT.capabilities,
        preference=20,
        engine_file="model.rtx.engine",
        earlier_engine_files=("model.rtx.plan",),
        engine_suffix=".rtx.engine",
        builds_elsewhere=True,
        serving=None,  # Triton's backend does not read its engines
    )

    def require_elsewhere(self, compute_capabilities: Sequence[str]) -> None:
        require_capabilities(compute_capabilities)

    def build_elsewhere(
        self, onnx_path: Path, workload: Workload, compute_capabilities: Sequence[str], out: Path
    ) -> dict[str, Any]:
        built, facts = build_ahead(Path(onnx_path), workload, self.options, compute_capabilities)
        write_engine_file(built.engine, facts, out)
        return facts


def _not_for_this_gpu() -> str:
    """Why TensorRT-RTX cannot compile for the GPU of this machine; empty where it can."""
    try:
        known = known_capabilities(library("trt-rtx"))
    except EnvironmentMissingError:
        return ""  # `_broken` says so
    here = compute_capability()
    if here is None or f"{here[0]}.{here[1]}" in known:
        return ""
    return (
        f"TensorRT-RTX does not compile for this GPU (compute capability {here[0]}.{here[1]}; "
        f"it knows {', '.join(known)})"
    )


@cache  # a Builder takes a while, and every build asks
def _broken(module: str) -> tuple[str, str] | None:
    """With everything in place: does it load, can it use the driver, does CuPy see the GPU? Else
    why not, and what to do."""
    try:
        new_builder(library("trt-rtx" if module == "tensorrt_rtx" else "trt"))
    except EnvironmentMissingError as error:
        return f"{error.what} {error.got}", error.next_step or ""
    try:
        import cupy

        if not cupy.cuda.is_available():
            return "CuPy sees no GPU", CUPY
    except Exception as error:  # a CuPy for another CUDA fails in many ways
        return f"CuPy cannot be used ({first_line(error)})", CUPY
    return None
