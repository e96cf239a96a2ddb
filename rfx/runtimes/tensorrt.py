"""TensorRT and TensorRT-RTX: engines built, kept, run and timed through CUDA graphs. Needs an NVIDIA GPU and CuPy.

`trt` takes whichever of the two is installed, TensorRT first; `trt-rtx` takes TensorRT-RTX.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rfx.errors import EnvironmentMissingError, UsageError
from rfx.runtimes.base import Arrays, Availability, BoundRun, Conditions, Engine, EngineOptions, Runtime
from rfx.runtimes.engine_file import (
    engine_facts,
    read_engine_file,
    require_same,
    unfit,
    version_numbers,
    write_engine_file,
)
from rfx.runtimes.gpu import gpu_count, gpu_name, gpu_state
from rfx.runtimes.tensorrt_build import (
    INSTALL,
    OLDEST,
    PACKAGES,
    build_plan,
    complaints,
    installed_version,
    is_rtx,
    library,
    logger,
    module_name,
)

INSTEAD = "run with --target ort (ONNX Runtime on this machine's CPU), or bring the device's table: --table table.json"
CUPY = "pip install cupy-cuda13x (with CUDA 13) or cupy-cuda12x (with CUDA 12)"


class TensorRT(Runtime):
    """`trt`: strongly typed engines; the clock is GPU compute time of a CUDA graph, without transfers.

    Unverified on hardware until a committed result under benchmarks/results says otherwise.
    """

    name: ClassVar[str] = "trt"
    clock: ClassVar[str] = "GPU compute time (CUDA events around a CUDA graph, no transfers)"
    filter_grid: ClassVar[int] = 64
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "bf16")
    engine_file: ClassVar[str | None] = "model.plan"
    max_depth: ClassVar[int] = 6  # a GPU's clock is sharp enough for shallow stacks, which build quickly
    smooth: ClassVar[bool] = False  # latency goes in steps of tiles
    verified: ClassVar[bool] = False

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
        elif module == "tensorrt" and version_numbers(installed_version(module)) < OLDEST:
            reasons.append(f"tensorrt {installed_version(module)} is older than {OLDEST[0]}.{OLDEST[1]}")
            steps.append(INSTALL[cls.name])
        if importlib.util.find_spec("cupy") is None:
            reasons.append("CuPy is not installed (device buffers and CUDA graphs)")
            steps.append(CUPY)
        if count and not reasons:
            reasons += _broken(module)
            steps.append(INSTALL[cls.name])
        # Without a GPU nothing that can be installed helps: the first step alone.
        return Availability(not reasons, "; ".join(reasons), "; ".join(steps[:1] if not count else steps) if reasons else "")

    def version(self) -> str:
        module = module_name(self.name)
        options = self.options.to_json()
        built_with = {k: v for k, v in options.items() if k in ("builder_level", "version_compatible", "hardware_compatible")}
        more = "".join(f", {k} {v}" for k, v in sorted(built_with.items()))
        return f"{module} {installed_version(module)}{more}" if module else f"{PACKAGES[self.name][0]} (not installed)"

    def device(self) -> str:
        return gpu_name()

    def tolerance(self, precision: str) -> float:
        # fp32 products run as TF32 (10 bits of mantissa) where the GPU has it, as everywhere in the field.
        return 1e-2 if precision == "fp32" else super().tolerance(precision)

    def measurement(self) -> dict[str, Any]:
        return {"transfers": "excluded", "streams": 1, "cuda_graph": True, "clock_source": "cudaEvent", "spin_wait": False}

    def state(self) -> dict[str, Any] | None:
        return gpu_state()

    def build(self, onnx_path: Path, conditions: Conditions) -> TrtEngine:
        """Build an engine for the GPU of this machine.

        Raises:
            EnvironmentMissingError: no GPU, no TensorRT, no CuPy.
            UsageError, UnsupportedModelError: see `build_plan`.
        """
        self._require_gpu()
        trt = library(self.name)
        built = build_plan(trt, Path(onnx_path), conditions, self.options, device=self.device())
        facts = engine_facts(trt, built, Path(onnx_path), conditions, self.options, device=self.device())
        return _deserialise(trt, built.plan, facts, conditions, self.options, str(onnx_path))

    def load(self, path: Path, conditions: Conditions) -> TrtEngine:
        """An engine file that was built before.

        Raises:
            UsageError: no such file.
            EnvironmentMissingError: truncated or damaged, built by another TensorRT or for another GPU, or no GPU here.
        """
        plan, facts = read_engine_file(path)
        self._require_gpu()
        trt = library(self.name)
        here = {"library": f"{trt.__name__} {trt.__version__}", "device": self.device()}
        require_same(path, facts, here, portable=bool(facts.get("compute_capabilities")))
        return _deserialise(trt, plan, facts, conditions, self.options, str(path))

    def _require_gpu(self) -> None:
        here = self.availability()
        if not here.ok:
            raise EnvironmentMissingError(
                f"The runtime {self.name!r} cannot run an engine here.", got=here.reason, next_step=here.next_step
            )


class TensorRTRtx(TensorRT):
    """`trt-rtx`: TensorRT-RTX; engines are compiled further on the device when they are first run."""

    name: ClassVar[str] = "trt-rtx"
    engine_file: ClassVar[str | None] = "model.rtx.plan"


def _deserialise(trt, plan: bytes, facts: dict, conditions: Conditions, options: EngineOptions, where: str) -> TrtEngine:
    logger(trt).messages.clear()
    runtime = trt.Runtime(logger(trt))
    if facts.get("options", {}).get("version_compatible"):
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise unfit(Path(where), complaints(trt) or "TensorRT does not accept it and gives no reason")
    return TrtEngine(trt, runtime, engine, plan, facts)


class TrtEngine(Engine):
    """A deserialised engine. Inputs larger than its profile's batch are run in parts."""

    def __init__(self, trt, runtime, engine, plan: bytes, facts: dict[str, Any]):
        self.trt, self.facts = trt, facts
        self._runtime, self._engine, self._plan = runtime, engine, plan  # the runtime must outlive its engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self.input_names = tuple(n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT)
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
    def max_batch(self) -> int:
        return int(self.engine.get_tensor_profile_shape(self.input_names[0], 0)[2][0])

    def new_context(self):
        """An execution context; with TensorRT-RTX its kernels for a shape are compiled before it is first run."""
        engine = self.engine
        if is_rtx(self.trt):
            runtime_config = engine.create_runtime_config()
            eager = self.trt.DynamicShapesKernelSpecializationStrategy.EAGER
            runtime_config.dynamic_shapes_kernel_specialization_strategy = eager
            context = engine.create_execution_context(runtime_config)
        else:
            context = engine.create_execution_context()
        if context is None:
            raise EnvironmentMissingError(
                "TensorRT cannot make an execution context.", got=complaints(self.trt) or "most likely too little GPU memory",
                next_step="free GPU memory, or lower the batch size",
            )  # fmt: skip
        return context

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """One inference; outputs by name, on the host.

        Raises:
            UsageError: an input is missing or outside of the profile.
        """
        fed = self.fed(inputs)
        if self._context is None:
            self._context = self.new_context()
        rows, step = len(next(iter(fed.values()))), self.max_batch
        parts = []
        for start in range(0, rows, step):
            buffers = Buffers(self, self._context, {n: a[start : start + step] for n, a in fed.items()})
            buffers.execute()
            parts.append(buffers.outputs())
        return {n: np.concatenate([p[n] for p in parts]) for n in self.output_names}

    def bind(self, inputs: Arrays) -> TrtBoundRun:
        """Place inputs and outputs on the device and capture one inference as a CUDA graph.

        Raises:
            UsageError: as `run`.
        """
        return TrtBoundRun(Buffers(self, self.new_context(), self.fed(inputs)))

    def fed(self, inputs: Arrays) -> dict[str, np.ndarray]:
        missing = [n for n in self.input_names if n not in inputs]
        if missing:
            raise UsageError(
                "The model needs inputs that were not given.", got=", ".join(inputs) or "none",
                allowed=", ".join(self.input_names),
            )  # fmt: skip
        return {
            n: np.ascontiguousarray(inputs[n], dtype=self.trt.nptype(self.engine.get_tensor_dtype(n))) for n in self.input_names
        }

    def save(self, path: Path) -> Path:
        return write_engine_file(self._plan, self.facts, path)

    def close(self) -> None:
        self._context = None
        self._engine = None
        self._runtime = None


