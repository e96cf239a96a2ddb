"""ONNX Runtime on the CPU: the runtime that every machine has."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from rfx.errors import EnvironmentMissingError, UsageError
from rfx.runtimes.base import Arrays, Availability, BoundRun, Conditions, Engine, Runtime

PROVIDER = "CPUExecutionProvider"


class OnnxRuntimeCpu(Runtime):
    """`ort`: the CPU execution provider, sequential, spinning off, all graph optimisations on.

    With one thread (the default) the clock is the CPU time of the process: time in which another process had the core
    is not counted, so a shared machine measures the same latency as an idle one. With several threads CPU time would
    add up the threads, so the clock is then the wall clock.
    """

    name: ClassVar[str] = "ort"
    clock: ClassVar[str] = "process CPU time"
    filter_grid: ClassVar[int] = 32
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    smooth: ClassVar[bool] = True  # latency on a CPU is near linear in heads and filters (R2 >= 0.996)

    @classmethod
    def availability(cls) -> Availability:
        try:
            import onnxruntime
        except Exception as error:  # noqa: BLE001 - a half-installed wheel fails in other ways than ImportError
            return Availability(
                False, f"onnxruntime cannot be imported ({type(error).__name__}: {error})", "pip install onnxruntime"
            )
        # Two onnxruntime wheels share one folder; removing one of them hollows out the other.
        if not hasattr(onnxruntime, "InferenceSession"):
            return Availability(
                False, "onnxruntime is only half installed (another onnxruntime wheel was removed over it)",
                "pip install --force-reinstall onnxruntime",
            )  # fmt: skip
        if PROVIDER not in onnxruntime.get_available_providers():
            return Availability(False, f"this onnxruntime has no {PROVIDER}", "pip install onnxruntime")
        return Availability(True)

    def version(self) -> str:
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"

    def device(self) -> str:
        from rfx.environment import cpu_model

        return cpu_model()

    def clock_for(self, conditions: Conditions) -> str:
        return self.clock if conditions.threads == 1 else "wall clock"

    def build(self, onnx_path: Path, conditions: Conditions) -> OrtEngine:
        """Load an ONNX file into a session.

        Raises:
            UsageError: no such file, not a valid ONNX file, or a precision this runtime does not serve.
            EnvironmentMissingError: this onnxruntime cannot run the file (an operator or opset is missing), or the
                session does not run on the CPU provider.
        """
        path = Path(onnx_path)
        if not path.is_file():
            raise UsageError("The ONNX file does not exist.", got=str(path), allowed="an ONNX file")
        return self.build_model(path, conditions)

    def build_model(self, model: Path | bytes, conditions: Conditions) -> OrtEngine:
        """As `build`; also takes a serialised model."""
        import onnxruntime as ort
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        if conditions.precision not in self.precisions:
            raise UsageError(
                f"The runtime {self.name!r} does not serve this precision.",
                got=conditions.precision, allowed=", ".join(self.precisions),
            )  # fmt: skip
        where = f"{model}" if isinstance(model, Path) else "the model in memory"
        try:
            session = ort.InferenceSession(
                str(model) if isinstance(model, Path) else model, _options(ort, conditions), providers=[PROVIDER]
            )
        except (state.NoSuchFile, state.InvalidProtobuf, state.InvalidGraph, state.NoModel) as error:
            raise UsageError(
                f"ONNX Runtime cannot read {where}.", got=_first_line(error), allowed="a valid ONNX file",
                next_step="export it again",
            ) from error  # fmt: skip
        except (state.Fail, state.NotImplemented, state.InvalidArgument, state.RuntimeException) as error:
            raise EnvironmentMissingError(
                f"{self.version()} cannot run {where}.", got=_first_line(error),
                next_step="install a newer onnxruntime, or export the model again with this version of rfx",
            ) from error  # fmt: skip
        # A session falls back silently to another provider: a latency of the wrong one would be worthless.
        if session.get_providers()[0] != PROVIDER:
            raise EnvironmentMissingError(
                "ONNX Runtime does not run the model on the provider that was asked for.",
                got=", ".join(session.get_providers()), allowed=PROVIDER, next_step="pip install onnxruntime",
            )  # fmt: skip
        return OrtEngine(session, wall_clock=conditions.threads > 1)


def _options(ort, conditions: Conditions):
    options = ort.SessionOptions()
    options.intra_op_num_threads = conditions.threads
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
        except (state.InvalidArgument, state.Fail, state.RuntimeException, ValueError, RuntimeError) as error:
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
        except (state.InvalidArgument, state.Fail, state.RuntimeException, ValueError, RuntimeError) as error:
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


def _feed(names: Sequence[str], inputs: Arrays) -> dict[str, np.ndarray]:
    missing = [n for n in names if n not in inputs]
    if missing:
        raise UsageError(
            "The model needs inputs that were not given.", got=", ".join(inputs) or "none", allowed=", ".join(names)
        )
    return {n: np.ascontiguousarray(inputs[n]) for n in names}


def _run_error(error: Exception, inputs: Arrays) -> UsageError:
    shapes = ", ".join(f"{n} {a.dtype}{list(a.shape)}" for n, a in inputs.items())
    return UsageError("ONNX Runtime cannot run the model on these inputs.", got=f"{shapes}: {_first_line(error)}")
