"""What a board needs to measure a latency table with NumPy and its runtime alone.

`rfx shapes` packs it where the model is. It takes the very ONNX files that a measurement there
would time (the model with fewer units, the dense one, the emptied one, some pruned ones), at the
precision asked for, and strips them of their weights; graphs are left, some hundred kilobytes
in one JSON file.
`Bundle` reads it on the board and gives every graph random weights as external data. Latency does
not depend on their values.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.core import migrate
from rfx.core.bounded import as_path, read_json, too_large
from rfx.core.errors import UsageError, first_line
from rfx.core.files import atomic_write_text, require_file_place
from rfx.core.inputs import InputSpec
from rfx.core.limits import MB, bound_mb
from rfx.core.plan import Plan, Site
from rfx.core.recognised import SHAPES, told_apart
from rfx.core.values import short
from rfx.cost.alike import ModelShape
from rfx.cost.curves import DENSE, Point

if TYPE_CHECKING:
    import onnx

INLINE_BYTES = 256  # smaller tensors stay: shapes and scales
_KIND = "rfx shapes"
_ALIGN = 4096
# ONNX element type -> (name of the weights file, bytes an element); other types stay inline
_FILES = {
    1: ("weights.f32.bin", 4),
    3: ("weights.s8.bin", 1),  # of quantized products and tables
    17: ("weights.f8.bin", 1),  # FP8 (e4m3) of quantized products
    10: ("weights.f16.bin", 2),
    16: ("weights.bf16.bin", 2),
}
_QDQ = ("QuantizeLinear", "DequantizeLinear")
_GRAPH = re.compile(
    r"dense|emptied|without/[a-z]{1,16}(-\d{1,6})?|plan/\d{1,6}|timed/[a-z]{1,16}(-\d{1,6})?/\d{1,9}"
)
_MOST, _MOST_MB = 1 << 30, 512  # of anything that is counted; of the file
_MOST_BYTES, _MOST_GRAPH_MB = 64 << 30, 256  # of a file of weights; of a graph, unpacked
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
    scales = {n.input[1] for n in light.graph.node if n.op_type in _QDQ}
    for tensor in light.graph.initializer:
        if tensor.name in scales:
            _level(tensor)
            continue
        count = int(np.prod(list(tensor.dims), dtype=np.int64))
        if tensor.data_type not in _FILES or count * _FILES[tensor.data_type][1] <= INLINE_BYTES:
            continue
        eight = (onnx.TensorProto.INT8, onnx.TensorProto.FLOAT8E4M3FN)
        if tensor.data_type in eight and _is_constant(tensor):
            continue  # zero points, which pack to next to nothing and are zero in every file
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


def _level(scale: onnx.TensorProto) -> None:
    """Give a scale one value throughout. Runtimes refuse scales that are not positive, as random
    numbers would be, and the true ones of many columns do not pack."""
    from onnx import numpy_helper

    values = numpy_helper.to_array(scale)
    level = np.full_like(values, np.abs(values).mean() if values.size else 1)
    scale.CopyFrom(numpy_helper.from_array(level, scale.name))


def _is_constant(tensor: onnx.TensorProto) -> bool:
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor).astype(np.float32)
    return bool((values == values.flat[0]).all())


def encode(data: bytes) -> str:
    return base64.b85encode(zlib.compress(data, 9)).decode()


def write_bundle(
    path: Path, *, graphs: Mapping[str, tuple[bytes, dict[str, int]]], facts: Mapping[str, Any]
) -> None:
    """One JSON file.

    Args:
        graphs: by name (`timed/CURVE/COUNT`, `dense`, `emptied`, `without/CURVE`, `plan/N`), as
            `strip` gives them.
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
        "kind": _KIND,
        **facts,
        "weights": sizes,
        "graphs": {name: encode(graph) for name, (graph, _) in graphs.items()},
    }
    atomic_write_text(path, json.dumps(data) + "\n")


def require_bundle_place(path: str | Path) -> None:
    """Can a bundle be written at `path`, and is nothing there but an earlier one?

    Raises:
        UsageError: it cannot, or a file of another kind is there.
    """
    require_file_place(path, ours=_is_bundle, kind="a file of `rfx shapes`")


def _is_bundle(file: Path) -> bool:
    with file.open("rb") as stream:  # which says in its first line what it is
        return f'"kind": "{_KIND}"'.encode() in stream.read(4096)


