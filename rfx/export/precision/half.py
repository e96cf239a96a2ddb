"""fp32 -> a half type in the file itself: TensorRT 11 is strongly typed, it computes in the types
it reads.

Where each type goes:

    half    matrix products, their biases, what stands between two of them (activations, Reshape,
            Transpose), and the embedding tables (cast up after the Gather: storing them so halves
            the file)
    fp32    LayerNormalization, Softmax with the scaling and the mask before it, the residual
            stream, sums of embeddings, reductions, Pow and whatever the tables in
            placement.py do not name; the inputs and outputs of the graph

An activation written out in elementary operators is half as a whole or fp32 as a whole, never in
turns: gelu through Erf or Sigmoid is half, gelu_new is fp32 because of its Pow (x^3 leaves the
range of fp16 at 41).

A tensor `x` has at most two forms: `x` is fp32 and `x.fp16` (or `x.bf16`) is half. Whoever makes it
makes one of them, one Cast behind makes the other if anyone reads it. Names of initializers stay,
whatever their type: rfx finds the shapes of a pruned model by them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rfx.export.precision.base import Half
from rfx.export.precision.graphs import shell
from rfx.export.precision.halves import rounded
from rfx.export.precision.placement import View

if TYPE_CHECKING:
    import onnx


def to_half(model: onnx.ModelProto, half: Half) -> onnx.ModelProto:
    """A new model: `model` (fp32) with its matrix products in the half type.

    Inputs and outputs keep names, types and shapes; initializers keep names and shapes.

    Raises:
        UnsupportedModelError: a weight is not finite, or too large for the type.
    """
    from onnx import TensorProto

    graph = model.graph
    view = View(model, half)
    in_half = view.nodes_in_half()

    read_half: set[str] = set()
    read_full = set(view.read_elsewhere)
    for i, node in enumerate(graph.node):
        (read_half if i in in_half else read_full).update(x for x in node.input if x in view.floats)
    stored_half = {x for x in view.constants if x in read_half and x not in read_full}
    names = _half_names(graph, view.floats, stored_half, half)

    result = shell(model, without=("graph",))
    result.graph.CopyFrom(shell(graph, without=("node", "initializer", "value_info")))
    for tensor in graph.initializer:
        if tensor.name in view.constants and tensor.name in read_half:
            # Raises also where the file keeps fp32 and a Cast would make infinity.
            values = rounded(tensor, half)
            if tensor.name in stored_half:
                tensor = TensorProto(
                    name=tensor.name,
                    dims=tensor.dims,
                    data_type=TensorProto.DataType.Value(half.element),
                    raw_data=values.tobytes(),
                )
        result.graph.initializer.append(tensor)
    sources = [*(v.name for v in graph.input), *view.constants]
    result.graph.node.extend(
        _cast(x, names[x], half.element)
        for x in dict.fromkeys(sources)
        if x in read_half - stored_half
    )
    made_half = set(stored_half)
    for i, node in enumerate(graph.node):
        outputs = [x for x in node.output if x in view.floats]
        added = result.graph.node.add()
        added.CopyFrom(node)
        if i in in_half:
            made_half.update(outputs)
            added.input[:] = [names[x] if x in view.floats else x for x in node.input]
            added.output[:] = [names[x] if x in view.floats else x for x in node.output]
            result.graph.node.extend(_cast(names[x], x, "FLOAT") for x in outputs if x in read_full)
        else:
            result.graph.node.extend(
                _cast(x, names[x], half.element) for x in outputs if x in read_half
            )
    result.graph.value_info.extend(_value_info(graph, names, half, read_half, read_full, made_half))
    return result


def _half_names(
    graph: onnx.GraphProto, floats: set[str], stored_half: set[str], half: Half
) -> dict[str, str]:
    """What the half form of each float tensor is called; initializers stored in half keep their
    names."""
    taken = {x for node in graph.node for x in (*node.input, *node.output)} | floats
    names = {}
    for x in sorted(floats):
        name = f"{x}.{half.name}"
        while name in taken:
            name += "_"
        names[x] = x if x in stored_half else name
        taken.add(name)
    return names


def _cast(x: str, to: str, element: str) -> onnx.NodeProto:
    from onnx import TensorProto, helper

    return helper.make_node(
        "Cast", [x], [to], name=f"cast_{to}", to=TensorProto.DataType.Value(element)
    )


def _value_info(
    graph: onnx.GraphProto,
    names: dict[str, str],
    half: Half,
    read_half: set[str],
    read_full: set[str],
    made_half: set[str],
) -> Iterator[onnx.ValueInfoProto]:
    """Recorded shapes, of both forms: runtimes fuse only where they know them."""
    from onnx import TensorProto, ValueInfoProto

    recorded = [(v, False) for v in graph.value_info] + [
        (v, True) for v in (*graph.input, *graph.output)
    ]
    for value, stays in recorded:
        if not stays and (
            value.name not in made_half
            or (value.name in read_full and names[value.name] != value.name)
        ):
            yield value
        if value.name in made_half or value.name in read_half:
            form = ValueInfoProto()
            form.CopyFrom(value)
            form.name = names[value.name]
            form.type.tensor_type.elem_type = TensorProto.DataType.Value(half.element)
            yield form
