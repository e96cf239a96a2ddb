"""TensorRT and TensorRT-RTX: engines built, kept, run and timed through CUDA graphs. Needs an
NVIDIA GPU and CuPy.

`trt` takes whichever of the two is installed, TensorRT first; `trt-rtx` takes TensorRT-RTX.
"""

from __future__ import annotations

import hashlib
import importlib.util
import weakref
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rfx.core.errors import EnvironmentMissingError, UsageError
from rfx.core.workload import Workload
from rfx.runtimes.base import GPU_GRID, Arrays, Availability, Engine, EngineOptions, Runtime
from rfx.runtimes.gpu import (
    compute_capability,
    free_pools,
    gpu_count,
    gpu_group_bytes,
    gpu_name,
    gpu_state,
)
from rfx.runtimes.tensorrt.bound import Buffers, TrtBoundRun
from rfx.runtimes.tensorrt.build import (
    BUILDER_LEVEL,
    INSTALL,
    OLDEST,
    PACKAGES,
    build_plan,
    installed_version,
    is_rtx,
    known_capabilities,
    library,
    module_name,
    require_options,
    too_old,
)
from rfx.runtimes.tensorrt.file import (
    engine_facts,
    read_engine_file,
    require_same,
    unfit,
    write_engine_file,
)
from rfx.runtimes.tensorrt.log import complaints, inspected_layers, new_builder, new_runtime

INSTEAD = (
    "run this on the machine with the GPU; here, prune-export takes --target ort (ONNX Runtime on "
    "this machine's CPU), or the "
    "device's table: --table table.json"
)
CUPY = "pip install cupy-cuda13x (with CUDA 13) or cupy-cuda12x (with CUDA 12)"


