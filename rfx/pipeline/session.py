"""What the steps of one run share: the recipe, the store, the runtime, the clock of its stages, its
warnings."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rfx.core.progress import Progress
from rfx.core.store import Store
from rfx.core.workload import Workload
from rfx.evidence.records import Stage
from rfx.recipe.spec import Recipe
from rfx.runtimes.base import Engine, Runtime

if TYPE_CHECKING:
    from rfx.cost.table import LatencyTable


@dataclass
class Session:
    """`runtime` runs the engines of this session. Where the target cannot run here (a board's, with its
    table at hand), it is a stand-in on the CPU, and `target` is the runtime that the result is
    for."""

    recipe: Recipe
    store: Store
    runtime: Runtime
    progress: Progress
    target: Runtime | None = None  # set only where it is not `runtime`
    table: tuple[LatencyTable, bool] | None = (
        None  # once there is one, and whether it had been measured before: a run has one table
    )
    stages: list[Stage] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def workload(self) -> Workload:
        return Workload.of_text(**self.recipe.workload.model_dump())

    @property
    def offline(self) -> bool:
        """The target is not here: nothing can be timed."""
        return self.target is not None

    @property
    def served_by(self) -> Runtime:
        """The runtime that the result is for."""
        return self.target or self.runtime

    def build(self, onnx: Path) -> Engine:
        """An engine of this session. A stand-in runs the typed file as it is, whatever precisions it
        would be measured at."""
        return self.runtime.build(
            onnx, replace(self.workload, precision="fp32") if self.offline else self.workload
        )

    def warn(self, text: str) -> None:
        """Say it now and keep it for the evidence."""
        self.warnings.append(text)
        self.progress.warn(text)

    @contextmanager
    def stage(self, name: str) -> Iterator[StageClock]:
        """Times one stage; `clock.cached = True` inside says that its result came from the
        store."""
        clock = StageClock()
        started = time.perf_counter()
        yield clock
        self.stages.append(
            Stage(
                name=name,
                seconds=time.perf_counter() - started,
                peak_mb=peak_memory_mb(),
                cached=clock.cached,
            )
        )


@dataclass
class StageClock:
    cached: bool = False


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, MB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
