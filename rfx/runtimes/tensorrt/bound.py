"""One TensorRT context at one shape: its buffers on the device, and the CUDA graph that is
timed."""

from __future__ import annotations

import contextlib
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rfx.core.errors import EnvironmentMissingError, UsageError, first_line
from rfx.runtimes.base import BoundRun
from rfx.runtimes.tensorrt.log import complaints

if TYPE_CHECKING:
    import cupy


class Owner(Protocol):
    """What buffers need of the engine that they belong to."""

    trt: ModuleType
    output_names: tuple[str, ...]

    @property
    def engine(self) -> Any: ...

    @property
    def stream(self) -> cupy.cuda.Stream: ...


class Buffers:
    """The device arrays of one context at one shape, on its engine's stream."""

    def __init__(self, owner: Owner, context: Any, inputs: dict[str, np.ndarray]) -> None:
        import cupy

        self._cupy, self.context, self._owner = cupy, context, owner
        self.stream = owner.stream
        self.host_inputs = inputs
        self.device_inputs: dict[str, cupy.ndarray] = {}
        self.device_outputs: dict[str, cupy.ndarray] = {}
        try:
            self._place(inputs)
        except cupy.cuda.memory.OutOfMemoryError as error:
            shapes = ", ".join(f"{n} {list(a.shape)}" for n, a in inputs.items())
            raise EnvironmentMissingError(
                "The device's memory is not enough for these inputs.",
                got=f"{shapes}: {first_line(error)}",
                allowed="a smaller batch or sequence, or a device with more memory",
                next_step="lower --batch or --sequence",
            ) from None
        self.stream.synchronize()

    def _place(self, inputs: dict[str, np.ndarray]) -> None:
        """Inputs, and room for the outputs, on the device."""
        cupy, owner, context = self._cupy, self._owner, self.context
        with self.stream:
            self.device_inputs = {n: cupy.asarray(a) for n, a in inputs.items()}
            for name, array in self.device_inputs.items():
                if not context.set_input_shape(name, tuple(array.shape)):
                    low, _, high = owner.engine.get_tensor_profile_shape(name, 0)
                    raise UsageError(
                        "An input does not fit the engine's profile.",
                        got=f"{name} {list(array.shape)}",
                        allowed=f"{list(low)} to {list(high)}",
                        next_step="build the engine with a larger --max-batch or --max-sequence",
                    )
                context.set_tensor_address(name, array.data.ptr)
            for name in owner.output_names:
                shape = tuple(context.get_tensor_shape(name))
                array = cupy.empty(
                    shape, dtype=owner.trt.nptype(owner.engine.get_tensor_dtype(name))
                )
                self.device_outputs[name] = array
                context.set_tensor_address(name, array.data.ptr)

    def enqueue(self) -> None:
        if not self.context.execute_async_v3(self.stream.ptr):
            raise EnvironmentMissingError(
                "TensorRT could not run the engine.",
                got=complaints(self._owner.trt) or "no reason was given",
                next_step="build the engine again on this machine: rfx build MODEL.onnx",
            )

    def execute(self) -> None:
        self.enqueue()
        self.stream.synchronize()

    def blank(self) -> None:
        """Outputs that no inference leaves: NaN, and the least of the integers."""
        with self.stream:
            for array in self.device_outputs.values():
                array.fill(
                    np.nan
                    if array.dtype.kind == "f"
                    else np.iinfo(array.dtype).min
                    if array.dtype.kind == "i"
                    else 0
                )

    def outputs(self) -> dict[str, np.ndarray]:
        return {
            n: self._cupy.asnumpy(a, stream=self.stream) for n, a in self.device_outputs.items()
        }

    def release(self) -> None:
        self.context = None
        self.device_inputs, self.device_outputs = {}, {}


class TrtBoundRun(BoundRun):
    """One inference as a CUDA graph on buffers that stay. GPU compute time is that between two
    events around it.

    Where the engine cannot be captured it is enqueued as it is, and `measurement` says so.
    """

    def __init__(self, buffers: Buffers) -> None:
        import cupy

        self._buffers, self._cuda = buffers, cupy.cuda
        self._graph: cupy.cuda.Graph | None = None
        self._refused = ""
        buffers.execute()  # once outside: lazy initialisation must not be captured
        try:
            self._graph = self._captured()
        except Exception as error:
            # Of TensorRT and of CUDA, in many kinds; without a graph it may still run.
            self._refused = first_line(error)
            buffers.execute()
        self._start, self._end = cupy.cuda.Event(), cupy.cuda.Event()

    def _captured(self) -> cupy.cuda.Graph:
        stream = self._buffers.stream
        stream.begin_capture()
        try:
            self._buffers.enqueue()
        except BaseException:
            # A stream that is left capturing refuses everything; the first error says why.
            with contextlib.suppress(Exception):
                stream.end_capture()
            raise
        return stream.end_capture()

    def _launch(self) -> None:
        if self._graph is None:
            self._buffers.enqueue()
        else:
            self._graph.launch(self._buffers.stream)

    def time_ms(self) -> float:
        """GPU time of one inference that was queued while another ran: on an idle stream the events
        would also take in what the host needs to launch it."""
        stream = self._buffers.stream
        self._launch()
        self._start.record(stream)
        self._launch()
        self._end.record(stream)
        self._end.synchronize()
        return float(self._cuda.get_elapsed_time(self._start, self._end))

    def with_transfers_ms(self) -> float:
        buffers, stream = self._buffers, self._buffers.stream
        self._start.record(stream)
        for name, array in buffers.host_inputs.items():
            buffers.device_inputs[name].set(array, stream=stream)
        self._launch()
        host = [
            array.get(stream=stream, blocking=False) for array in buffers.device_outputs.values()
        ]
        self._end.record(stream)
        self._end.synchronize()
        del host  # kept alive until the copies are done
        return float(self._cuda.get_elapsed_time(self._start, self._end))

    def outputs(self) -> dict[str, np.ndarray]:
        """What is timed, computed once more into outputs that were NaN before."""
        self._buffers.blank()
        self._launch()
        self._buffers.stream.synchronize()
        return self._buffers.outputs()

    def measurement(self) -> dict[str, Any]:
        return (
            {"cuda_graph": False, "cuda_graph_refused": self._refused}
            if self._graph is None
            else {}
        )

    def release(self) -> None:
        """Give back the graph and the buffers; it cannot be timed any more."""
        self._graph = None
        self._buffers.release()
