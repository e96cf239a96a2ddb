"""A file of which some products are quantized and the others are not, put together from the fp32
file and the quantized file of one model.

Quantizers keep the names of the tensors between products, so that what makes a tensor can be taken
from either file. Nothing is quantized anew, whatever the quantizer is: a single sublayer is
measured with the very integers that it has in the whole file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, TypeVar

from rfx.export.quantizers.products import module_of, products_with_weight

if TYPE_CHECKING:
    import onnx


def changed(plain: onnx.ModelProto, quantized: onnx.ModelProto) -> frozenset[str]:
    """The tensors that both files have and the quantized one makes in another way: by another node,
    from other tensors, or with another constant under the same name (NNCF corrects biases)."""
    makers, other = _makers(quantized), _differing(plain, quantized)
    return frozenset(
        name
        for name, node in _makers(plain).items()
        if name in makers
        and (_reads(makers[name]) != _reads(node) or not other.isdisjoint(node.input))
    )


def made_by_modules(plain: onnx.ModelProto, modules: Collection[str]) -> frozenset[str]:
    """The tensors that the products of these modules make, and that come of adding their biases."""
    products = {
        node.output[0]
        for node, weight, _ in products_with_weight(plain)
        if module_of(weight) in modules
    }
    biases = {f"{module}.bias" for module in modules}
    added = {n.output[0] for n in plain.graph.node if not biases.isdisjoint(n.input)}
    return frozenset(products | added)


def mixed(
    plain: onnx.ModelProto, quantized: onnx.ModelProto, names: Collection[str]
) -> onnx.ModelProto:
    """The fp32 file, in which these tensors are made as in the quantized file.

    Args:
        names: tensors of `changed`.

    Raises:
        KeyError: a tensor that the quantized file does not make.
    """
    import onnx

    makers, wanted = _makers(quantized), frozenset(names)
    # A constant of the quantized file goes under a name of its own where the fp32 file has another
    # one under its name: modelopt stores integers under the name of the weight.
    own_names = {name: f"{name}.quantized" for name in _differing(plain, quantized)}
    known = {v.name for v in plain.graph.input} | _makers(plain).keys()
    nodes: list[onnx.NodeProto] = []
    done: set[int] = set()  # by identity: several products read one quantized activation

    def take(name: str) -> None:
        """What makes a tensor in the quantized file, and before it what it reads that the fp32 file
        does not have."""
        node = makers[name]
        if id(node) in done:
            return
        done.add(id(node))
        for read in node.input:
            if read in makers and read not in known:
                take(read)
        if not own_names.keys().isdisjoint(node.input):
            node = _copied(node)
            node.input[:] = [own_names.get(n, n) for n in node.input]
        nodes.append(node)

    for node in plain.graph.node:
        if wanted.isdisjoint(node.output):
            nodes.append(node)
        for name in node.output:
            if name in wanted:
                take(name)
    constants = {i.name: i for i in quantized.graph.initializer}
    for old, new in own_names.items():
        constants[new] = _copied(constants[old])
        constants[new].name = new
    constants |= {i.name: i for i in plain.graph.initializer}
    read = dict.fromkeys(name for node in nodes for name in _all_read(node))
    graph = onnx.helper.make_graph(
        nodes,
        plain.graph.name,
        list(plain.graph.input),
        list(plain.graph.output),
        [constants[name] for name in read if name in constants],
    )
    return onnx.helper.make_model(
        graph,
        opset_imports=list(quantized.opset_import),
        ir_version=max(plain.ir_version, quantized.ir_version),
    )


def _differing(plain: onnx.ModelProto, quantized: onnx.ModelProto) -> frozenset[str]:
    """The names of the constants that are not the same in both files."""
    ours = {i.name: i for i in plain.graph.initializer}
    return frozenset(
        i.name
        for i in quantized.graph.initializer
        if i.name in ours
        and (
            (i.data_type, list(i.dims)) != (ours[i.name].data_type, list(ours[i.name].dims))
            or not _equal(ours[i.name], i)
        )
    )


def _equal(a: onnx.TensorProto, b: onnx.TensorProto) -> bool:
    from onnx import numpy_helper

    x, y = numpy_helper.to_array(a), numpy_helper.to_array(b)
    return bool(x.tobytes() == y.tobytes())


P = TypeVar("P", "onnx.NodeProto", "onnx.TensorProto")


def _copied(proto: P) -> P:
    other = type(proto)()
    other.CopyFrom(proto)
    return other


def _makers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output if name}


def _reads(node: onnx.NodeProto) -> tuple[str, tuple[str, ...]]:
    return node.op_type, tuple(node.input)


def _all_read(node: onnx.NodeProto) -> Iterator[str]:
    """The names that a node reads, and those that its branches read from outside."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node if attribute.HasField("g") else ():
            yield from _all_read(inner)
