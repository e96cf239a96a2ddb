"""A TensorRT engine that was deserialised: it is run, bound to be timed, and saved."""

from __future__ import annotations

import hashlib
import weakref
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.core.errors import EnvironmentMissingError, UsageError
from rfx.runtimes.base import Arrays, Engine
from rfx.runtimes.gpu import free_pools
from rfx.runtimes.tensorrt.bound import Buffers, TrtBoundRun
from rfx.runtimes.tensorrt.build import is_rtx
from rfx.runtimes.tensorrt.file import unfit, write_engine_file
from rfx.runtimes.tensorrt.log import complaints, new_runtime

if TYPE_CHECKING:
    import cupy


def deserialise(trt: ModuleType, data: bytes, facts: dict[str, Any], where: str) -> TrtEngine:
    """The engine that was serialised to `data`.

    Raises:
        EnvironmentMissingError: TensorRT does not accept it; `where` is what the message names.
    """
    runtime = new_runtime(trt)  # clears the log
    if facts.get("options", {}).get("version_compatible"):
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise unfit(
            Path(where), complaints(trt) or "TensorRT does not accept it and gives no reason"
        )
    return TrtEngine(trt, runtime, engine, facts)


class TrtEngine(Engine):
    """A deserialised engine and its stream. Inputs larger than its profile's batch are run in
    parts.

    The serialised bytes are not kept: a table has dozens of engines alive, of which none is saved.
    """

    def __init__(self, trt: ModuleType, runtime: Any, engine: Any, facts: dict[str, Any]) -> None:
        self.trt = trt
        self.facts: dict[str, Any] = facts
        self._runtime, self._engine = runtime, engine  # the runtime must outlive its engine
        self._bound: weakref.WeakSet[TrtBoundRun] = weakref.WeakSet()
        self._stream: cupy.cuda.Stream | None = None
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self.input_names = tuple(
            n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT
        )
        self.output_names = tuple(n for n in names if n not in self.input_names)
        self._context: Any = None

    @property
    def engine(self) -> Any:
        """The ICudaEngine.

        Raises:
            RuntimeError: the engine was closed.
        """
        if self._engine is None:
            raise RuntimeError("the engine was closed")
        return self._engine

    @property
    def stream(self) -> cupy.cuda.Stream:
        """The CUDA stream that all its runs share."""
        if self._stream is None:
            import cupy

            self._stream = cupy.cuda.Stream(non_blocking=True)
        return self._stream

    @property
    def max_batch(self) -> int:
        return int(self.engine.get_tensor_profile_shape(self.input_names[0], 0)[2][0])

    def new_context(self, *, timed: bool = False) -> Any:
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
                next_step="feed every input that the model has, by its name",
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
        data = bytes(serialised)
        self.facts |= {
            "engine_bytes": len(data),
            "engine_sha256": hashlib.sha256(data).hexdigest(),
        }
        return write_engine_file(data, self.facts, path)

    def close(self) -> None:
        for run in list(self._bound):  # whoever holds one holds no memory of the device by it
            run.release()
        self._context = self._engine = self._runtime = self._stream = None
        free_pools()


def _kind(dtype: np.dtype) -> str:
    """Integers of either sign are one kind: token ids come as both."""
    return "i" if dtype.kind == "u" else dtype.kind
