"""ONNX Runtime: `ort` on the CPU, the runtime that every machine has, and `cuda` on an NVIDIA
GPU."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rfx.core.errors import EnvironmentMissingError, UsageError, UserError
from rfx.core.workload import Workload
from rfx.runtimes.base import GPU_GRID, Arrays, Availability, BoundRun, Engine, Runtime
from rfx.runtimes.gpu import gpu_count, gpu_group_bytes, gpu_name, gpu_state

INSTEAD = "run with --target ort (ONNX Runtime on this machine's CPU)"
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class OnnxRuntimeCpu(Runtime):
    """`ort`: the CPU execution provider, sequential, spinning off, all graph optimisations on.

    With one thread (the default) the clock is the CPU time of the process: time in which another
    process had the core is not counted, so a shared machine measures the same latency as an idle
    one. With several threads CPU time would add up the threads, so the clock is then the wall
    clock.
    """

    name: ClassVar[str] = "ort"
    clock: ClassVar[str] = "process CPU time"
    filter_grid: ClassVar[int] = 32
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    smooth: ClassVar[bool] = (
        True  # latency on a CPU is near linear in heads and filters (R2 >= 0.996)
    )
    provider: ClassVar[str] = CPU
    wheel: ClassVar[str] = "pip install onnxruntime"

    @classmethod
    def availability(cls) -> Availability:
        try:
            import onnxruntime
        except Exception as error:  # noqa: BLE001 - a half-installed wheel fails in other ways than ImportError
            return Availability(
                False,
                f"onnxruntime cannot be imported ({type(error).__name__}: {error})",
                cls.wheel,
            )
        # Two onnxruntime wheels share one folder; removing one of them hollows out the other.
        if not hasattr(onnxruntime, "InferenceSession"):
            return Availability(
                False,
                "onnxruntime is only half installed (another onnxruntime wheel was removed over "
                "it)",
                "pip install --force-reinstall onnxruntime",
            )
        if cls.provider not in onnxruntime.get_available_providers():
            return Availability(False, f"this onnxruntime has no {cls.provider}", cls.wheel)
        return Availability(True)

    def version(self) -> str:
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"

    def device(self) -> str:
        from rfx.core.environment import cpu_model

        return cpu_model()

    def clock_for(self, workload: Workload) -> str:
        return self.clock if workload.threads == 1 else "wall clock"

    def build(self, onnx_path: Path, workload: Workload) -> OrtEngine:
        """Load an ONNX file into a session.

        Raises:
            UsageError: no such file, not a valid ONNX file, or a precision this runtime does not
                serve.
            EnvironmentMissingError: this onnxruntime cannot run the file (an operator or opset is
                missing), or the session does not run on the CPU provider.
        """
        path = Path(onnx_path)
        if not path.is_file():
            raise UsageError("The ONNX file does not exist.", got=str(path), allowed="an ONNX file")
        return self.build_model(path, workload)

    def build_model(self, model: Path | bytes, workload: Workload) -> OrtEngine:
        """As `build`; also takes a serialised model."""
        import onnxruntime as ort
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        self._before_session(ort)
        if workload.precision not in self.precisions:
            raise UsageError(
                f"The runtime {self.name!r} does not serve this precision.",
                got=workload.precision,
                allowed=", ".join(self.precisions),
            )
        where = f"{model}" if isinstance(model, Path) else "the model in memory"
        try:
            session = ort.InferenceSession(
                str(model) if isinstance(model, Path) else model,
                _options(ort, workload),
                providers=self._providers(),
            )
        except (
            state.NoSuchFile,
            state.InvalidProtobuf,
            state.InvalidGraph,
            state.NoModel,
        ) as error:
            raise UsageError(
                f"ONNX Runtime cannot read {where}.",
                got=_first_line(error),
                allowed="a valid ONNX file",
                next_step="export it again",
            ) from error
        except (
            state.Fail,
            state.NotImplemented,
            state.InvalidArgument,
            state.RuntimeException,
        ) as error:
            raise EnvironmentMissingError(
                f"{self.version()} cannot run {where}.",
                got=_first_line(error),
                next_step="install a newer onnxruntime, or export the model again with this "
                "version of rfx",
            ) from error
        # A session falls back silently to another provider: a latency of the wrong one would be
        # worthless.
        if session.get_providers()[0] != self.provider:
            raise EnvironmentMissingError(
                "ONNX Runtime does not run the model on the provider that was asked for.",
                got=", ".join(session.get_providers()),
                allowed=self.provider,
                next_step=self.wheel,
            )
        return self._engine(session, workload)

    def _before_session(self, ort) -> None:
        """What has to be loaded before the first session."""

    def _providers(self) -> list:
        return [self.provider]

    def _engine(self, session, workload: Workload) -> OrtEngine:
        return OrtEngine(session, wall_clock=workload.threads > 1)


class OnnxRuntimeCuda(OnnxRuntimeCpu):
    """`cuda`: the CUDA execution provider, through I/O binding: inputs and outputs lie on the
    device.

    The clock is the wall clock from the call until the device is done: what a server waits for,
    launches included, transfers excluded. Unverified on hardware until a committed result under
    benchmarks/results says otherwise.
    """

    name: ClassVar[str] = "cuda"
    clock: ClassVar[str] = "wall clock, device synchronised, no transfers"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "bf16")
    max_depth: ClassVar[int] = 6
    own_activations: ClassVar[bool] = True
    smooth: ClassVar[bool] = False
    verified: ClassVar[bool] = False
    provider: ClassVar[str] = CUDA
    wheel: ClassVar[str] = (
        "pip uninstall onnxruntime, then pip install 'rfx-exporter[cuda13]' (or [cuda12]): the "
        "two wheels share one folder"
    )

    @classmethod
    def availability(cls) -> Availability:
        count, why_no_gpu = gpu_count()
        here = super().availability()
        if count:
            return here
        # A wheel with the provider lists it on every machine: only the driver tells whether there
        # is a GPU.
        return Availability(
            False, "; ".join([why_no_gpu, *([here.reason] if here.reason else [])]), INSTEAD
        )

    def device(self) -> str:
        return gpu_name()

    def clock_for(self, workload: Workload) -> str:
        return self.clock

    def tolerance(self, precision: str) -> float:
        return (
            1e-2 if precision == "fp32" else super().tolerance(precision)
        )  # TF32, the provider's default

    def grid(self, precision: str) -> int:
        return GPU_GRID[precision]

    def group_bytes(self) -> int:
        return gpu_group_bytes() or super().group_bytes()

    def measurement(self, workload: Workload) -> dict[str, Any]:
        facts = {"transfers": "excluded", "streams": 1, "cuda_graph": False, "clock_source": "host"}
        return facts | ({"tf32": True} if workload.precision == "fp32" else {})

    def state(self) -> dict[str, Any] | None:
        return gpu_state()

    def _before_session(self, ort) -> None:
        here = self.availability()
        if not here.ok:
            raise EnvironmentMissingError(
                "The runtime 'cuda' cannot run a model here.",
                got=here.reason,
                next_step=here.next_step,
            )
        if hasattr(ort, "preload_dlls"):  # CUDA and cuDNN from their own wheels, or from torch's
            import contextlib
            import io

            with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
                ort.preload_dlls()

    def _providers(self) -> list:
        # The CPU stands last for the few integer operations on shapes, which the provider leaves to
        # it.
        return [(CUDA, {"device_id": 0}), CPU]

    def _engine(self, session, workload: Workload) -> OrtEngine:
        return OrtCudaEngine(session)


def _options(ort, workload: Workload):
    options = ort.SessionOptions()
    options.intra_op_num_threads = workload.threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # A spinning worker burns CPU time that is no work of the model.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 4  # the library never prints; what fails comes as an exception
    return options


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


class OrtEngine(Engine):
    """A session. `input_names` and `output_names` are those of the graph, in its order."""

    def __init__(self, session, wall_clock: bool = False):
        self._session = session
        self._wall_clock = wall_clock
        self.input_names = tuple(i.name for i in session.get_inputs())
        self.output_names = tuple(o.name for o in session.get_outputs())

    @property
    def session(self):
        """The onnxruntime.InferenceSession.

        Raises:
            RuntimeError: the engine was closed.
        """
        if self._session is None:
            raise RuntimeError("the engine was closed")
        return self._session

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """One inference; outputs by name. Inputs the graph does not have are left out.

        Raises:
            UsageError: an input is missing, or has another type or shape than the graph asks for.
        """
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        session = self.session
        fed = _feed(self.input_names, inputs)
        try:
            outputs = session.run(list(self.output_names), fed)
        except (
            state.InvalidArgument,
            state.Fail,
            state.RuntimeException,
            ValueError,
            RuntimeError,
        ) as error:
            raise _run_error(error, fed) from error
        return dict(zip(self.output_names, outputs, strict=True))

    def bind(self, inputs: Arrays) -> OrtBoundRun:
        """Place inputs and outputs once, so that a call times the graph and no copies in Python.

        Raises:
            UsageError: as `run`.
        """
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        session = self.session
        fed = _feed(self.input_names, inputs)
        try:
            return OrtBoundRun(session, fed, self.output_names, self._wall_clock)
        except (
            state.InvalidArgument,
            state.Fail,
            state.RuntimeException,
            ValueError,
            RuntimeError,
        ) as error:
            raise _run_error(error, fed) from error

    def close(self) -> None:
        self._session = None


class OrtBoundRun(BoundRun):
    """Inputs and outputs in buffers that stay (the shapes are fixed by the inputs)."""

    def __init__(self, session, inputs: Arrays, output_names: Sequence[str], wall_clock: bool):
        self._clock = time.perf_counter_ns if wall_clock else time.process_time_ns
        self._run = session.run_with_iobinding
        self._binding = session.io_binding()
        self._inputs = inputs  # the binding points into these arrays
        for name, array in inputs.items():
            self._binding.bind_cpu_input(name, array)
        for name in output_names:
            self._binding.bind_output(name, "cpu")
        self._run(self._binding)
        # The first run says how large the outputs are: from now on they are written where they lie.
        self._outputs = self._binding.get_outputs()
        self._binding.clear_binding_outputs()
        for name, value in zip(output_names, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(name, value)

    def outputs(self) -> list[np.ndarray]:
        """The outputs of the last call, in the engine's order."""
        return [value.numpy() for value in self._outputs]

    def time_ms(self) -> float:
        start = self._clock()
        self._run(self._binding)
        return (self._clock() - start) * 1e-6


