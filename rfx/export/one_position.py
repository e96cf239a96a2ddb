"""The last layer where the head reads one position: computed at that position alone.

A classifier reads the first token of the last layer and nothing else, yet an exported file computes
the last layer at every token and then throws the rest away. Here the choice of the position moves
up through everything that treats positions one by one: the norms, sums, activations and products
with a weight, and in the attention the queries. Keys and values are still needed everywhere. In
fp32 what is computed stays the same; INT8 chooses its scales by what is left.
`python -m benchmarks.exports` measures what it gains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.export.facts import read_model

if TYPE_CHECKING:
    import onnx

PROPERTY = "rfx.one_position"  # of the file's metadata: modules, with a blank between them
_UNARY = ("Cast", "Erf", "Gelu", "HardSigmoid", "Identity", "Relu", "Sigmoid", "Sqrt", "Tanh")
_BROADCAST = ("Add", "Div", "Mul", "Pow", "Sub", "Sum")

Dims = Sequence[int | str]  # of a tensor: sizes, and names of axes whose size is free


@dataclass(frozen=True)
class _Edge:
    """An input of a node of which one position is needed, and the axis that positions lie on."""

    node: onnx.NodeProto
    index: int
    axis: int

    @property
    def tensor(self) -> str:
        return self.node.input[self.index]


@dataclass
class _Graph:
    """What is known of a graph: who reads a tensor, and its shape."""

    proto: onnx.GraphProto
    readers: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, Dims] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (n for node in self.proto.node for n in node.input):
            self.readers[name] = self.readers.get(name, 0) + 1
        for output in self.proto.output:  # read by whoever runs the graph
            self.readers[output.name] = self.readers.get(output.name, 0) + 1
        for value in (*self.proto.input, *self.proto.value_info, *self.proto.output):
            dims = _dims(value)
            if dims is not None:
                self.shapes[value.name] = dims
        for constant in self.proto.initializer:
            self.shapes[constant.name] = list(constant.dims)


def choose_early(model: onnx.ModelProto) -> tuple[str, ...]:
    """Compute what is read at one position at that position alone, in place.

    Returns:
        Paths of the modules whose products are now computed at one position (see
        `rfx.export.names`); none where the graph reads no single position.
    """
    if any(a.HasField("g") or a.graphs for node in model.graph.node for a in node.attribute):
        return ()  # a branch may read any value around it
    graph = _Graph(model.graph)
    for choice, position in list(_choices(graph)):
        inside, edges = _region(graph, choice)
        modules = _modules(graph, (node for node, _ in inside))
        if modules:  # else there would be more nodes and no less work
            _rewrite(graph, inside, edges, position)
            return modules
    return ()


def modules_at_one_position(files: Iterable[Path]) -> frozenset[str]:
    """What `choose_early` gave when ONNX files were written, by their metadata.

    Raises:
        UsageError: as `rfx.export.facts.read_model`.
    """
    facts = [p for file in files for p in read_model(file).metadata_props]
    return frozenset(m for p in facts if p.key == PROPERTY for m in p.value.split())


def _choices(graph: _Graph) -> Iterator[tuple[onnx.NodeProto, int]]:
    """The nodes that read the first or the last position of a tensor [batch, positions, channels]
    that nothing else reads."""
    from onnx import numpy_helper

    constants = {i.name: i for i in graph.proto.initializer}
    for node in graph.proto.node:
        if node.op_type != "Gather" or _attribute(node, "axis", 0) != 1:
            continue
        index = constants.get(node.input[1])
        if index is None or len(index.dims) != 0 or len(graph.shapes.get(node.input[0], ())) != 3:
            continue
        position = int(numpy_helper.to_array(index))
        # Of one position the first and the last one are that position too.
        if position in (0, -1) and graph.readers[node.input[0]] == 1:
            yield node, position


def _region(
    graph: _Graph, choice: onnx.NodeProto
) -> tuple[list[tuple[onnx.NodeProto, int]], list[_Edge]]:
    """The nodes that need to compute one position only, each with the axis of its output that
    positions lie on, and all inputs of theirs that are needed at one position."""
    wanted = {choice.input[0]: [_Edge(choice, 0, 1)]}
    inside, before = [], False
    for node in reversed(graph.proto.node):
        if node is choice:
            before = True
        if not before or len([o for o in node.output if o]) != 1 or node is choice:
            continue
        edges = wanted.get(node.output[0], [])
        axes = {e.axis for e in edges}
        if len(edges) != graph.readers.get(node.output[0], 0) or len(axes) != 1:
            continue  # somebody else reads all of it
        inputs = _through(graph, node, axes.pop())
        if inputs is None:
            continue
        inside.append((node, edges[0].axis))
        for edge in inputs:
            wanted.setdefault(edge.tensor, []).append(edge)
    return inside, [e for edges in wanted.values() for e in edges]


def _through(graph: _Graph, node: onnx.NodeProto, axis: int) -> list[_Edge] | None:
    """The inputs of which a node needs one position to give one position on `axis` of its output;
    None where it needs more, or where that is not known."""
    ranks = [len(graph.shapes[n]) if n in graph.shapes else -1 for n in node.input]
    out = graph.shapes.get(node.output[0])
    if out is None or -1 in ranks:
        return None
    first, kind = _Edge(node, 0, axis), node.op_type
    if kind in _UNARY:
        return [first]
    if kind == "Softmax":
        return [first] if _attribute(node, "axis", -1) % len(out) != axis else None
    if kind == "LayerNormalization":
        return [first] if _attribute(node, "axis", -1) % len(out) > axis else None
    if kind == "Transpose":
        perm = _attribute(node, "perm", None)
        return None if perm is None else [_Edge(node, 0, perm[axis])]
    if kind == "MatMul":
        rows = axis == len(out) - 2 and min(ranks) >= 2
        return [_Edge(node, 0, ranks[0] - 2)] if rows else None
    if kind == "Reshape":
        return [first] if _kept_sizes(graph, node, axis) is not None else None
    if kind in _BROADCAST:
        places = [(i, axis - len(out) + rank) for i, rank in enumerate(ranks)]
        return [
            _Edge(node, i, place)
            for i, place in places
            if place >= 0 and graph.shapes[node.input[i]][place] != 1
        ]
    return None


def _kept_sizes(graph: _Graph, node: onnx.NodeProto, axis: int) -> list[int] | None:
    """The shape that a Reshape has to be given where `axis` has one position; None where what is
    before it is not left as it is, or what is behind it is not known."""
    before, after = graph.shapes[node.input[0]], graph.shapes[node.output[0]]
    if list(before[: axis + 1]) != list(after[: axis + 1]) or "" in after[: axis + 1]:
        return None
    behind = [size if isinstance(size, int) else -1 for size in after[axis + 1 :]]
    if behind.count(-1) > 1 or 0 in behind:
        return None
    return [0] * axis + [1, *behind]  # 0: as in the input


def _modules(graph: _Graph, nodes: Iterator[onnx.NodeProto]) -> tuple[str, ...]:
    """The modules whose products these nodes are, in no order that means anything."""
    weights = {i.name for i in graph.proto.initializer}
    found = {
        node.input[1].removesuffix(".T").removesuffix(".weight")
        for node in nodes
        if node.op_type == "MatMul" and node.input[1] in weights
    }
    return tuple(sorted(found))


def _rewrite(
    graph: _Graph, inside: list[tuple[onnx.NodeProto, int]], edges: list[_Edge], position: int
) -> None:
    """Let the nodes inside compute one position: what comes in from outside is cut to it."""
    from onnx import helper, numpy_helper

    proto = graph.proto
    axis_of = {node.output[0]: axis for node, axis in inside}
    taken = {n for node in proto.node for n in (*node.input, *node.output, node.name)}

    def constant(name: str, values: list[int]) -> str:
        name = _free(name, taken)
        proto.initializer.append(numpy_helper.from_array(np.asarray(values, np.int64), name))
        return name

    for node, axis in inside:
        if node.op_type == "Reshape":
            node.input[1] = constant("kept_shape", _kept_sizes(graph, node, axis) or [])
            del node.attribute[:]  # allowzero, under which a 0 would be no copy
    index = constant("position", [position])
    cut: dict[tuple[str, int], str] = {}
    for edge in edges:
        key = edge.tensor, edge.axis
        if edge.tensor in axis_of:
            continue
        if key not in cut:
            cut[key] = _free(f"{edge.tensor}_at", taken)
        edge.node.input[edge.index] = cut[key]
    nodes, made = list(proto.node), set()
    ordered = []

    def add(name: str) -> None:
        """The cuts of a tensor that is there from now on."""
        for (tensor, axis), output in cut.items():
            if tensor == name and output not in made:
                made.add(output)
                ordered.append(
                    helper.make_node(
                        "Gather", [tensor, index], [output], f"node_{output}", axis=axis
                    )
                )

    for name in [v.name for v in (*proto.input, *proto.initializer)]:
        add(name)
    for node in nodes:
        ordered.append(node)
        for name in node.output:
            add(name)
    del proto.node[:]
    proto.node.extend(ordered)
    for value in proto.value_info:
        if value.name in axis_of:
            dim = value.type.tensor_type.shape.dim[axis_of[value.name]]
            dim.dim_value = 1


def _free(name: str, taken: set[str]) -> str:
    """A name that nothing in the graph has yet."""
    number, free = 0, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    taken.add(free)
    return free


def _dims(value: onnx.ValueInfoProto) -> Dims | None:
    """Sizes and names of axes; an axis that has neither is ""."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    return [
        d.dim_value if d.HasField("dim_value") else d.dim_param
        for d in value.type.tensor_type.shape.dim
    ]


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    from onnx import helper

    found = (a for a in node.attribute if a.name == name)
    return next((helper.get_attribute_value(a) for a in found), default)
