"""Stacks of equal blocks: the ONNX files that a latency table is measured with, and their
engines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rfx.core.progress import Progress
from rfx.core.store import Store
from rfx.core.workload import Workload
from rfx.cost.points import Point, depths
from rfx.export.blocks import BlockShape, stack, stack_inputs
from rfx.runtimes.base import Engine, Runtime

if TYPE_CHECKING:
    import onnx


class StackSource(Protocol):
    """Where the ONNX files of stacks come from: `Stacks`, on a board `rfx.cost.bundle.Bundle`."""

    def file(self, point: Point, depth: int, folder: Path) -> Path:
        """An ONNX file of `depth` blocks of (heads, filters), in `folder`."""


class Stacks:
    """Makes the ONNX files of stacks, with random weights.

    Args:
        quantizer: the name of what makes them at a quantized precision. It is shown the random
            inputs that stacks are timed with.
    """

    def __init__(
        self, shape: BlockShape, workload: Workload, seed: int, quantizer: str | None = None
    ):
        self.shape, self.workload, self.seed = shape, workload, seed
        self._quantizer, self._checked = quantizer, False

    def file(self, point: Point, depth: int, folder: Path) -> Path:
        """An ONNX file of `depth` blocks of (heads, filters), in `folder`."""
        import onnx

        path = folder / "stack.onnx"
        onnx.save(self.model(point, depth), str(path))
        return path

    def model(self, point: Point, depth: int) -> onnx.ModelProto:
        """A stack of `depth` blocks of (heads, filters), at the precision of the workload."""
        from rfx.export.precision.convert import convert_precision, is_quantized

        batch, sequence = self.workload.batch, self.workload.sequence
        precision, feeds = self.workload.precision, []
        if is_quantized(precision):
            feeds.append(stack_inputs(self.shape, batch, sequence, self.seed))
        made = convert_precision(
            stack(self.shape, [point] * depth, seed=self.seed),
            precision,
            # The checker on the first alone: the others have its nodes, and it takes longer than
            # the conversion.
            check=not self._checked,
            quantizer=self._quantizer,
            calibration=feeds,
        )
        self._checked = True
        return made


@dataclass(frozen=True)
class Bench:
    """What is measured and on what: stacks of blocks of one shape, on one runtime.

    `layers` is the number of blocks of the model that the table is for.
    """

    store: Store
    runtime: Runtime
    workload: Workload
    shape: BlockShape
    layers: int
    stacks: StackSource
    progress: Progress
    seed: int

    @property
    def dense(self) -> Point:
        return self.shape.heads_total, self.shape.filters_total

    @property
    def depths(self) -> tuple[int, int]:
        return depths(self.layers, self.runtime.capabilities.max_depth)

    def build(self, point: Point, depth: int, folder: Path) -> Engine:
        """The engine of a stack; its ONNX file in `folder` is gone afterwards."""
        file = self.stacks.file(point, depth, folder)
        try:
            return self.runtime.build(file, self.workload)
        finally:
            file.unlink(missing_ok=True)
