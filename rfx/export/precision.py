"""fp32 -> fp16 or bf16 in the file itself: TensorRT 11 is strongly typed, it computes in the types
it reads.

Where each type goes:

    half    matrix products, their biases, what stands between two of them (activations, Reshape,
            Transpose), and the embedding tables (cast up after the Gather: storing them so halves
            the file)
    fp32    LayerNormalization, Softmax with the scaling and the mask before it, the residual
            stream, sums of embeddings, reductions, Pow and whatever the tables below do not name;
            the inputs and outputs of the graph

An activation written out in elementary operators is half as a whole or fp32 as a whole, never in
turns: gelu through Erf or Sigmoid is half, gelu_new is fp32 because of its Pow (x^3 leaves the
range of fp16 at 41).

A tensor `x` has at most two forms: `x` is fp32 and `x.fp16` (or `x.bf16`) is half. Whoever makes it
makes one of them, one Cast behind makes the other if anyone reads it. Names of initializers stay,
whatever their type: rfx finds the shapes of a pruned model by them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from rfx.core.errors import InternalCheckError, UnsupportedModelError, UsageError, first_line

if TYPE_CHECKING:
    import onnx

# The table. An operator that it does not name is fp32, and so is one that does not take the half
# type at its opset.
# Half wherever they stand: linears, scores and context of the attention, patches (but see
# _from_integers).
PRODUCTS = frozenset({"MatMul", "Gemm", "Conv"})
# Half too: the Add of a bias behind a product (_is_bias) and the Gather from an embedding table
# (_is_table).
# Half between halves, that is where all that enters a connected run of them is half and all it
# leads to reads half:
ACTIVATIONS = frozenset(
    {"Gelu", "Relu", "Erf", "Tanh", "Sigmoid", "Mul"}
)  # Mul: x * sigmoid(x), gate, scale
WITH_CONSTANT = frozenset(
    {"Add", "Sub", "Div"}
)  # 1 + erf(x / sqrt(2)); of two activations: a residual, a norm, fp32
MOVES = frozenset(
    {
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Identity",
        "Slice",
        "Split",
        "Concat",
        "Expand",
        "Gather",
    }
)
TABLE = PRODUCTS | ACTIVATIONS | WITH_CONSTANT | MOVES


@dataclass(frozen=True)
class _Half:
    """A half type: its name here (the ending of its tensors), in ONNX's protos, in ONNX's schemas;
    its largest number."""

    name: str
    element: str
    schema: str
    largest: float


HALVES = {
    "fp16": _Half("fp16", "FLOAT16", "tensor(float16)", 65504.0),
    "bf16": _Half(
        "bf16", "BFLOAT16", "tensor(bfloat16)", float(np.uint32(0x7F7F0000).view(np.float32))
    ),
}
PRECISIONS = ("fp32", *HALVES)
_PROPERTY = "rfx.precision"
_SMALL = 256  # numbers


def convert_precision(
    model: onnx.ModelProto, precision: str, *, check: bool = True
) -> onnx.ModelProto:
    """`model` (fp32) with its matrix products at `precision`: a new model, or `model` itself for
    "fp32".

    Inputs and outputs keep names, types and shapes; initializers keep names and shapes.
    `rfx.precision` is added to the metadata.

    Args:
        check: hold the result against ONNX's checker; it takes its time on many files of one
            pattern.

    Raises:
        UsageError: not a precision, or a model converted before.
        UnsupportedModelError: a weight is not finite, or too large for the type.
        InternalCheckError: the result does not pass the checker.
    """
    from onnx import TensorProto, helper

    if precision not in PRECISIONS:
        raise UsageError(
            "There is no such precision.", got=precision, allowed=", ".join(PRECISIONS)
        )
    if precision == "fp32":
        return model
    written = next((p.value for p in model.metadata_props if p.key == _PROPERTY), "fp32")
    if written != "fp32":
        raise UsageError(
            "The file has its precision already.",
            got=written,
            next_step="convert the fp32 file instead",
        )
    half, graph = HALVES[precision], model.graph
    view = _View(model, half)
    in_half = view.nodes_in_half()

    read_half, read_full = set(), set(view.read_elsewhere)
    for i, node in enumerate(graph.node):
        (read_half if i in in_half else read_full).update(x for x in node.input if x in view.floats)
    stored_half = {x for x in view.constants if x in read_half and x not in read_full}
    names = _half_names(graph, view.floats, stored_half, half)

    result = _shell(model, without=("graph",))
    result.graph.CopyFrom(_shell(graph, without=("node", "initializer", "value_info")))
    for tensor in graph.initializer:
        if tensor.name in view.constants and tensor.name in read_half:
            values = _rounded(
                tensor, half
            )  # raises also where the file keeps fp32 and a Cast would make infinity
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

    metadata = {p.key: p.value for p in model.metadata_props} | {_PROPERTY: precision}
    helper.set_model_props(result, metadata)
    if check:
        _check(result, precision)
    return result


class _View:
    """Who makes and who reads the float32 tensors of a graph."""

    def __init__(self, model: onnx.ModelProto, half: _Half):
        graph = model.graph
        self.half, self.nodes = half, graph.node
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
        self.floats = _float_tensors(model)
        inputs = {
            v.name for v in graph.input
        }  # an initializer that is an input too may be given another value
        self.constants = {
            i.name: i for i in graph.initializer if i.name in self.floats and i.name not in inputs
        }
        self.maker = {
            x: i for i, node in enumerate(graph.node) for x in node.output if x in self.floats
        }
        self.readers: dict[str, list[int]] = {x: [] for x in self.floats}
        for i, node in enumerate(graph.node):
            for x in node.input:
                if x in self.floats:
                    self.readers[x].append(i)
        # Graph outputs, and names that the branches of an If or Loop take from outside: read, and
        # in fp32.
        self.read_elsewhere = {v.name for v in graph.output} | set(_captured(graph.node))

    def nodes_in_half(self) -> set[int]:
        """Indices of the nodes that run in half, by the tables at the top."""
        chosen: set[int] = set()
        positions = self._from_integers()
        for i, node in enumerate(self.nodes):
            if not self._can(node):
                continue
            if node.op_type in PRODUCTS and not positions.intersection(node.input):
                chosen.add(i)
            elif node.op_type == "Add" and self._is_bias(node, chosen):
                chosen.add(i)
            elif node.op_type == "Gather" and self._is_table(node.input[0]):
                chosen.add(i)
        return chosen | self._between(chosen)

    def _between(self, chosen: set[int]) -> set[int]:
        """Nodes between chosen ones: each connected run of activations and moves is taken as a
        whole or left."""
        run = {
            i: i
            for i, node in enumerate(self.nodes)
            if i not in chosen and self._may_stand_between(node)
        }

        def first(i: int) -> int:  # of its run (union-find)
            while run[i] != i:
                run[i] = run[run[i]]
                i = run[i]
            return i

        for i in run:
            for x in self.nodes[i].input:
                if self.maker.get(x) in run:
                    run[first(i)] = first(self.maker[x])
        half = chosen | run.keys()  # if it is, which the ends of the runs decide
        left = set()
        for i in run:
            node = self.nodes[i]
            enters = all(self._enters(node, x, half) for x in node.input if x in self.floats)
            leads = all(
                x not in self.read_elsewhere and half.issuperset(self.readers.get(x, ()))
                for x in node.output
                if x
            )
            if not (enters and leads):
                left.add(first(i))
        return {i for i in run if first(i) not in left}

    def _enters(self, node: onnx.NodeProto, x: str, half: set[int]) -> bool:
        """Whether a node between products may read `x` in half."""
        if x not in self.constants:
            return self.maker.get(x) in half
        # What is only moved is a weight, refused later if it is too large; a number in a formula
        # keeps the run in fp32.
        return node.op_type in MOVES or bool(
            np.all(np.abs(_values(self.constants[x])) <= self.half.largest)
        )

    def _may_stand_between(self, node: onnx.NodeProto) -> bool:
        if not self._can(node):
            return False
        if node.op_type in WITH_CONSTANT:
            return any(x in self.constants for x in node.input)
        return node.op_type in ACTIVATIONS or node.op_type in MOVES

    def _is_bias(self, node: onnx.NodeProto, chosen: set[int]) -> bool:
        """Add of a constant vector to a product with a weight, either way round.

        What is added to a product of two activations is a mask, and a scalar is part of a formula.
        """
        for product, bias in (node.input, reversed(node.input)):
            maker = self.maker.get(product)
            if maker in chosen and bias in self.constants and self.nodes[maker].op_type in PRODUCTS:
                dims = self.constants[bias].dims
                with_weight = any(x in self.constants for x in self.nodes[maker].input)
                return with_weight and len(dims) > 0 and all(d == 1 for d in dims[:-1])
        return False

    def _is_table(self, x: str) -> bool:
        gathers = (self.nodes[r].op_type == "Gather" for r in self.readers.get(x, ()))
        return x in self.constants and x not in self.read_elsewhere and all(gathers)

    def _can(self, node: onnx.NodeProto) -> bool:
        """A standard operator that makes float32 and takes the half type instead, at this opset."""
        return (
            node.op_type in TABLE
            and node.domain in ("", "ai.onnx")
            and node.output[0] in self.floats
            and _takes(node.op_type, self.opset, self.half.schema)
        )

    def _from_integers(self) -> set[str]:
        """Floats that were integers a Cast ago: masks, and positions, which rotary embeddings
        multiply with frequencies.

        Their products stay fp32: near 511 an angle has steps of 0.25 in fp16 and of 2 in bf16,
        which is noise.
        """
        found: set[str] = set()
        for node in self.nodes:
            from_integer = node.op_type == "Range" or (
                node.op_type == "Cast" and node.input[0] not in self.floats
            )
            if from_integer or (node.op_type in MOVES and found.intersection(node.input)):
                found.update(x for x in node.output if x in self.floats)
        return found


@cache
def _takes(operator: str, opset: int, schema_type: str) -> bool:
    """Whether an operator allows a type wherever it allows float32 (Conv takes bfloat16 from opset
    22 on only)."""
    import onnx

    try:
        constraints = onnx.defs.get_schema(operator, opset, "").type_constraints
    except onnx.defs.SchemaError:  # not in this opset
        return False
    return all(
        schema_type in c.allowed_type_strs
        for c in constraints
        if "tensor(float)" in c.allowed_type_strs
    )


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    """Names of all float32 tensors of the main graph."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(_without_weights(model)).graph
    values = [*inferred.input, *inferred.value_info, *inferred.output]
    found = {v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    return found | {
        i.name for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT
    }


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with inputs in place of its large initializers: types and shapes are inferred without
    copying them."""
    from onnx import helper

    bare = _shell(model, without=("graph",))
    bare.graph.CopyFrom(_shell(model.graph, without=("initializer",)))
    inputs = {v.name for v in model.graph.input}
    for tensor in model.graph.initializer:
        if (
            math.prod(tensor.dims) <= _SMALL
        ):  # the shapes that Reshape and Expand read are among these
            bare.graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            bare.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return bare


def _captured(nodes: Iterable[onnx.NodeProto], inside: bool = False) -> Iterator[str]:
    """Names read in subgraphs, those of outer tensors among them."""
    for node in nodes:
        if inside:
            yield from node.input
        for attribute in node.attribute:
            for graph in ([attribute.g] if attribute.HasField("g") else []) + list(
                attribute.graphs
            ):
                yield from (v.name for v in graph.output)
                yield from _captured(graph.node, inside=True)


def _half_names(
    graph: onnx.GraphProto, floats: set[str], stored_half: set[str], half: _Half
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


def _values(tensor: onnx.TensorProto) -> np.ndarray:
    from onnx import numpy_helper

    return numpy_helper.to_array(tensor)


def _rounded(tensor: onnx.TensorProto, half: _Half) -> np.ndarray:
    """Values of a float32 tensor as little-endian 16-bit patterns of the half type, rounded to
    nearest, ties to even.

    Raises:
        UnsupportedModelError: a value that is not finite, or not within the type.
    """
    values = np.ascontiguousarray(_values(tensor), dtype=np.float32)
    largest = float(np.max(np.abs(values), initial=0.0))
    if not largest <= half.largest:  # NaN too
        broken, other = not np.isfinite(largest), HALVES["bf16"]
        fits_other = not broken and half is not other and largest <= other.largest
        raise UnsupportedModelError(
            f"The weight {tensor.name} has a value that is not finite."
            if broken
            else f"The weight {tensor.name} has a value too large for {half.name}.",
            got=f"{largest:g}",
            allowed=f"up to {half.largest:g}",
            next_step="check the checkpoint"
            if broken
            else f"use --precision {'bf16' if fits_other else 'fp32'}",
        )
    if half.name == "fp16":
        return values.astype("<f2").view("<u2")
    bits = values.view(
        np.uint32
    )  # numpy has no bfloat16: the upper half of a float32, after rounding
    return ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16).astype("<u2")


def _cast(x: str, to: str, element: str) -> onnx.NodeProto:
    from onnx import TensorProto, helper

    return helper.make_node(
        "Cast", [x], [to], name=f"cast_{to}", to=TensorProto.DataType.Value(element)
    )


def _value_info(
    graph: onnx.GraphProto,
    names: dict[str, str],
    half: _Half,
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


def _shell(message, without: tuple[str, ...]):
    """A copy of a proto without some of its fields: the weights of a model are not copied to be
    thrown away."""
    shell = type(message)()
    for field, value in message.ListFields():
        if field.name in without:
            continue
        if hasattr(value, "MergeFrom"):  # a message or a list of something
            getattr(shell, field.name).MergeFrom(value)
        else:
            setattr(shell, field.name, value)
    return shell


def _check(model: onnx.ModelProto, precision: str) -> None:
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(
            _without_weights(model), check_type=True, strict_mode=True, data_prop=True
        )
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InternalCheckError(
            f"The ONNX file converted to {precision} does not pass the checker.",
            got=first_line(error),
            next_step="use --precision fp32, and report it with `rfx env`",
        ) from error
