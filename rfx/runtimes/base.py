"""What a runtime is: it says what it can do and whether it can run here, builds an engine from an
ONNX file, runs it and times it.

A new runtime is a class registered with `@register("runtime", "name")` (rfx/core/registry.py).
Nothing outside of this room asks for a runtime's name; what differs between runtimes is said in
`Capabilities`. Nothing here knows of pruning.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from rfx.core.artefact import MODEL, Artefact
from rfx.core.errors import EnvironmentMissingError, UsageError
from rfx.core.plan import Kind
from rfx.core.registry import find
from rfx.core.workload import Workload

if TYPE_CHECKING:
    from rfx.core.store import Store

Arrays = Mapping[str, np.ndarray]
GRID = 32  # of FFN widths at which the tiles of matrix products end on a CPU
GROUP_BYTES = 1 << 29


@dataclass(frozen=True)
class Capabilities:
    """What a runtime can do, whether it is installed here or not.

    Args:
        device: where it computes.
        precisions: of matrix products that it runs and that are measured on it.
        quantizer: the name of what makes the files of its quantized precisions (registry kind
            "quantizer"); None: it has no such precision.
        preference: "auto" takes the runtime with the lowest one of those that run here.
        engine_file: what a compiled engine is called in an output folder; None: it runs the ONNX
            file itself and compiles nothing that is kept.
        earlier_engine_files: what earlier versions of rfx called it.
        engine_suffix: the end of an engine file's name where it is named after an ONNX file.
        builds_elsewhere: it compiles ahead of time for other machines' GPUs, which are named by
            their compute capability.
        profiled: an engine takes only sizes within the optimisation profile that it is built with.
        serving: the backend of NVIDIA's Triton server that serves what it runs ("onnxruntime",
            "openvino", "tensorrt"), or None. `Runtime.serving_platform` says what is so on this
            machine.
        stands_in: the precisions at which it computes what a typed file says on any machine, so
            that accuracy can be measured with it where the target is absent.
        uses_threads: its latency depends on the CPU threads that it is given.
        locates_differences: Polygraphy runs it beside ONNX Runtime, and can name the first tensor
            that differs.
        phases: of a workload that it times.
        roles: of an artefact's graphs that it builds.
        max_depth: layers of the models that a latency table is measured on, where the model has
            more: the sharper the clock, the fewer are enough, which build more quickly.
        smooth: latency is near linear in the counts, so that noise of a table may be smoothed away.
        own_activations: every bound engine holds its activations on the device, beside its weights.
        least_compute: by precision, the least compute capability of a GPU that has it; one that is
            not named here is on every GPU.
        verified: it was seen running on the hardware that it is for, with a committed result.
    """

    device: Literal["cpu", "gpu"] = "cpu"
    precisions: tuple[str, ...] = ("fp32",)
    quantizer: str | None = None
    preference: int = 100
    engine_file: str | None = None
    earlier_engine_files: tuple[str, ...] = ()
    engine_suffix: str | None = None
    builds_elsewhere: bool = False
    profiled: bool = False
    serving: str | None = None
    stands_in: tuple[str, ...] = ()
    uses_threads: bool = False
    locates_differences: bool = False
    phases: tuple[str, ...] = ("encode",)
    roles: tuple[str, ...] = (MODEL,)
    max_depth: int = 12
    smooth: bool = False
    own_activations: bool = False
    least_compute: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    verified: bool = True


@dataclass(frozen=True)
class EngineOptions:
    """How engines are compiled, by the runtimes that compile any; the others ignore it.

    `max_batch` and `max_sequence` bound the optimisation profile (None: what the workload says;
    the least is always 1 x 1). `version_compatible` lets an engine run under later minor versions,
    `hardware_compatible` on every GPU from Ampere on; both forbid kernels and cost speed. `store`
    keeps the timing cache. With `as_typed` every node is computed as the file says, without kernels
    for quantized products: asked of what stands in for an absent target.
    """

    max_batch: int | None = None
    max_sequence: int | None = None
    workspace_mb: int | None = None
    builder_level: int | None = None  # 0..5, None: the runtime's default (3)
    version_compatible: bool = False
    hardware_compatible: bool = False
    as_typed: bool = False
    store: Store | None = None
    more: Mapping[str, Any] = field(
        default_factory=dict
    )  # what other packages' runtimes understand

    @classmethod
    def of(cls, given: Mapping[str, Any], store: Store | None) -> EngineOptions:
        """The options of a recipe's section `engine`; those that are none of ours are for runtimes
        of other packages."""
        own = {k: v for k, v in given.items() if k in cls.__dataclass_fields__}
        more = {k: v for k, v in given.items() if k not in own}
        return cls(**own, store=store, more=more)

    def largest(self, workload: Workload) -> tuple[int, int]:
        """Largest batch and sequence that an engine takes."""
        return max(workload.batch, self.max_batch or 1), max(
            workload.sequence, self.max_sequence or 1
        )

    def to_json(self) -> dict[str, Any]:
        """Those that change kernels, for keys and reports."""
        facts = {k: v for k, v in self.__dict__.items() if k not in ("store", "more")} | {
            **self.more
        }
        return {k: v for k, v in facts.items() if v not in (None, False)}


@dataclass(frozen=True)
class Availability:
    """Whether a runtime can run on this machine."""

    ok: bool
    reason: str = ""  # why not
    next_step: str = ""  # what to install or to run instead


class BoundRun(ABC):
    """An engine with its inputs in place: one call is one timed inference."""

    @abstractmethod
    def time_ms(self) -> float:
        """Run once; return its latency in milliseconds on this runtime's clock."""

    def with_transfers_ms(self) -> float | None:
        """As `time_ms`, with the inputs copied to the device and the outputs back; None where
        nothing is copied."""
        return None

    def measurement(self) -> dict[str, Any]:
        """Where this run is measured in another way than `Runtime.measurement` says: how."""
        return {}


