"""What the steps of one run share: the recipe, the store, the runtime, the clock of its stages, its warnings."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rfx.progress import Progress
from rfx.recipe import Recipe
from rfx.runtimes.base import Conditions, Runtime
from rfx.store import Store
from rfx.verify.evidence import Stage


@dataclass
class Run:
    recipe: Recipe
    store: Store
    runtime: Runtime
    progress: Progress
    stages: list[Stage] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def conditions(self) -> Conditions:
        return Conditions(**self.recipe.conditions.model_dump())

    def warn(self, text: str) -> None:
        """Say it now and keep it for the evidence."""
        self.warnings.append(text)
        self.progress.warn(text)

    @contextmanager
    def stage(self, name: str) -> Iterator[StageClock]:
        """Times one stage; `clock.cached = True` inside says that its result came from the store."""
        clock = StageClock()
        started = time.perf_counter()
        yield clock
        self.stages.append(
            Stage(name=name, seconds=time.perf_counter() - started, peak_mb=peak_memory_mb(), cached=clock.cached)
        )


@dataclass
class StageClock:
    cached: bool = False


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, MB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
