"""Which nodes of a graph run in half: the table of operators, and who makes and reads a tensor."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from rfx.export.precision.base import Half
from rfx.export.precision.graphs import captured, float_tensors, tensor_values

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
# Mul: x * sigmoid(x), gate, scale.
ACTIVATIONS = frozenset({"Gelu", "Relu", "Erf", "Tanh", "Sigmoid", "Mul"})
# 1 + erf(x / sqrt(2)); of two activations: a residual, a norm, fp32.
WITH_CONSTANT = frozenset({"Add", "Sub", "Div"})
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


class View:
    """Who makes and who reads the float32 tensors of a graph."""

    def __init__(self, model: onnx.ModelProto, half: Half) -> None:
        graph = model.graph
        self.half, self.nodes = half, graph.node
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
        self.floats = float_tensors(model)
        # An initializer that is an input too may be given another value.
        inputs = {v.name for v in graph.input}
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
        self.read_elsewhere = {v.name for v in graph.output} | set(captured(graph.node))

    def nodes_in_half(self) -> set[int]:
        """Indices of the nodes that run in half, by the tables at the top."""
        chosen: set[int] = set()
        positions = self._from_integers()
        for i, node in enumerate(self.nodes):
            if not self._can(node):
                continue
            if (
                (node.op_type in PRODUCTS and not positions.intersection(node.input))
                or (node.op_type == "Add" and self._is_bias(node, chosen))
                or (node.op_type == "Gather" and self._is_table(node.input[0]))
            ):
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
            np.all(np.abs(tensor_values(self.constants[x])) <= self.half.largest)
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
