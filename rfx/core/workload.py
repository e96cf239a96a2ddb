"""What is timed: a batch of inputs of stated sizes, at a precision, on so many threads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

PHASES = ("encode", "prefill", "decode")
SEQUENCE = "sequence"  # the axis of tokens


def _axes(axes: Mapping[str, int]) -> Mapping[str, int]:
    return MappingProxyType({str(name): int(size) for name, size in axes.items()})


@dataclass(frozen=True)
class Workload:
    """What is timed when a latency is measured; a part of every table's validity key and of the
    evidence.

    Args:
        batch: examples that run at once.
        axes: size of every dynamic axis but the batch, by name: `{"sequence": 128}` for text,
            `{"height": 224, "width": 224}` for images.
        phase: "encode" for a whole forward pass; "prefill" and "decode" for the two phases of
            generation.
        threads: CPU threads of the runtime.
        precision: of the matrix products in the file that is timed.
    """

    batch: int = 1
    axes: Mapping[str, int] = field(default_factory=lambda: {SEQUENCE: 128})
    phase: str = "encode"
    threads: int = 1
    precision: str = "fp32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", _axes(self.axes))

    @classmethod
    def of_text(
        cls, *, batch: int = 1, sequence: int = 128, threads: int = 1, precision: str = "fp32"
    ) -> Workload:
        """A whole forward pass over `batch` texts of `sequence` tokens."""
        return cls(batch, {SEQUENCE: sequence}, "encode", threads, precision)

    @property
    def sequence(self) -> int:
        """Tokens of an example.

        Raises:
            KeyError: a workload without such an axis.
        """
        return self.axes[SEQUENCE]

    def __hash__(self) -> int:
        return hash(
            (self.batch, tuple(sorted(self.axes.items())), self.phase, self.threads, self.precision)
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "batch": self.batch,
            "axes": dict(self.axes),
            "phase": self.phase,
            "threads": self.threads,
            "precision": self.precision,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Workload:
        return cls(
            int(data["batch"]),
            dict(data["axes"]),
            str(data.get("phase", "encode")),
            int(data.get("threads", 1)),
            str(data.get("precision", "fp32")),
        )