class OrtCudaEngine(OrtEngine):
    """As `OrtEngine`, bound to buffers on the device."""

    def bind(self, inputs: Arrays) -> OrtCudaBoundRun:
        """Raises UsageError as `run`."""
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        fed = _feed(self.input_names, inputs)
        try:
            return OrtCudaBoundRun(self.session, fed, self.output_names)
        except (
            state.InvalidArgument,
            state.Fail,
            state.RuntimeException,
            ValueError,
            RuntimeError,
        ) as error:
            raise _run_error(error, fed) from error


class OrtCudaBoundRun(BoundRun):
    """Inputs and outputs stay on the device; a call ends when the device is done."""

    def __init__(self, session, inputs: Arrays, output_names: Sequence[str]):
        import onnxruntime as ort

        self._session, self._host = session, dict(inputs)
        self._binding = session.io_binding()
        self._device = {
            n: ort.OrtValue.ortvalue_from_numpy(a, "cuda", 0) for n, a in self._host.items()
        }
        for name, value in self._device.items():
            self._binding.bind_ortvalue_input(name, value)
        for name in output_names:
            self._binding.bind_output(name, "cuda", 0)
        session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        self._outputs = self._binding.get_outputs()
        self._binding.clear_binding_outputs()
        for name, value in zip(output_names, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(name, value)

    def time_ms(self) -> float:
        start = time.perf_counter_ns()
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        return (time.perf_counter_ns() - start) * 1e-6

    def with_transfers_ms(self) -> float:
        start = time.perf_counter_ns()
        for name, value in self._device.items():
            value.update_inplace(self._host[name])
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        for value in self._outputs:
            value.numpy()
        return (time.perf_counter_ns() - start) * 1e-6


def _feed(names: Sequence[str], inputs: Arrays) -> dict[str, np.ndarray]:
    missing = [n for n in names if n not in inputs]
    if missing:
        raise UsageError(
            "The model needs inputs that were not given.",
            got=", ".join(inputs) or "none",
            allowed=", ".join(names),
        )
    return {n: np.ascontiguousarray(inputs[n]) for n in names}


def _run_error(error: Exception, inputs: Arrays) -> UserError:
    shapes = ", ".join(f"{n} {a.dtype}{list(a.shape)}" for n, a in inputs.items())
    if re.search(
        r"allocat|out of memory|CUDA failure|CUBLAS_STATUS|CUDNN_STATUS", str(error), re.IGNORECASE
    ):
        return EnvironmentMissingError(
            "The device's memory is not enough for these inputs, or the device failed.",
            got=f"{shapes}: {_first_line(error)}",
            allowed="a smaller batch or sequence, or a device with more memory",
            next_step="lower --batch or --sequence",
        )
    return UsageError(
        "ONNX Runtime cannot run the model on these inputs.", got=f"{shapes}: {_first_line(error)}"
    )
