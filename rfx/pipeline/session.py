"""What the steps of one job share: the store, the runtimes, progress, the clock of its stages, and
its warnings."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from rfx.core.artefact import Artefact
from rfx.core.plan import Plan, almost_empty
from rfx.core.progress import Progress
from rfx.core.store import Store
from rfx.core.text import printable
from rfx.core.workload import Workload
from rfx.evidence.records import Stage
from rfx.runtimes.base import Engine, EngineOptions, Runtime


@dataclass(frozen=True)
class Target:
    """The runtime that the result is for, and the one that runs engines on this machine.

    They differ only where the target is absent (a board's, with its latency table at hand): then a
    runtime on the CPU stands in for it, accuracy is measured there, and nothing is timed.
    """

    serves: Runtime
    here: Runtime

    @property
    def absent(self) -> bool:
        return self.serves is not self.here

    def with_options(self, options: EngineOptions) -> Target:
        """The same runtimes, compiling otherwise. What stands in for an absent one compiles
        nothing."""
        serves = type(self.serves)(options)
        return Target(serves, self.here if self.absent else serves)


@dataclass
class StageClock:
    """What a stage can say of itself: whether its result came from the store."""

    cached: bool = False


@dataclass
class Session:
    """One job under way. The recipe and the latency table are not part of it: they are arguments of
    the steps."""

    store: Store
    target: Target
    progress: Progress
    total: int | None = None  # stages of the job, where that is known beforehand
    stages: list[Stage] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def expect(self, more: int) -> None:
        """The job has more stages than was known when it was opened."""
        if self.total is not None:
            self.total += more

    def build(self, graph: Artefact | Path, workload: Workload) -> Engine:
        """An engine of an artefact or of one ONNX file, on the runtime that runs here. A stand-in
        runs the typed file as it is, whatever precision the target would be measured at."""
        if self.target.absent:
            workload = replace(workload, precision="fp32")
        if isinstance(graph, Artefact):
            return self.target.here.build_artefact(graph, workload)
        return self.target.here.build(graph, workload)

    def warn(self, text: str) -> None:
        """Say it now and keep it for the evidence."""
        text = printable(text)
        self.warnings.append(text)
        self.progress.warn(text)

    def warn_of(self, plan: Plan) -> None:
        """Warn of a plan that keeps nothing or next to nothing."""
        if text := almost_empty(plan):
            self.warn(text)

    def note(self, text: str) -> None:
        """Say it now."""
        self.progress.note(printable(text))

    @contextmanager
    def stage(self, name: str) -> Iterator[StageClock]:
        """Time one stage and show where it stands among the others; `clock.cached = True` inside
        says that its result came from the store."""
        clock = StageClock()
        self.progress.stage(name, len(self.stages) + 1, self.total)
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


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, MB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
