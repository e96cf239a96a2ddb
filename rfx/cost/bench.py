"""What a latency table is measured with: the models, and the engines of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rfx.core.inputs import InputSpec
from rfx.core.kind import Kind
from rfx.core.progress import Progress
from rfx.core.store import Store
from rfx.core.workload import Workload
from rfx.cost.alike import ModelShape
from rfx.cost.curves import Point
from rfx.runtimes.base import BoundRun, Engine, Runtime


class TimedModels(Protocol):
    """Where the ONNX files come from that a table is measured with: `rfx.pipeline.timed.Timed`, on
    a board `rfx.cost.bundle.Bundle`.

    They are of the model itself, in which the sites of one curve keep so many units. Where the
    model has more layers than a runtime needs to be timed with, they have its first layers alone.
    """

    @property
    def layers(self) -> int:
        """How many layers they have."""

    @property
    def sites(self) -> Mapping[str, tuple[int, int]]:
        """By curve, how many sites of it they have, and how many of these are partial ones."""

    @property
    def bytes(self) -> int:
        """Of the weights of the dense one."""

    def file(self, point: Point, folder: Path) -> Path:
        """The ONNX file of `point`, in `folder`; `DENSE` has all units."""


@dataclass(frozen=True)
class Bench:
    """What is measured and on what: models of one shape, on one runtime.

    Args:
        made_by: what made the files, with its versions: another one may make other graphs.
    """

    store: Store
    runtime: Runtime
    workload: Workload
    shape: ModelShape
    models: TimedModels
    inputs: InputSpec
    progress: Progress
    seed: int
    made_by: str = ""

    def build(self, point: Point, folder: Path) -> Engine:
        """The engine of a model that is timed; its ONNX file in `folder` is gone afterwards."""
        file = self.models.file(point, folder)
        try:
            return self.runtime.build(file, self.workload)
        finally:
            file.unlink(missing_ok=True)

    def bind(self, engine: Engine) -> BoundRun:
        """An engine of one of the models, or of the whole one, with what it is timed on."""
        names = engine.input_names
        return engine.bind(self.inputs.example(self.workload, seed=self.seed, names=names))

    def size(self) -> int:
        """Bytes of weights and activations that a bound engine holds, about."""
        tokens = self.workload.batch * self.workload.sequence
        widest = {
            k: max((g.units * g.width for g in self.shape.alike if g.kind is k), default=0)
            for k in Kind
        }
        heads = max((g.units for g in self.shape.alike if g.kind is Kind.MHA), default=0)
        inner = 4 * self.shape.hidden + 3 * widest[Kind.MHA] + widest[Kind.FFN]
        each = tokens * (inner + 2 * heads * self.workload.sequence)
        width = 4 if self.workload.precision == "fp32" else 2
        own = self.runtime.capabilities.own_activations
        return self.models.bytes + (width * each if own else 0)
