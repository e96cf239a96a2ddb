"""What an ONNX file is made of, in bytes: what each unit of a site takes in it, what a site takes
as long as it has any unit, and the rest, which no plan can remove.

All of it is read off the file of the dense model, at whatever precision that has. So scales and
zero points of a quantized file, and sites that were kept in fp32, are counted as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rfx.core.errors import UnsupportedModelError
from rfx.core.plan import Site

if TYPE_CHECKING:
    import onnx

PRODUCTS = ("MatMul", "Gemm", "MatMulInteger")
EMBEDDINGS, WEIGHTS, GRAPH = "embeddings", "norms, head and other weights", "graph"


@dataclass(frozen=True)
class SiteBytes:
    """Bytes of a site in a file.

    Args:
        unit: of each unit.
        once: beside its units, as long as the site is not empty: its operators, and what belongs
            to all units together.
    """

    unit: float
    once: float


@dataclass(frozen=True)
class FileBytes:
    """The bytes of a file: of each site by name, and of the parts that cannot be pruned."""

    sites: Mapping[str, SiteBytes]
    fixed: Mapping[str, float] = field(default_factory=dict)


def file_bytes(graphs: Sequence[onnx.ModelProto], sites: Sequence[Site]) -> FileBytes:
    """What the files of a dense model are made of.

    Args:
        graphs: the model in all its files; a site may be in several of them.
        sites: all sites of the model.

    Raises:
        UnsupportedModelError: the weights of a site are in none of the files under their names.
    """
    found = [_of_graph(graph, sites) for graph in graphs]
    by_site = {}
    for site in sites:
        parts = [own for own, _ in found if site.name in own]
        if not parts:
            raise UnsupportedModelError(
                "The size of a sublayer cannot be read off the exported file.",
                got=f"no weights of {site.name}",
                allowed="a file that names its weights after the modules of the model",
                next_step="give a --latency or --flops budget in place of --size",
            )
        by_site[site.name] = SiteBytes(
            sum(p[site.name].unit for p in parts), sum(p[site.name].once for p in parts)
        )
    names = dict.fromkeys(name for _, fixed in found for name in fixed)
    return FileBytes(
        by_site, {name: sum(fixed.get(name, 0.0) for _, fixed in found) for name in names}
    )


def _of_graph(
    model: onnx.ModelProto, sites: Sequence[Site]
) -> tuple[dict[str, SiteBytes], dict[str, float]]:
    """Sites, and the parts that cannot be pruned, of one file."""
    graph = model.graph
    whole = _framed(graph.initializer)
    own: dict[str, SiteBytes] = {}
    taken: set[str] = set()
    for site in sites:
        part, names = _of_site(graph, site, whole)
        if part is not None:
            own[site.name] = part
            taken |= names
    tables = {n.input[0] for n in graph.node if n.op_type == "Gather"} - taken
    embeddings = float(sum(whole[name] for name in tables & whole.keys()))
    others = float(sum(size for name, size in whole.items() if name not in taken | tables))
    pruned = sum(own[s.name].unit * s.units + own[s.name].once for s in sites if s.name in own)
    rest = model.ByteSize() - pruned - embeddings - others
    return own, {EMBEDDINGS: embeddings, WEIGHTS: others, GRAPH: rest}


def _of_site(
    graph: onnx.GraphProto, site: Site, whole: Mapping[str, int]
) -> tuple[SiteBytes | None, set[str]]:
    """The bytes of a site, and the names of the weights that go where it is emptied."""
    rows = [i for i in graph.initializer if _belongs(i.name, site.inputs)]
    after = [i for i in graph.initializer if _belongs(i.name, (site.output,))]
    columns = [i for i in after if len(i.dims) == 2 and site.channels in i.dims]
    if not rows or not columns:
        return None, set()
    # An empty projection is still its bias.
    gone = {i.name for i in (*rows, *after) if not i.name.endswith(".bias") or i in rows}
    per_unit = sum(map(_values, (*rows, *columns))) / site.units
    dead = _dead_nodes(graph, {i.name for i in columns}, gone | {i.name for i in after})
    read = {name for n in _others(graph, dead) for name in n.input}
    gone |= {name for i in dead for name in graph.node[i].input if name in whole} - read
    outputs = {name for i in dead for name in graph.node[i].output}
    once = sum(whole[name] for name in gone) - per_unit * site.units
    once += sum(_frame(graph.node[i].ByteSize()) for i in dead)
    once += sum(_frame(v.ByteSize()) for v in graph.value_info if v.name in outputs)
    once += _listed(graph, (*(f"{m}." for m in site.inputs), f"{site.output}.weight"))
    return SiteBytes(per_unit, once), gone


def _belongs(name: str, modules: Iterable[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


def _values(tensor: onnx.TensorProto) -> int:
    """Bytes of the numbers of a tensor."""
    from onnx import helper

    return int(math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _framed(messages: Iterable[object]) -> dict[str, int]:
    """Bytes of each named message of a file, with the tag and the length before it."""
    return {m.name: _frame(m.ByteSize()) for m in messages}  # type: ignore[attr-defined]


def _frame(size: int) -> int:
    return size + 1 + max(1, -(-size.bit_length() // 7))


def _listed(graph: onnx.GraphProto, names: Sequence[str]) -> int:
    """Bytes of the lines about some parameters in the graph's metadata, where PyTorch's exporter
    lists all of them."""
    lines = [line for prop in graph.metadata_props for line in prop.value.splitlines()]
    return sum(len(line.encode()) + 1 for line in lines if any(f".{n}" in line for n in names))


def _others(graph: onnx.GraphProto, dead: set[int]) -> list[onnx.NodeProto]:
    return [node for i, node in enumerate(graph.node) if i not in dead]


def _dead_nodes(graph: onnx.GraphProto, weights: set[str], gone: set[str]) -> set[int]:
    """The places of the nodes that a file is without once the products with `weights` give nothing:
    those that only lead there, and those that only turn what they give into numbers.

    Args:
        gone: all weights of the site, the bias that is left of it too: it becomes a constant.
    """
    dead: set[int] = set()
    values: set[str] = set()  # that are not computed any more
    for i, node in enumerate(graph.node):
        if node.op_type in PRODUCTS and weights & set(node.input):
            dead.add(i)
            values |= set(node.output)
    # Scales of a quantized product: nodes whose inputs all are of this site.
    for i, node in enumerate(graph.node):
        inputs = [name for name in node.input if name]
        others = [name for name in inputs if name not in values and name not in gone]
        if i not in dead and set(inputs) & values and not _varies(graph, others, weights):
            dead.add(i)
            values |= set(node.output)
    needed = {v.name for v in graph.output}
    while True:
        read = {name for n in _others(graph, dead) for name in n.input}
        more = {
            i
            for i, n in enumerate(graph.node)
            if i not in dead and not (set(n.output) & (read | needed))
        }
        if not more:
            return dead
        dead |= more


def _varies(graph: onnx.GraphProto, names: Sequence[str], weights: set[str]) -> bool:
    """Whether any of these values comes from elsewhere than the scales of a product with
    `weights`."""
    made = {out: n for n in graph.node for out in n.output}
    stem = {w.removesuffix("_quantized") for w in weights}
    return any(
        name not in made or not any(f"{s}_scale" in made[name].input for s in stem)
        for name in names
    )
