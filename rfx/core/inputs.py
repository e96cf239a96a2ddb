"""What a graph is fed: named inputs with types and named axes, and examples of them to time
with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rfx.core.workload import SEQUENCE, Workload

if TYPE_CHECKING:
    import numpy as np

# Torch tensors by name, first axis the batch: the inputs of a model, and the targets of its task.
Batch = tuple[dict[str, Any], dict[str, Any]]
BATCH = "batch"  # the axis that every input has first
FILLS = ("tokens", "ones", "zeros", "normal")


@dataclass(frozen=True)
class TensorInput:
    """One input of a graph.

    Args:
        name: as the graph calls it.
        dtype: a NumPy type name, e.g. "int64".
        axes: the name of every dynamic axis, and the size of every other one, batch first.
        fill: what an example holds: "tokens" (random ids from the upper part of a vocabulary of
            `vocabulary` entries), "ones", "zeros", or "normal" (standard normal numbers).
        vocabulary: how many ids there are, for "tokens".
    """

    name: str
    dtype: str = "int64"
    axes: tuple[str | int, ...] = (BATCH, SEQUENCE)
    fill: str = "zeros"
    vocabulary: int | None = None

    def shape(self, workload: Workload) -> tuple[int, ...]:
        """Its sizes under a workload.

        Raises:
            KeyError: the workload does not say how long one of its axes is.
        """
        sizes = {BATCH: workload.batch, **workload.axes}
        return tuple(sizes[a] if isinstance(a, str) else a for a in self.axes)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "dtype": self.dtype,
            "axes": list(self.axes),
            "fill": self.fill,
            "vocabulary": self.vocabulary,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TensorInput:
        return cls(
            str(data["name"]),
            str(data["dtype"]),
            tuple(a if isinstance(a, str) else int(a) for a in data["axes"]),
            str(data["fill"]),
            None if data.get("vocabulary") is None else int(data["vocabulary"]),
        )


@dataclass(frozen=True)
class InputSpec:
    """The inputs of a graph in their order, and the most that each dynamic axis may have.

    Args:
        inputs: one entry for each input.
        limits: largest size by axis name, where the model has one (position embeddings, say).
    """

    inputs: tuple[TensorInput, ...]
    limits: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "limits", MappingProxyType(dict(self.limits)))

    @classmethod
    def of_text(
        cls, names: Sequence[str], *, vocabulary: int, positions: int | None = None
    ) -> InputSpec:
        """Inputs of a text encoder, int64 [batch, sequence]: random ids for `input_ids`, ones for
        `attention_mask`, zeros for every other name."""
        fills = {"input_ids": "tokens", "attention_mask": "ones"}
        return cls(
            tuple(
                TensorInput(
                    n,
                    fill=fills.get(n, "zeros"),
                    vocabulary=vocabulary if n == "input_ids" else None,
                )
                for n in names
            ),
            {} if positions is None else {SEQUENCE: positions},
        )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(i.name for i in self.inputs)

    @property
    def dynamic_axes(self) -> tuple[str, ...]:
        """Names of all dynamic axes, the batch first, in the order in which they are met."""
        return tuple(dict.fromkeys(a for i in self.inputs for a in i.axes if isinstance(a, str)))

    def __getitem__(self, name: str) -> TensorInput:
        for tensor in self.inputs:
            if tensor.name == name:
                return tensor
        raise KeyError(name)

    def example(
        self, workload: Workload, *, seed: int = 0, names: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Arrays to time with: random, the same ones for the same seed, nothing padded.

        Args:
            names: only these inputs, in this order; None: all.

        Raises:
            KeyError: no input of such a name, or an axis of which the workload says nothing.
        """
        return {
            n: _filled(self[n], workload, seed) for n in (self.names if names is None else names)
        }

    def to_json(self) -> dict[str, Any]:
        return {"inputs": [i.to_json() for i in self.inputs], "limits": dict(self.limits)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> InputSpec:
        return cls(
            tuple(TensorInput.from_json(i) for i in data["inputs"]),
            {str(k): int(v) for k, v in data.get("limits", {}).items()},
        )


def _filled(tensor: TensorInput, workload: Workload, seed: int) -> np.ndarray:
    import numpy as np

    shape, dtype = tensor.shape(workload), np.dtype(tensor.dtype)
    if tensor.fill == "tokens":
        vocabulary = int(tensor.vocabulary or 1)
        # Low ids are padding and special tokens in most vocabularies.
        lowest = min(1000, vocabulary // 2)
        return np.random.default_rng(seed).integers(lowest, vocabulary, shape, dtype=dtype)
    if tensor.fill == "normal":
        return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return (np.ones if tensor.fill == "ones" else np.zeros)(shape, dtype=dtype)
