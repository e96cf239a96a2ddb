"""What an exporter writes: one ONNX graph or several, each with its role, inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from rfx.core.inputs import InputSpec

MODEL = "model"  # the role of the only graph of an encoder


@dataclass(frozen=True)
class Graph:
    """One ONNX file: what it is fed and the names of what it gives."""

    file: Path
    inputs: InputSpec
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Artefact:
    """The exported model: graphs by role, and what stands in their metadata.

    An encoder is one graph of the role "model". Encoder-decoders will have "encoder" and "decoder",
    decoders "prefill" and "decode".
    """

    graphs: Mapping[str, Graph]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "graphs", MappingProxyType(dict(self.graphs)))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))

    @classmethod
    def of_model(
        cls,
        file: Path,
        inputs: InputSpec,
        outputs: tuple[str, ...],
        metadata: Mapping[str, str] | None = None,
    ) -> Artefact:
        """An artefact of one graph."""
        return cls({MODEL: Graph(file, inputs, outputs)}, metadata or {})

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(self.graphs)

    @property
    def file(self) -> Path:
        """The ONNX file of an artefact of one graph.

        Raises:
            ValueError: it has several.
        """
        if len(self.graphs) != 1:
            raise ValueError(f"this artefact has several graphs: {', '.join(self.graphs)}")
        return next(iter(self.graphs.values())).file
