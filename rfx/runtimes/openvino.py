"""OpenVINO on the CPU: the runtime of many edge boxes."""

from __future__ import annotations

import importlib.util
import re
import time
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rfx.core.environment import cpu_model
from rfx.core.errors import EnvironmentMissingError, UsageError, first_line
from rfx.core.registry import register
from rfx.core.streams import native_errors_dropped
from rfx.core.text import one_line
from rfx.core.workload import Workload
from rfx.runtimes.base import Arrays, Availability, BoundRun, Capabilities, Engine, Runtime

if TYPE_CHECKING:
    import openvino

INSTALL = "pip install 'rfx-exporter[openvino]'"
# By precision. Of a quantized file, what is not quantized stays in fp32: left to itself the plugin
# computes it in bf16 on CPUs that have it, and is compared with a dense model in fp32.
HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}


@register("runtime", "openvino")
class OpenVino(Runtime):
    """`openvino`: the CPU plugin, one stream, compiled for latency.

    The clock is as ONNX Runtime's on the CPU: process CPU time with one thread, the wall clock with
    several. A half precision is served only where the CPU computes in it (AVX-512 BF16, AMX, or
    FP16 of newer cores).
    """

    name: ClassVar[str] = "openvino"
    clock: ClassVar[str] = "process CPU time"
    capabilities: ClassVar[Capabilities] = Capabilities(
        device="cpu",
        precisions=("fp32", "fp16", "bf16", "int8"),
        quantizer="nncf",
        preference=50,
        serving="openvino",
        stands_in=("fp32", "fp16", "bf16"),
        uses_threads=True,
        smooth=True,
    )

    @classmethod
    def availability(cls) -> Availability:
        if importlib.util.find_spec("openvino") is None:
            return Availability(False, "openvino is not installed", INSTALL)
        try:
            _core()
        except Exception as error:  # a half-installed wheel fails in many ways
            return Availability(False, f"openvino cannot be used ({first_line(error)})", INSTALL)
        return Availability(True)

    def version(self) -> str:
        try:
            return f"openvino {metadata.version('openvino')}"
        except metadata.PackageNotFoundError:
            return "openvino (not installed)"

    def device(self) -> str:
        return cpu_model()

    def clock_for(self, workload: Workload) -> str:
        return self.clock if workload.threads == 1 else "wall clock"

    def tolerance(self, precision: str) -> float:
        # The hint lets the plugin compute every product in bf16, the sums too.
        return 1e-1 if precision == "bf16" else super().tolerance(precision)

    def build(self, onnx_path: Path, workload: Workload) -> OpenVinoEngine:
        """Read and compile.

        Raises:
            UsageError: no such file, or not a valid ONNX file.
            EnvironmentMissingError: OpenVINO is missing or cannot compile the file, or this CPU
                does not compute in the precision.
        """
        here = self.availability()
        if not here.ok:
            raise EnvironmentMissingError(
                "The runtime 'openvino' cannot run here.", got=here.reason, next_step=here.next_step
            )
        path = Path(onnx_path)
        if not path.is_file():
            raise UsageError(
                "The ONNX file does not exist.",
                got=str(path),
                allowed="an ONNX file",
                next_step="correct the path",
            )
        hint, able = HINTS[workload.precision], computes_in()
        if hint != "f32" and workload.precision.upper() not in able:
            raise EnvironmentMissingError(
                "This CPU does not compute in this precision, so that it would be no faster.",
                got=workload.precision,
                allowed=", ".join(
                    p for p, h in HINTS.items() if p == "fp32" or (h != "f32" and p.upper() in able)
                ),
                next_step="use --precision fp32",
            )
        core = _core()
        try:
            # Its other readers, of TensorFlow for one, print what they have against an ONNX file.
            with native_errors_dropped():
                model = core.read_model(str(path))
        except Exception as error:  # RuntimeError and its kin, by version
            raise UsageError(
                f"OpenVINO cannot read {path}.",
                got=sentence(error),
                allowed="a valid ONNX file",
                next_step="export it again",
            ) from error
        try:
            compiled = core.compile_model(
                model,
                "CPU",
                {
                    "INFERENCE_NUM_THREADS": workload.threads,
                    "NUM_STREAMS": 1,
                    "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_PRECISION_HINT": hint,
                },
            )
        except Exception as error:
            raise EnvironmentMissingError(
                f"{self.version()} cannot compile {path}.",
                got=sentence(error),
                next_step="install a newer openvino",
            ) from error
        return OpenVinoEngine(compiled, wall_clock=workload.threads > 1)


@lru_cache(maxsize=1)
def _core() -> openvino.Core:
    import openvino

    return openvino.Core()