class Buffers:
    """The device arrays of one context at one shape, and its stream."""

    def __init__(self, owner: TrtEngine, context, inputs: dict[str, np.ndarray]):
        import cupy

        self._cupy, self.context, self._owner = cupy, context, owner
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.host_inputs = inputs
        with self.stream:
            self.device_inputs = {n: cupy.asarray(a) for n, a in inputs.items()}
        for name, array in self.device_inputs.items():
            if not context.set_input_shape(name, tuple(array.shape)):
                low, _, high = owner.engine.get_tensor_profile_shape(name, 0)
                raise UsageError(
                    "An input does not fit the engine's profile.", got=f"{name} {list(array.shape)}",
                    allowed=f"{list(low)} to {list(high)}", next_step="build the engine with a larger --max-batch or --max-sequence",
                )  # fmt: skip
            context.set_tensor_address(name, array.data.ptr)
        self.device_outputs = {}
        for name in owner.output_names:
            shape = tuple(context.get_tensor_shape(name))
            array = cupy.empty(shape, dtype=owner.trt.nptype(owner.engine.get_tensor_dtype(name)))
            self.device_outputs[name] = array
            context.set_tensor_address(name, array.data.ptr)
        self.stream.synchronize()

    def enqueue(self) -> None:
        if not self.context.execute_async_v3(self.stream.ptr):
            raise EnvironmentMissingError(
                "TensorRT could not run the engine.", got=complaints(self._owner.trt) or "no reason was given",
                next_step="build the engine again on this machine: rfx build MODEL.onnx",
            )  # fmt: skip

    def execute(self) -> None:
        self.enqueue()
        self.stream.synchronize()

    def outputs(self) -> dict[str, np.ndarray]:
        return {n: self._cupy.asnumpy(a, stream=self.stream) for n, a in self.device_outputs.items()}


