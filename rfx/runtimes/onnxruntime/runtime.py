"""ONNX Runtime: `ort` on the CPU, the runtime that every machine has, and `cuda` on an NVIDIA
GPU."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from rfx.core.environment import cpu_model
from rfx.core.errors import EnvironmentMissingError, UsageError, first_line
from rfx.core.registry import register
from rfx.core.workload import Workload
from rfx.runtimes.base import Availability, Capabilities, Runtime
from rfx.runtimes.gpu import gpu_count, gpu_group_bytes, gpu_name, gpu_state
from rfx.runtimes.onnxruntime.engine import OrtCudaEngine, OrtEngine

if TYPE_CHECKING:
    import onnxruntime

INSTEAD = "run with --target ort (ONNX Runtime on this machine's CPU)"
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@register("runtime", "ort")
class OnnxRuntimeCpu(Runtime):
    """`ort`: the CPU execution provider, sequential, spinning off, all graph optimisations on.

    With one thread (the default) the clock is the CPU time of the process: time in which another
    process had the core is not counted, so a shared machine measures the same latency as an idle
    one. With several threads CPU time would add up the threads, so the clock is then the wall
    clock.
    """

    name: ClassVar[str] = "ort"
    clock: ClassVar[str] = "process CPU time"
    capabilities: ClassVar[Capabilities] = Capabilities(
        device="cpu",
        precisions=("fp32", "int8"),
        quantizer="onnxruntime",
        preference=40,
        serving="onnxruntime",
        # The CPU provider has no bfloat16 products.
        stands_in=("fp32", "fp16", "int8", "fp8"),
        uses_threads=True,
        smooth=True,  # latency on a CPU is near linear in heads and filters (R2 >= 0.996)
    )
    provider: ClassVar[str] = CPU
    wheel: ClassVar[str] = "pip install onnxruntime"

    @classmethod
    def availability(cls) -> Availability:
        try:
            import onnxruntime
        except Exception as error:  # a half-installed wheel fails in other ways than ImportError
            return Availability(
                False,
                f"onnxruntime cannot be imported ({first_line(error)})",
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
            raise UsageError(
                "The ONNX file does not exist.",
                got=str(path),
                allowed="an ONNX file",
                next_step="correct the path",
            )
        return self.build_model(path, workload)

    def build_model(self, model: Path | bytes, workload: Workload) -> OrtEngine:
        """As `build`; also takes a serialised model."""
        import onnxruntime as ort
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        self._before_session(ort)
        if workload.precision not in self.capabilities.precisions:
            raise UsageError(
                f"The runtime {self.name!r} does not serve this precision.",
                got=workload.precision,
                allowed=", ".join(self.capabilities.precisions),
                next_step="give one of these with --precision, or another --target",
            )
        where = f"{model}" if isinstance(model, Path) else "the model in memory"
        try:
            session = ort.InferenceSession(
                str(model) if isinstance(model, Path) else model,
                _options(ort, workload, as_typed=self.options.as_typed),
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
                got=first_line(error),
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
                got=first_line(error),
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

    def _before_session(self, ort: ModuleType) -> None:
        """What has to be loaded before the first session."""

    def _providers(self) -> list[Any]:
        return [self.provider]

    def _engine(self, session: onnxruntime.InferenceSession, workload: Workload) -> OrtEngine:
        return OrtEngine(session, wall_clock=workload.threads > 1)


@register("runtime", "cuda")
class OnnxRuntimeCuda(OnnxRuntimeCpu):
    """`cuda`: the CUDA execution provider, through I/O binding: inputs and outputs lie on the
    device.

    The clock is the wall clock from the call until the device is done: what a server waits for,
    launches included, transfers excluded. Unverified on hardware until a committed result under
    benchmarks/results says otherwise.
    """

    name: ClassVar[str] = "cuda"
    clock: ClassVar[str] = "wall clock, device synchronised, no transfers"
    capabilities: ClassVar[Capabilities] = Capabilities(
        device="gpu",
        precisions=("fp32", "fp16", "bf16"),
        preference=30,
        serving="onnxruntime",
        max_depth=6,
        own_activations=True,
        verified=False,
    )
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
        # TF32, the provider's default.
        return 1e-2 if precision == "fp32" else super().tolerance(precision)

    def group_bytes(self) -> int:
        return gpu_group_bytes() or super().group_bytes()

    def measurement(self, workload: Workload) -> dict[str, Any]:
        facts = {"transfers": "excluded", "streams": 1, "cuda_graph": False, "clock_source": "host"}
        return facts | ({"tf32": True} if workload.precision == "fp32" else {})

    def state(self) -> dict[str, Any] | None:
        return gpu_state()

    def _before_session(self, ort: ModuleType) -> None:
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

    def _providers(self) -> list[Any]:
        # The CPU stands last for the few integer operations on shapes, which the provider leaves to
        # it.
        return [(CUDA, {"device_id": 0}), CPU]

    def _engine(self, session: onnxruntime.InferenceSession, workload: Workload) -> OrtEngine:
        return OrtCudaEngine(session)


def _options(
    ort: ModuleType, workload: Workload, *, as_typed: bool = False
) -> onnxruntime.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = workload.threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # A spinning worker burns CPU time that is no work of the model.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if as_typed:
        # Fused products of integers round as this CPU has them, and of FP8 they become an invalid
        # graph (1.24 to 1.32).
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.log_severity_level = 4  # the library never prints; what fails comes as an exception
    return options