class Bundle:
    """A bundle on the board; its models are those of `rfx.cost.bench.TimedModels`.

    Raises:
        UsageError: no such file, not a bundle, or of another schema.
    """

    def __init__(self, path: str | Path):
        allowed, again = (
            "a JSON file of `rfx shapes`",
            "make it again on the server: rfx shapes MODEL --out shapes.json",
        )
        file = as_path(path, "file of shapes", allowed)
        with told_apart(file, SHAPES):
            data = read_json(file, what="file of shapes", most_mb=_MOST_MB, allowed=allowed)
            ours = isinstance(data, dict) and data.get("kind") == _KIND
            if not ours or "schema_version" not in data:
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
            self.inputs, self.model_hash = (
                InputSpec.from_json(data["inputs"]),
                str(data["model_hash"]),
            )
            # Of files that were quantized; earlier versions of rfx did so for one runtime alone.
            self.quantizer = str(data.get("quantizer", ""))
            self.shape = ModelShape.from_json(data["shape"])
            timed = data["timed"]
            # The models that are timed have so many layers, and of each curve so many sites.
            self.layers = int(timed["layers"])
            self.bytes = int(timed["bytes"])
            self.counted = {str(n): (int(a), int(b)) for n, (a, b) in timed["sites"].items()}
            self.model_sites = [Site.from_json(s) for s in data["sites"]]
            self.plans = [Plan.from_json(p) for p in data["plans"]]
            self._graphs = {str(n): str(g) for n, g in data["graphs"].items()}
            self._sizes = {str(n): int(s) for n, s in data["weights"].items()}
            needed = {"dense", "emptied", *(f"plan/{i}" for i in range(len(self.plans)))}
            needed |= {_timed(DENSE), *(f"without/{name}" for name in self.shape.partial)}
            missing = needed - set(self._graphs)
            if missing:
                raise KeyError(", ".join(sorted(missing)))
            _require_own(self.shape, self.model_sites, self.plans)
            if set(self.counted) != {group.name for group in self.shape.alike}:
                raise ValueError("not every curve has its number of sites")
            for group in self.shape.alike:
                n, at_one = self.counted[group.name]
                if not 0 <= at_one <= n or not 0 < n <= len(group.sites):
                    raise ValueError(
                        f"{group.name} is timed with {n} sites, {at_one} of them partial"
                    )
            sizes = {
                "batch": self.batch,
                "sequence": self.sequence,
                "layers": self.layers,
                "bytes": self.bytes,
                "weights": len(self._sizes),
            }
            bad = [
                f"{k} {v!r}"
                for k, v in sizes.items()
                if isinstance(v, bool) or not isinstance(v, (int, float)) or not 0 < v <= _MOST
            ]
            bad += [n for n in self._graphs if not _GRAPH.fullmatch(n)]
            # They become the names of files on the board, of these sizes.
            bad += [n for n, s in self._sizes.items() if n not in [f for f, _ in _FILES.values()]]
            bad += [f"{n} {s}" for n, s in self._sizes.items() if not 0 < s <= _MOST_BYTES]
            if bad:
                raise ValueError(short(", ".join(bad[:5]), 200, bare=True))
        except UsageError as error:  # a plan that is not valid
            why = f"{error.what} {error.got}"
        except KeyError as error:
            why = f"{short(error.args[0], 200, bare=True)} is missing"
        except ValueError as error:
            why = first_line(error)
        except (TypeError, AttributeError, OverflowError):
            why = "a part of it is of another kind than it should be"
        else:
            why = ""
        if why:
            raise UsageError(
                "The shapes are incomplete.",
                got=f"{file}: {why}",
                allowed=allowed,
                next_step=again,
            ) from None
        self._path = file

    @property
    def sites(self) -> Mapping[str, tuple[int, int]]:
        """By curve, how many sites the models that are timed have, and how many partial ones."""
        return self.counted

    @property
    def points(self) -> set[Point]:
        """Every model that is timed."""
        found = [name.split("/") for name in self._graphs if name.startswith("timed/")]
        return {(name, int(count)) for _, name, count in found}

    def file(self, point: Point, folder: Path) -> Path:
        """The ONNX file of a model that is timed, in `folder`, its weights beside it."""
        return self.model(_timed(point), folder)

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
            unpack, most_mb = zlib.decompressobj(), bound_mb(_MOST_GRAPH_MB)
            most = int(most_mb * MB)
            graph = unpack.decompress(base64.b85decode(self._graphs[name]), most + 1)
            if len(graph) > most:
                where = f"{self._path}: {name}"
                raise too_large(where, "graph of the shapes", most_mb, unpacked=True)
            if not unpack.eof:
                raise ValueError("it is cut off")
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


def _require_own(shape: ModelShape, sites: Sequence[Site], plans: Sequence[Plan]) -> None:
    """Raises ValueError where sites or plans are not those of the curves."""
    own = {s.name: (s.kind, s.units, s.width) for s in sites}
    theirs = [(n, (g.kind, g.units, g.width)) for g in shape.alike for n in g.sites]
    if len(own) < len(sites) or len(theirs) != len(own) or dict(theirs) != own:
        raise ValueError("the sites are not those of the curves")
    for plan in plans:
        if {s.name: s.units for s in plan.sites} != {s.name: s.units for s in sites}:
            raise ValueError("a plan is of other sites")


def _timed(point: Point) -> str:
    """The name of a graph."""
    return f"timed/{point[0]}/{point[1]}"


def _typed(pool: np.ndarray, name: str) -> np.ndarray:
    if name == "weights.f16.bin":
        return pool.astype(np.float16)
    if name == "weights.bf16.bin":  # NumPy has no bfloat16: the upper half of a float32
        return (pool.view(np.uint32) >> 16).astype(np.uint16)
    if name == "weights.s8.bin":  # of a scale by which three deviations fit
        return np.clip(np.rint(pool * np.float32(2000)), -127, 127).astype(np.int8)
    if name == "weights.f8.bin":  # nor float8: bit patterns of numbers from 1/8 to 7.5, of any sign
        size = np.abs(np.rint(pool * np.float32(2000))).astype(np.uint8) % 48 + 32
        return (size | np.where(pool < 0, 128, 0)).astype(np.uint8)
    return pool