class TrtBoundRun(BoundRun):
    """One inference as a CUDA graph on buffers that stay. GPU compute time is that between two events around it."""

    def __init__(self, buffers: Buffers):
        import cupy

        self._buffers, self._cuda = buffers, cupy.cuda
        stream = buffers.stream
        buffers.execute()  # once outside: lazy initialisation must not be captured
        stream.begin_capture()
        try:
            buffers.enqueue()
        finally:
            self._graph = stream.end_capture()
        self._start, self._end = cupy.cuda.Event(), cupy.cuda.Event()

    def time_ms(self) -> float:
        stream = self._buffers.stream
        self._start.record(stream)
        self._graph.launch(stream)
        self._end.record(stream)
        self._end.synchronize()
        return float(self._cuda.get_elapsed_time(self._start, self._end))

    def with_transfers_ms(self) -> float:
        buffers, stream = self._buffers, self._buffers.stream
        self._start.record(stream)
        for name, array in buffers.host_inputs.items():
            buffers.device_inputs[name].set(array, stream=stream)
        self._graph.launch(stream)
        host = [array.get(stream=stream, blocking=False) for array in buffers.device_outputs.values()]
        self._end.record(stream)
        self._end.synchronize()
        del host  # kept alive until the copies are done
        return float(self._cuda.get_elapsed_time(self._start, self._end))


def _broken(module: str | None) -> list[str]:
    """With everything in place: does it load, and does CuPy see the GPU?"""
    try:
        library("trt-rtx" if module == "tensorrt_rtx" else "trt")
        import cupy

        if not cupy.cuda.is_available():
            return ["CuPy sees no GPU"]
    except EnvironmentMissingError as error:
        return [f"{error.what} {error.got}"]
    except Exception as error:  # noqa: BLE001 - a CuPy for another CUDA fails in many ways
        return [f"CuPy cannot be used ({type(error).__name__}: {error})"]
    return []
