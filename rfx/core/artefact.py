"""What an exporter writes: one ONNX graph or several, each with its role, inputs and outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rfx.core import migrate
from rfx.core.bounded import read_json
from rfx.core.errors import UsageError, in_words
from rfx.core.inputs import InputSpec

MODEL = "model"  # the role of the only graph of an encoder
INDEX = "artefact.json"  # beside the files of an artefact: what they are


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

    def save(self, folder: Path) -> Path:
        """Write down beside the graphs, which lie in `folder`, what they are."""
        data: dict[str, Any] = {
            "schema_version": migrate.ARTEFACT,
            "graphs": {
                role: {
                    "file": str(graph.file.relative_to(folder)),
                    "inputs": graph.inputs.to_json(),
                    "outputs": list(graph.outputs),
                }
                for role, graph in self.graphs.items()
            },
            "metadata": dict(self.metadata),
        }
        path = folder / INDEX
        path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, folder: Path) -> Artefact:
        """What `save` has written.

        Raises:
            UsageError: there is no index in `folder`, or it is not one that `save` has written.
        """
        path = folder / INDEX
        try:
            data = migrate.artefact(read_json(path, what="index of the graphs"), str(path))
            graphs = {
                str(role): Graph(
                    _inside(folder, said["file"]),
                    InputSpec.from_json(said["inputs"]),
                    tuple(str(name) for name in said["outputs"]),
                )
                for role, said in data["graphs"].items()
            }
            return cls(graphs, {str(k): str(v) for k, v in data["metadata"].items()})
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(
                "The index of the graphs cannot be read.",
                got=f"{path}: {in_words(error)}",
                allowed="the artefact.json of an output of rfx",
                next_step="run rfx prune-export again",
            ) from None

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(graph.file for graph in self.graphs.values())

    def remove(self) -> None:
        """Delete the files of its graphs."""
        for file in self.files:
            file.unlink(missing_ok=True)

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


def _inside(folder: Path, name: object) -> Path:
    """A file of the folder; an index that names another is not ours."""
    file = folder / str(name)
    if not file.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name} is not in the folder")
    return file
