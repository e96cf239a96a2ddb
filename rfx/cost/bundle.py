"""What a board needs to measure a latency table with NumPy and its runtime alone.

`rfx shapes` packs it where the model is. It takes the very ONNX files that a measurement there
would time (stacks, the dense model, the emptied one, some pruned ones), at the precision asked for,
and strips them of their weights; what is left is graphs, some hundred kilobytes in one JSON file.
`Bundle` reads it on the board and gives every graph random weights as external data. Latency does
not depend on their values.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.core import migrate
from rfx.core.errors import UsageError
from rfx.core.files import atomic_write_text
from rfx.core.inputs import InputSpec
from rfx.core.plan import Plan, Site

if TYPE_CHECKING:
    import onnx

INLINE_BYTES = 256  # smaller tensors stay: shapes and scales
_ALIGN = 4096
# ONNX element type -> (name of the weights file, bytes an element); integers stay inline
_FILES = {1: ("weights.f32.bin", 4), 10: ("weights.f16.bin", 2), 16: ("weights.bf16.bin", 2)}
_POOL = 1_000_003  # random numbers; no round number, so that no two layers get the same weights


def strip(model: onnx.ModelProto) -> tuple[bytes, dict[str, int]]:
    """The graph with its large weights as references into files that are made later, and the size
    of each file in bytes.

    Every weight has a place of its own: shared ones would be read from a warm cache.
    """
    import onnx

    light = onnx.ModelProto()
    light.CopyFrom(model)
    sizes: dict[str, int] = {}
    for tensor in light.graph.initializer:
        count = int(np.prod(list(tensor.dims), dtype=np.int64))
        if tensor.data_type not in _FILES or count * _FILES[tensor.data_type][1] <= INLINE_BYTES:
            continue
        name, width = _FILES[tensor.data_type]
        offset, length = sizes.get(name, 0), count * width
        for field in ("raw_data", "float_data", "int32_data"):
            tensor.ClearField(field)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", name), ("offset", str(offset)), ("length", str(length))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
        sizes[name] = -(-(offset + length) // _ALIGN) * _ALIGN
    return light.SerializeToString(), sizes


def encode(data: bytes) -> str:
    return base64.b85encode(zlib.compress(data, 9)).decode()


def write_bundle(
    path: Path, *, graphs: Mapping[str, tuple[bytes, dict[str, int]]], facts: Mapping[str, Any]
) -> None:
    """One JSON file.

    Args:
        graphs: by name (`stack/HEADS/FILTERS/DEPTH`, `dense`, `emptied`, `plan/N`), as `strip`
            gives them.
        facts: what `Bundle` reads beside them.

    Raises:
        UsageError: the place cannot be written.
    """
    sizes: dict[str, int] = {}
    for _, own in graphs.values():
        for name, size in own.items():
            sizes[name] = max(size, sizes.get(name, 0))
    data = {
        "schema_version": migrate.SHAPES,
        "kind": "rfx shapes",
        **facts,
        "weights": sizes,
        "graphs": {name: encode(graph) for name, (graph, _) in graphs.items()},
    }
    atomic_write_text(path, json.dumps(data) + "\n")


class Bundle:
    """A bundle on the board; stands in for `rfx.cost.stacks.Stacks`.

    Raises:
        UsageError: no such file, not a bundle, or of another schema.
    """

    def __init__(self, path: str | Path):
        file = Path(path)
        allowed, again = (
            "a JSON file of `rfx shapes`",
            "make it again on the server: rfx shapes MODEL --out shapes.json",
        )
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(
                "The shapes cannot be read.", got=f"{file}: {error.strerror}", allowed=allowed
            ) from None
        except ValueError as error:
            raise UsageError(
                "The shapes are not valid JSON.",
                got=f"{file}: {error}",
                allowed=allowed,
                next_step=again,
            ) from None
        if (
            not isinstance(data, dict)
            or data.get("kind") != "rfx shapes"
            or "schema_version" not in data
        ):
            raise UsageError(
                "This file was not written by `rfx shapes`.",
                got=str(file),
                allowed=allowed,
                next_step=again,
            )
        data = migrate.shapes(data, str(file))
        try:
            self.target, self.precision = str(data["target"]), str(data["precision"])
            self.batch, self.sequence, self.max_sequence = (
                int(data[k]) for k in ("batch", "sequence", "max_sequence")
            )
            self.layers, self.inputs, self.model_hash = (
                int(data["layers"]),
                InputSpec.from_json(data["inputs"]),
                str(data["model_hash"]),
            )
            self.shape: dict[str, Any] = dict(data["shape"])
            self.sites = [Site.from_json(s) for s in data["sites"]]
            self.plans = [Plan.from_json(p) for p in data["plans"]]
            self._graphs = {str(n): str(g) for n, g in data["graphs"].items()}
            self._sizes = {str(n): int(s) for n, s in data["weights"].items()}
            missing = {"dense", "emptied", *(f"plan/{i}" for i in range(len(self.plans)))} - set(
                self._graphs
            )
            if missing:
                raise KeyError(", ".join(sorted(missing)))
            from rfx.export.blocks import BlockShape

            BlockShape(**self.shape)
            numbers = {k: v for k, v in self.shape.items() if k not in ("layout", "activation")}
            sizes = {
                **numbers,
                "batch": self.batch,
                "sequence": self.sequence,
                "layers": self.layers,
                "weights": len(self._sizes),
            }
            bad = [
                f"{k} {v!r}"
                for k, v in sizes.items()
                if isinstance(v, bool) or not isinstance(v, (int, float)) or v <= 0
            ]
            if bad:
                raise ValueError(", ".join(bad))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(
                "The shapes are incomplete.",
                got=f"{file}: {type(error).__name__}: {error}",
                allowed=allowed,
                next_step=again,
            ) from None
        self._path = file

    @property
    def points(self) -> set[tuple[int, int, int]]:
        """(heads, filters, depth) of every stack."""
        found = set()
        for name in self._graphs:
            if name.startswith("stack/"):
                heads, filters, depth = name.split("/")[1:]
                found.add((int(heads), int(filters), int(depth)))
        return found

    def file(self, point: tuple[int, int], depth: int, folder: Path) -> Path:
        """An ONNX file of `depth` blocks of (heads, filters), in `folder`, its weights beside
        it."""
        return self.model(f"stack/{point[0]}/{point[1]}/{depth}", folder)

    def model(self, name: str, folder: Path) -> Path:
        """Any graph of the bundle as a file.

        Raises:
            UsageError: the bundle has no such graph, or it is damaged.
        """
        if name not in self._graphs:
            raise UsageError(
                "The shapes have no such graph: they were made for another grid.",
                got=name,
                allowed=f"{len(self._graphs)} graphs for the target {self.target!r}",
                next_step="make them again on the server with this version: rfx shapes MODEL "
                "--target TARGET",
            )
        try:
            graph = zlib.decompress(base64.b85decode(self._graphs[name]))
        except (ValueError, zlib.error) as error:
            raise UsageError(
                "A graph of the shapes is damaged.",
                got=f"{self._path}: {name}: {error}",
                next_step="copy the file again",
            ) from None
        self._write_weights(folder)
        path = folder / f"{name.replace('/', '-')}.onnx"
        path.write_bytes(graph)
        return path

    def _write_weights(self, folder: Path) -> None:
        """Files of random weights, normal with deviation 0.02, made once a folder."""
        for name, size in self._sizes.items():
            path = folder / name
            if path.exists() and path.stat().st_size == size:
                continue
            pool = np.random.default_rng(0).standard_normal(_POOL, dtype=np.float32) * np.float32(
                0.02
            )
            block = _typed(pool, name).tobytes()
            with path.open("wb") as stream:
                for start in range(0, size, len(block)):
                    stream.write(block[: size - start])


def _typed(pool: np.ndarray, name: str) -> np.ndarray:
    if name == "weights.f16.bin":
        return pool.astype(np.float16)
    if name == "weights.bf16.bin":  # NumPy has no bfloat16: the upper half of a float32
        return (pool.view(np.uint32) >> 16).astype(np.uint16)
    return pool