class Engine(ABC):
    """What a runtime runs. Of a compiled one, `facts` says for which machine it is and what it was
    made from."""

    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    facts: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def run(self, inputs: Arrays) -> dict[str, np.ndarray]: ...

    @abstractmethod
    def bind(self, inputs: Arrays) -> BoundRun: ...

    def save(self, path: Path) -> Path | None:
        """Write the compiled engine beside its facts (`PATH.json`); None where there is nothing
        compiled to keep."""
        return None

    def close(self) -> None:  # noqa: B027 - many engines have nothing to give back
        """Give back what the engine holds. Safe to call twice."""


class Runtime(ABC):
    """One runtime on one machine.

    `name` is the name that it is registered under, `clock` says in words what `BoundRun.time_ms`
    measures.
    """

    name: ClassVar[str]
    clock: ClassVar[str]
    capabilities: ClassVar[Capabilities]

    def __init__(self, options: EngineOptions | None = None) -> None:
        self.options = options or EngineOptions()

    @classmethod
    @abstractmethod
    def availability(cls) -> Availability: ...

    @abstractmethod
    def version(self) -> str:
        """Name and version of the engine library, e.g. `onnxruntime 1.31.1`."""

    @abstractmethod
    def device(self) -> str:
        """The device the engine runs on, e.g. the CPU's or GPU's model name."""

    def clock_for(self, workload: Workload) -> str:
        """What `time_ms` measures under this workload, in words."""
        return self.clock

    def tolerance(self, precision: str) -> float:
        """Largest difference of outputs, as a share of their scale, at which two engines are the
        same function."""
        return float(find("precision", precision).tolerance)

    def grid(self, kind: str, precision: str) -> int:
        """Counts of a unit kind are measured and chosen on multiples of this: filters where the
        tiles of a matrix product end, every other unit one by one.

        Args:
            kind: the unit kind, e.g. "mha" or "ffn" (`rfx.core.plan.Kind`).
        """
        if kind != Kind.FFN:
            return 1
        on_gpu = self.capabilities.device == "gpu"
        return int(find("precision", precision).grid) if on_gpu else GRID

    def group_bytes(self) -> int:
        """Memory that the engines of one part of a latency table may take together, bytes."""
        return GROUP_BYTES

    def measurement(self, workload: Workload) -> dict[str, Any]:
        """How `time_ms` measures, in the terms of trtexec; recorded beside every latency."""
        return {"transfers": "none", "streams": 1}

    def state(self) -> dict[str, Any] | None:
        """What the device says of itself now (clocks, power limit, throttling); None where it says
        nothing."""
        return None

    def serving_platform(self) -> str | None:
        """The Triton backend that serves what this runtime builds here ("onnxruntime" and
        "openvino" for the ONNX file, "tensorrt" for the engine file); None where none does."""
        return self.capabilities.serving

    def accepts(self, artefact: Artefact, workload: Workload) -> str | None:
        """Why this runtime cannot build and time an artefact under a workload; None if it can."""
        able = self.capabilities
        if unknown := [r for r in artefact.roles if r not in able.roles]:
            return (
                f"{self.name} builds graphs of the role {', '.join(able.roles)}, not of "
                f"{', '.join(unknown)}"
            )
        if workload.phase not in able.phases:
            return f"{self.name} times the phase {', '.join(able.phases)}, not {workload.phase}"
        if workload.precision not in able.precisions:
            return (
                f"{self.name} runs at the precision {', '.join(able.precisions)}, not at "
                f"{workload.precision}"
            )
        return None

    @abstractmethod
    def build(self, onnx_path: Path, workload: Workload) -> Engine:
        """The engine of one ONNX file."""

    def build_artefact(self, artefact: Artefact, workload: Workload) -> Engine:
        """The engine of an artefact whose one graph has the role "model". A runtime of artefacts
        with several graphs overrides this.

        Raises:
            UsageError: it does not fit this runtime (`accepts`), or it has another graph too.
            UserError: see `build`.
        """
        why = self.accepts(artefact, workload)
        if why is None and artefact.roles != (MODEL,):
            why = f"{self.name} builds one graph of the role {MODEL} alone"
        if why is not None:
            raise UsageError(
                "The runtime cannot build this model.",
                got=why,
                next_step="give another --target; `rfx env` lists the runtimes",
            )
        return self.build(artefact.file, workload)

    def load(self, path: Path, workload: Workload) -> Engine:
        """An engine that `Engine.save` wrote.

        Raises:
            EnvironmentMissingError: this runtime compiles no engines; or the engine is of another
                device or version, truncated or damaged.
        """
        raise EnvironmentMissingError(
            f"The runtime {self.name!r} has no engine files.",
            got=str(path),
            allowed="an ONNX file",
            next_step="load the ONNX file itself",
        )

    def kept_engine(self, folder: Path) -> Path | None:
        """The engine file that an output folder holds for this runtime, under today's name or an
        earlier one; None where there is none."""
        able = self.capabilities
        names = (able.engine_file, *able.earlier_engine_files)
        return next((folder / n for n in names if n and (folder / n).is_file()), None)

    def require_elsewhere(self, compute_capabilities: Sequence[str]) -> None:
        """Before any work: this runtime is installed, and compiles for these other machines' GPUs.

        Args:
            compute_capabilities: e.g. ("8.9", "12.0").

        Raises:
            UsageError: it never builds for other machines, or does not know a compute capability.
            EnvironmentMissingError: it is not installed.
        """
        raise self._only_here(compute_capabilities)

    def build_elsewhere(
        self, onnx_path: Path, workload: Workload, compute_capabilities: Sequence[str], out: Path
    ) -> dict[str, Any]:
        """Compile for the GPUs of other machines and write the engine file `out` with its facts
        beside it; returns the facts. No GPU is needed here.

        Raises:
            UsageError, EnvironmentMissingError: see `require_elsewhere`.
            UnsupportedModelError: it cannot compile the model.
        """
        raise self._only_here(compute_capabilities)

    def _only_here(self, compute_capabilities: Sequence[str]) -> UsageError:
        return UsageError(
            f"The runtime {self.name!r} does not compile for a GPU that is not there.",
            got=", ".join(compute_capabilities),
            next_step="leave --compute-capability out",
        )
