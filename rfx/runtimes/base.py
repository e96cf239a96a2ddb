"""What a runtime is: it says whether it can run here, builds an engine from an ONNX file, runs it and times it.

Nothing here knows of pruning.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Conditions:
    """Under which conditions a latency is measured; a part of every table's validity key and of the evidence."""

    batch: int = 1
    sequence: int = 128
    threads: int = 1
    precision: str = "fp32"

    def to_json(self) -> dict:
        return asdict(self)


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


class Engine(ABC):
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]

    @abstractmethod
    def run(self, inputs: Arrays) -> dict[str, np.ndarray]: ...

    @abstractmethod
    def bind(self, inputs: Arrays) -> BoundRun: ...

    def close(self) -> None:  # noqa: B027 - many engines have nothing to give back
        """Give back what the engine holds. Safe to call twice."""


class Runtime(ABC):
    name: ClassVar[str]
    clock: ClassVar[str]  # what time_ms measures, in words
    filter_grid: ClassVar[int] = 32  # FFN widths are measured and chosen on multiples of this
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    smooth: ClassVar[bool] = False  # latency is near linear in the counts, so noise of a table may be smoothed away

    @classmethod
    @abstractmethod
    def availability(cls) -> Availability: ...

    @abstractmethod
    def version(self) -> str:
        """Name and version of the engine library, e.g. `onnxruntime 1.31.1`."""

    @abstractmethod
    def device(self) -> str:
        """The device the engine runs on, e.g. the CPU's or GPU's model name."""

    def clock_for(self, conditions: Conditions) -> str:
        """What `time_ms` measures under these conditions, in words."""
        return self.clock

    @abstractmethod
    def build(self, onnx_path: Path, conditions: Conditions) -> Engine: ...
