"""What a runtime is: it says whether it can run here, builds an engine from an ONNX file, runs it
and times it.

Nothing here knows of pruning.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rfx.core.errors import EnvironmentMissingError
from rfx.core.workload import Workload

if TYPE_CHECKING:
    from rfx.core.store import Store

Arrays = Mapping[str, np.ndarray]
GPU_GRID = {
    "fp32": 32,
    "fp16": 64,
    "bf16": 64,
}  # FFN widths at which the tiles of matrix products end, by precision
GROUP_BYTES = 1 << 29


@dataclass(frozen=True)
class EngineOptions:
    """How engines are compiled, where a runtime compiles any; the others take no notice.

    `max_batch` and `max_sequence` bound the optimisation profile (None: what the conditions say;
    the least is always 1 x 1). `version_compatible` lets an engine run under later minor versions,
    `hardware_compatible` on every GPU from Ampere on; both forbid kernels and cost speed. `store`
    keeps the timing cache.
    """

    max_batch: int | None = None
    max_sequence: int | None = None
    workspace_mb: int | None = None
    builder_level: int | None = None  # 0..5, None: the runtime's default (3)
    version_compatible: bool = False
    hardware_compatible: bool = False
    store: Store | None = None

    def largest(self, workload: Workload) -> tuple[int, int]:
        """Largest batch and sequence that an engine takes."""
        return max(workload.batch, self.max_batch or 1), max(
            workload.sequence, self.max_sequence or 1
        )

    def to_json(self) -> dict:
        """Those that change kernels, for keys and reports."""
        facts = {k: v for k, v in self.__dict__.items() if k != "store"}
        return {k: v for k, v in facts.items() if v not in (None, False)}


@dataclass(frozen=True)
class Availability:
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
        """In what this run is measured otherwise than `Runtime.measurement` says."""
        return {}


class Engine(ABC):
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]

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
    name: ClassVar[str]
    clock: ClassVar[str]  # what time_ms measures, in words
    filter_grid: ClassVar[int] = 32  # see `grid`
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    engine_file: ClassVar[str | None] = None  # what a compiled engine is called in an output folder
    max_depth: ClassVar[int] = 12  # blocks of the deepest stack of a latency table
    own_activations: ClassVar[bool] = (
        False  # every bound engine holds its activations on the device, beside its weights
    )
    smooth: ClassVar[bool] = (
        False  # latency is near linear in the counts, so noise of a table may be smoothed away
    )
    verified: ClassVar[bool] = True  # seen running on real hardware, with a committed result

    def __init__(self, options: EngineOptions | None = None):
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
        """What `time_ms` measures under these conditions, in words."""
        return self.clock

    def tolerance(self, precision: str) -> float:
        """Largest difference of outputs, as a share of their scale, at which two engines are the
        same function."""
        return {"fp32": 2e-4, "fp16": 1e-2, "bf16": 6e-2}[precision]

    def grid(self, precision: str) -> int:
        """FFN widths are measured and chosen on multiples of this."""
        return self.filter_grid

    def group_bytes(self) -> int:
        """Memory that the engines of one part of a latency table may take together."""
        return GROUP_BYTES

    def measurement(self, workload: Workload) -> dict[str, Any]:
        """How `time_ms` measures, in the terms of trtexec; recorded beside every latency."""
        return {"transfers": "none", "streams": 1}

    def state(self) -> dict[str, Any] | None:
        """What the device says of itself now (clocks, power limit, throttling); None where it says
        nothing."""
        return None

    @abstractmethod
    def build(self, onnx_path: Path, workload: Workload) -> Engine: ...

    def load(self, path: Path, workload: Workload) -> Engine:
        """An engine that `Engine.save` wrote.

        Raises:
            EnvironmentMissingError: this runtime compiles no engines; or the engine is of another
                device or version, truncated or damaged.
        """
        raise EnvironmentMissingError(
            f"The runtime {self.name!r} has no engine files.", got=str(path), allowed="an ONNX file"
        )