class TensorRT(Runtime):
    """`trt`: strongly typed engines; the clock is GPU compute time of a CUDA graph, without
    transfers.

    Unverified on hardware until a committed result under benchmarks/results says otherwise.
    """

    name: ClassVar[str] = "trt"
    clock: ClassVar[str] = "GPU compute time (CUDA events around a queued CUDA graph, no transfers)"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "bf16")
    engine_file: ClassVar[str | None] = "model.plan"
    max_depth: ClassVar[int] = (
        6  # a GPU's clock is sharp enough for shallow stacks, which build quickly
    )
    own_activations: ClassVar[bool] = True
    smooth: ClassVar[bool] = False  # latency goes in steps of tiles
    verified: ClassVar[bool] = False

    def __init__(self, options: EngineOptions | None = None):
        super().__init__(options)
        if (
            self.name == "trt-rtx" or gpu_count()[0]
        ):  # without a GPU `trt` stands for a board's, whatever is installed here
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
        more = "".join(
            f", {k} {v}" for k, v in sorted(options.items())
        )  # the profile too: it changes kernels
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

    def grid(self, precision: str) -> int:
        return GPU_GRID[precision]

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
            UsageError, UnsupportedModelError: see `build_plan`.
        """
        self._require_gpu()
        trt = library(self.name)
        built = build_plan(trt, Path(onnx_path), workload, self.options, device=self.device())
        facts = engine_facts(
            trt, built, Path(onnx_path), workload, self.options, device=self.device()
        )
        engine = _deserialise(trt, built.plan, facts, str(onnx_path))
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
        plan, facts = read_engine_file(path)
        self._require_gpu()
        trt = library(self.name)
        here = {"library": f"{trt.__name__} {trt.__version__}", "device": self.device()}
        require_same(path, facts, here, portable=bool(facts.get("compute_capabilities")))
        return _deserialise(trt, plan, facts, str(path))

    def _require_gpu(self) -> None:
        here = self.availability()
        if not here.ok:
            raise EnvironmentMissingError(
                f"The runtime {self.name!r} cannot run an engine here.",
                got=here.reason,
                next_step=here.next_step,
            )


class TensorRTRtx(TensorRT):
    """`trt-rtx`: TensorRT-RTX; engines are compiled further on the device when they are first
    run."""

    name: ClassVar[str] = "trt-rtx"
    engine_file: ClassVar[str | None] = "model.rtx.plan"


def _deserialise(trt, plan: bytes, facts: dict, where: str) -> TrtEngine:
    runtime = new_runtime(trt)  # clears the log
    if facts.get("options", {}).get("version_compatible"):
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise unfit(
            Path(where), complaints(trt) or "TensorRT does not accept it and gives no reason"
        )
    return TrtEngine(trt, runtime, engine, facts)


class TrtEngine(Engine):
    """A deserialised engine and its stream. Inputs larger than its profile's batch are run in
    parts.

    The serialised plan is not kept: a table has dozens of engines alive, of which none is saved.
    """

    def __init__(self, trt, runtime, engine, facts: dict[str, Any]):
        self.trt, self.facts = trt, facts
        self._runtime, self._engine = runtime, engine  # the runtime must outlive its engine
        self._bound: weakref.WeakSet[TrtBoundRun] = weakref.WeakSet()
        self._stream = None
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self.input_names = tuple(
            n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT
        )
        self.output_names = tuple(n for n in names if n not in self.input_names)
        self._context = None

    @property
    def engine(self):
        """The ICudaEngine.

        Raises:
            RuntimeError: the engine was closed.
        """
        if self._engine is None:
            raise RuntimeError("the engine was closed")
        return self._engine

    @property
    def stream(self):
        """The CUDA stream that all its runs share."""
        if self._stream is None:
            import cupy

            self._stream = cupy.cuda.Stream(non_blocking=True)
        return self._stream

    @property
    def max_batch(self) -> int:
        return int(self.engine.get_tensor_profile_shape(self.input_names[0], 0)[2][0])

    def new_context(self, *, timed: bool = False):
        """An execution context. With TensorRT-RTX the kernels for a shape are compiled before it is
        first run where it is `timed`; else beside its first runs, which would wait for the compiler
        at every new shape."""
        engine = self.engine
        if is_rtx(self.trt):
            runtime_config = engine.create_runtime_config()
            eager = self.trt.DynamicShapesKernelSpecializationStrategy.EAGER
            lazy = self.trt.DynamicShapesKernelSpecializationStrategy.LAZY
            runtime_config.dynamic_shapes_kernel_specialization_strategy = eager if timed else lazy
            context = engine.create_execution_context(runtime_config)
        else:
            context = engine.create_execution_context()
        if context is None:
            raise EnvironmentMissingError(
                "TensorRT cannot make an execution context.",
                got=complaints(self.trt) or "most likely too little GPU memory",
                next_step="free GPU memory, or lower the batch size",
            )
        return context

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """One inference; outputs by name, on the host.

        Raises:
            UsageError: an input is missing, of another kind of type, or outside of the profile.
        """
        fed = self.fed(inputs)
        if self._context is None:
            self._context = self.new_context()
        rows, step = len(next(iter(fed.values()))), self.max_batch
        parts = []
        for start in range(0, rows, step):
            buffers = Buffers(
                self, self._context, {n: a[start : start + step] for n, a in fed.items()}
            )
            buffers.execute()
            parts.append(buffers.outputs())
        return {n: np.concatenate([p[n] for p in parts]) for n in self.output_names}

    def bind(self, inputs: Arrays) -> TrtBoundRun:
        """Place inputs and outputs on the device and capture one inference as a CUDA graph.

        Raises:
            UsageError: as `run`.
        """
        run = TrtBoundRun(Buffers(self, self.new_context(timed=True), self.fed(inputs)))
        self._bound.add(run)
        return run

    def fed(self, inputs: Arrays) -> dict[str, np.ndarray]:
        missing = [n for n in self.input_names if n not in inputs]
        if missing:
            raise UsageError(
                "The model needs inputs that were not given.",
                got=", ".join(inputs) or "none",
                allowed=", ".join(self.input_names),
            )
        types = {
            n: np.dtype(self.trt.nptype(self.engine.get_tensor_dtype(n))) for n in self.input_names
        }
        given = {n: np.asarray(inputs[n]) for n in self.input_names}
        wrong = [n for n in self.input_names if _kind(given[n].dtype) != _kind(types[n])]
        if wrong:
            raise UsageError(
                "An input is of another type than the engine takes.",
                got=", ".join(f"{n} {given[n].dtype}" for n in wrong),
                allowed=", ".join(f"{n} {types[n]}" for n in wrong),
                next_step="give token ids as integers and features as floats",
            )
        return {n: np.ascontiguousarray(given[n], dtype=types[n]) for n in self.input_names}

    def save(self, path: Path) -> Path:
        """Serialise and write it, with its facts beside it.

        Raises:
            EnvironmentMissingError: TensorRT does not serialise it.
        """
        serialised = self.engine.serialize()
        if serialised is None:
            raise EnvironmentMissingError(
                "TensorRT cannot serialise the engine.",
                got=complaints(self.trt) or "no reason was given",
                next_step="free host memory, then run again",
            )
        plan = bytes(serialised)
        self.facts |= {
            "engine_bytes": len(plan),
            "engine_sha256": hashlib.sha256(plan).hexdigest(),
        }
        return write_engine_file(plan, self.facts, path)

    def close(self) -> None:
        for run in list(self._bound):  # whoever holds one holds no memory of the device by it
            run.release()
        self._context = self._engine = self._runtime = self._stream = None
        free_pools()


def _kind(dtype: np.dtype) -> str:
    """Integers of either sign are one kind: token ids come as both."""
    return "i" if dtype.kind == "u" else dtype.kind


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
    except Exception as error:  # noqa: BLE001 - a CuPy for another CUDA fails in many ways
        return f"CuPy cannot be used ({type(error).__name__}: {error})", CUPY
    return None
