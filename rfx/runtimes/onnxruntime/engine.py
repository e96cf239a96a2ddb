"""Sessions of ONNX Runtime that run and are timed: buffers on the CPU, or on the device."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from rfx.core.errors import EnvironmentMissingError, UsageError, UserError, first_line
from rfx.runtimes.base import Arrays, BoundRun, Engine

if TYPE_CHECKING:
    import onnxruntime


class OrtEngine(Engine):
    """A session. `input_names` and `output_names` are those of the graph, in its order."""

    def __init__(self, session: onnxruntime.InferenceSession, wall_clock: bool = False) -> None:
        self._session: onnxruntime.InferenceSession | None = session
        self._wall_clock = wall_clock
        self.input_names = tuple(i.name for i in session.get_inputs())
        self.output_names = tuple(o.name for o in session.get_outputs())

    @property
    def session(self) -> onnxruntime.InferenceSession:
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
        session = self.session
        fed = _feed(self.input_names, inputs)
        with _named_failures(fed):
            outputs = session.run(list(self.output_names), fed)
        return dict(zip(self.output_names, outputs, strict=True))

    def bind(self, inputs: Arrays) -> BoundRun:
        """Place inputs and outputs once, so that a call times the graph and no copies in Python.

        Raises:
            UsageError: as `run`.
        """
        session = self.session
        fed = _feed(self.input_names, inputs)
        with _named_failures(fed):
            return OrtBoundRun(session, fed, self.output_names, self._wall_clock)

    def close(self) -> None:
        self._session = None


class OrtBoundRun(BoundRun):
    """Inputs and outputs in buffers that stay (the shapes are fixed by the inputs)."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        inputs: Arrays,
        output_names: Sequence[str],
        wall_clock: bool,
    ) -> None:
        self._clock = time.perf_counter_ns if wall_clock else time.process_time_ns
        self._run = session.run_with_iobinding
        self._binding = session.io_binding()
        self._inputs = inputs  # the binding points into these arrays
        for name, array in inputs.items():
            self._binding.bind_cpu_input(name, array)
        for name in output_names:
            self._binding.bind_output(name, "cpu")
        self._run(self._binding)
        self._outputs = _keep_outputs(self._binding, output_names, "cpu")

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
        fed = _feed(self.input_names, inputs)
        with _named_failures(fed):
            return OrtCudaBoundRun(self.session, fed, self.output_names)


class OrtCudaBoundRun(BoundRun):
    """Inputs and outputs stay on the device; a call ends when the device is done."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        inputs: Arrays,
        output_names: Sequence[str],
    ) -> None:
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
        self._outputs = _keep_outputs(self._binding, output_names, "cuda")

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


def _keep_outputs(
    binding: onnxruntime.IOBinding, names: Sequence[str], device: str
) -> list[onnxruntime.OrtValue]:
    """Binds every output to memory that stays, as large as the run before says that it must be.

    The values that `get_outputs` gives lie inside the binding, and clearing it destroys them. So
    the memory is allocated anew and belongs to the values that are returned here.
    """
    import onnxruntime as ort

    like = [value.numpy() for value in binding.get_outputs()]
    kept = [
        ort.OrtValue.ortvalue_from_shape_and_type(a.shape, a.dtype.type, device, 0) for a in like
    ]
    binding.clear_binding_outputs()
    for name, value in zip(names, kept, strict=True):
        binding.bind_ortvalue_output(name, value)
    return kept


def _feed(names: Sequence[str], inputs: Arrays) -> dict[str, np.ndarray]:
    missing = [n for n in names if n not in inputs]
    if missing:
        raise UsageError(
            "The model needs inputs that were not given.",
            got=", ".join(inputs) or "none",
            allowed=", ".join(names),
            next_step="feed every input that the model has, by its name",
        )
    return {n: np.ascontiguousarray(inputs[n]) for n in names}


@contextmanager
def _named_failures(inputs: Arrays) -> Iterator[None]:
    """What ONNX Runtime raises on these inputs becomes an error in rfx's words."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = (state.InvalidArgument, state.Fail, state.RuntimeException, ValueError, RuntimeError)
    try:
        yield
    except kinds as error:
        raise run_error(error, inputs) from error


def run_error(error: Exception, inputs: Arrays) -> UserError:
    """A failed inference in rfx's words: of the device's memory, or of the inputs."""
    shapes = ", ".join(f"{n} {a.dtype}{list(a.shape)}" for n, a in inputs.items())
    if re.search(
        r"allocat|out of memory|CUDA failure|CUBLAS_STATUS|CUDNN_STATUS", str(error), re.IGNORECASE
    ):
        return EnvironmentMissingError(
            "The device's memory is not enough for these inputs, or the device failed.",
            got=f"{shapes}: {first_line(error)}",
            allowed="a smaller batch or sequence, or a device with more memory",
            next_step="lower --batch or --sequence",
        )
    return UsageError(
        "ONNX Runtime cannot run the model on these inputs.",
        got=f"{shapes}: {first_line(error)}",
        next_step="give inputs of the shapes and types that the model asks for",
    )