@lru_cache(maxsize=1)
def computes_in() -> tuple[str, ...]:
    """What the CPU plugin computes in, e.g. ("FP32", "INT8", "BF16")."""
    return tuple(_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


class OpenVinoEngine(Engine):
    """A compiled model."""

    def __init__(self, compiled: openvino.CompiledModel, wall_clock: bool) -> None:
        self._compiled: openvino.CompiledModel | None = compiled
        self._wall_clock = wall_clock
        self.input_names = tuple(i.get_any_name() for i in compiled.inputs)
        self.output_names = tuple(o.get_any_name() for o in compiled.outputs)
        self._request: openvino.InferRequest | None = None
        # All requests of a compiled model share one graph, which goes on pointing at the tensors of
        # the request that ran last, also after it is gone: the next run of another request would
        # read and write freed memory. So they live as long as the engine.
        self._bound: list[OpenVinoBoundRun] = []

    @property
    def compiled(self) -> openvino.CompiledModel:
        """The openvino.CompiledModel.

        Raises:
            RuntimeError: the engine was closed.
        """
        if self._compiled is None:
            raise RuntimeError("the engine was closed")
        return self._compiled

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """One inference; outputs by name. Inputs the graph does not have are left out.

        Raises:
            UsageError: an input is missing, or has another type or shape than the graph asks for.
        """
        fed = self._fed(inputs)
        if self._request is None:
            self._request = self.compiled.create_infer_request()
        try:
            self._request.infer(fed)
        except RuntimeError as error:
            raise _run_error(error, fed) from error
        return {n: self._request.get_tensor(n).data.copy() for n in self.output_names}

    def bind(self, inputs: Arrays) -> OpenVinoBoundRun:
        """Place the inputs once. Raises UsageError as `run`."""
        fed = self._fed(inputs)
        try:
            bound = OpenVinoBoundRun(self.compiled.create_infer_request(), fed, self._wall_clock)
        except RuntimeError as error:
            raise _run_error(error, fed) from error
        self._bound.append(bound)
        return bound

    def close(self) -> None:
        self._request = None
        self._bound = []
        self._compiled = None

    def _fed(self, inputs: Arrays) -> dict[str, np.ndarray]:
        import openvino

        missing = [n for n in self.input_names if n not in inputs]
        if missing:
            raise UsageError(
                "The model needs inputs that were not given.",
                got=", ".join(inputs) or "none",
                allowed=", ".join(self.input_names),
                next_step="feed every input that the model has, by its name",
            )
        asked = {
            i.get_any_name(): (i.get_partial_shape(), np.dtype(i.get_element_type().to_dtype()))
            for i in self.compiled.inputs
        }
        fed = {}
        for name in self.input_names:
            shape, dtype = asked[name]
            array = np.ascontiguousarray(inputs[name])
            # The plugin would cast silently, and read past the end of an array that is too narrow.
            if array.dtype != dtype or not shape.compatible(
                openvino.PartialShape(list(array.shape))
            ):
                raise UsageError(
                    "An input has another type or shape than the model asks for.",
                    got=f"{name} {array.dtype}{list(array.shape)}",
                    allowed=f"{dtype}{shape}",
                    next_step="give the input in this type and shape",
                )
            fed[name] = array
        return fed


class OpenVinoBoundRun(BoundRun):
    """Inputs in tensors that share the arrays' memory; outputs stay in the request."""

    def __init__(
        self, request: openvino.InferRequest, inputs: dict[str, np.ndarray], wall_clock: bool
    ) -> None:
        import openvino

        self._clock = time.perf_counter_ns if wall_clock else time.process_time_ns
        self._request, self._inputs = request, inputs
        for name, array in inputs.items():
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        request.infer()

    def outputs(self) -> list[np.ndarray]:
        """The outputs of the last call, in the engine's order."""
        return [t.data.copy() for t in self._request.output_tensors]

    def time_ms(self) -> float:
        start = self._clock()
        self._request.infer()
        return (self._clock() - start) * 1e-6


# How OpenVINO's messages begin before they say what is wrong: one line for each C++ function.
_FRAME = re.compile(
    r"^(Exception from \S+:\d+:|Check '.*' failed at \S+:\d+:|FrontEnd API failed with \w+:|"
    r"While validating .*|Model wasn't fully converted\..*|Summary:|-- .* with a message:)\s*$"
)


def sentence(error: BaseException) -> str:
    """What an exception of OpenVINO's says, without the functions that it came through."""
    lines = [line.strip() for line in str(error).splitlines()]
    useful = [line for line in lines if line and not _FRAME.match(line)]
    if not useful:
        return first_line(error)
    # "... Check 'a == b' failed at src/x.cpp:1:" ends where the sentence begins in the next line.
    shown = useful[0] if not useful[0].endswith(":") else " ".join(useful[:2])
    shown = re.sub(r"\s*Check '.*' failed at \S+:\d+:", ":", shown)
    return one_line(shown.removeprefix("-- "), 300)


def _run_error(error: Exception, inputs: dict[str, np.ndarray]) -> UsageError:
    shapes = ", ".join(f"{n} {a.dtype}{list(a.shape)}" for n, a in inputs.items())
    return UsageError(
        "OpenVINO cannot run the model on these inputs.",
        got=f"{shapes}: {sentence(error)}",
        next_step="give inputs of the shapes and types that the model asks for",
    )
