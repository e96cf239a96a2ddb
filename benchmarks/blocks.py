"""Stacks of Transformer layers as ONNX, built straight with onnx.helper: encoders for the GPU
benchmark, which carries no model to the machine, and small graphs for tests.

The node pattern is the one that `torch.onnx.export(dynamo=True)` gives for Hugging Face encoders
under eager attention (a test holds the two against each other, before and after the runtime's
fusions), so a runtime fuses a stack as it fuses the model. Weights are random: latency does not
depend on them, but every layer has its own, since shared ones would be read from a warm cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.export.sums import write_sums

if TYPE_CHECKING:
    import onnx

OPSET = 20  # as the models are exported
LAYOUTS = ("post-ln", "pre-ln")
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
_POOL = 1 << 22  # random floats that the weights of a stack are cut from


@dataclass(frozen=True)
class BlockShape:
    """The shape of one Transformer layer.

    `layout` is where the LayerNorms stand ("post-ln" as in BERT, "pre-ln" as in ViT); `activation`
    is named as in Hugging Face configs.

    Raises:
        ValueError: a layout or activation of which there is no block.
    """

    hidden: int
    heads_total: int
    head_dim: int
    filters_total: int
    layout: str = "post-ln"
    activation: str = "gelu"

    def __post_init__(self) -> None:
        for what, got, allowed in (
            ("layout", self.layout, LAYOUTS),
            ("activation", self.activation, ACTIVATIONS),
        ):
            if got not in allowed:
                raise ValueError(f"{what} {got}: there are blocks of {', '.join(allowed)}")

    @property
    def name(self) -> str:
        """As it stands in a table's key, e.g. `post-ln/gelu`."""
        return f"{self.layout}/{self.activation}"


def stack(
    shape: BlockShape, layers: Sequence[tuple[int, int]], *, seed: int = 0
) -> onnx.ModelProto:
    """A stack of Transformer layers, layer i with `layers[i] = (heads, filters)`.

    Inputs: `hidden` float32 [batch, sequence, hidden] and `mask` float32 [batch, 1, sequence,
    sequence], added to the attention scores (0 where a token may look, a large negative number
    elsewhere). Output: `output`, shaped as `hidden`. Batch and sequence are dynamic. 0 heads or 0
    filters: the output projection's bias is all that is left of the sublayer; residual and
    LayerNorm stay.

    Raises:
        ValueError: no layers, or counts outside of the shape.
    """
    if not layers:
        raise ValueError("a stack has at least one layer")
    graph = _Graph(shape, seed)
    x = "hidden"
    for i, (heads, filters) in enumerate(layers):
        if not (0 <= heads <= shape.heads_total and 0 <= filters <= shape.filters_total):
            raise ValueError(f"layer {i}: {heads} heads, {filters} filters are not within {shape}")
        x = graph.sublayer(f"layer.{i}.attention", x, heads, graph.attention)
        x = graph.sublayer(f"layer.{i}.ffn", x, filters, graph.ffn)
    return graph.model(x)


def stack_inputs(
    shape: BlockShape, batch: int, sequence: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Inputs of a stack for timing: random hidden states and a mask without padding, so that every
    token counts."""
    rng = np.random.default_rng(seed)
    hidden = (batch, sequence, shape.hidden)
    return {
        "hidden": rng.standard_normal(hidden, dtype=np.float32),  # [B, T, d]
        "mask": np.zeros((batch, 1, sequence, sequence), dtype=np.float32),  # [B, 1, T, T]
    }


class _Graph:
    """Nodes and weights in the making. Weights are named as Hugging Face modules would be."""

    def __init__(self, shape: BlockShape, seed: int) -> None:
        self.shape = shape
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.widths: dict[
            str, int
        ] = {}  # [B, T, width] of tensors whose shape a runtime cannot infer
        self._rng = np.random.default_rng(seed)
        self._pool = self._rng.standard_normal(_POOL, dtype=np.float32) * np.float32(0.02)
        self._fresh = 0
        self._needs_shape = False

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        self._fresh += 1
        out = f"v{self._fresh}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], **attributes))
        return out

    def constant(self, name: str, value: np.ndarray) -> str:
        self.weights[name] = value
        return name

    def random(self, name: str, *dims: int) -> str:
        """Cut from the pool at a random place: millions of weights a layer without drawing each."""
        start = int(self._rng.integers(_POOL // 2))
        # np.resize copies all it is given.
        return self.constant(name, np.resize(self._pool[start : start + math.prod(dims)], dims))

    def linear(self, name: str, x: str, n_in: int, n_out: int) -> str:
        product = self.node("MatMul", x, self.random(f"{name}.weight.T", n_in, n_out))
        return self.node("Add", product, self.random(f"{name}.bias", n_out))

    def layer_norm(self, name: str, x: str) -> str:
        d = self.shape.hidden
        weight = self.constant(f"{name}.weight", np.ones(d, np.float32))
        return self.node(
            "LayerNormalization",
            x,
            weight,
            self.random(f"{name}.bias", d),
            axis=-1,
            epsilon=1e-12,
            stash_type=1,
        )

    def sublayer(self, name: str, x: str, units: int, body: Callable[[str, str, int], str]) -> str:
        """[B, T, d] -> [B, T, d]: the body between its residual and LayerNorm."""
        inner = (
            self.layer_norm(f"{name}.LayerNorm", x)
            if self.shape.layout == "pre-ln" and units
            else x
        )
        if units:
            out = self.node("Add", body(name, inner, units), x)
        else:
            out = self.node("Add", self.random(f"{name}.output.bias", 1, 1, self.shape.hidden), x)
        return out if self.shape.layout == "pre-ln" else self.layer_norm(f"{name}.LayerNorm", out)

    def attention(self, name: str, x: str, heads: int) -> str:
        self._needs_shape = True
        d, inner = self.shape.hidden, heads * self.shape.head_dim

        def split(part: str, perm: list[int]) -> str:
            y = self.linear(f"{name}.{part}", x, d, inner)
            y = self.node("Reshape", y, "split_shape", allowzero=1)  # [B, T, h, d_h]
            return self.node("Transpose", y, perm=perm)

        q = split("query", [0, 2, 1, 3])  # [B, h, T, d_h]
        k = split("key", [0, 2, 3, 1])  # [B, h, d_h, T]
        v = split("value", [0, 2, 1, 3])  # [B, h, T, d_h]
        scores = self.node("Mul", self.node("MatMul", q, k), "scale")  # [B, h, T, T]
        probabilities = self.node("Softmax", self.node("Add", scores, "mask"), axis=-1)
        # [B, T, h, d_h]
        context = self.node("Transpose", self.node("MatMul", probabilities, v), perm=[0, 2, 1, 3])
        context = self.node("Reshape", context, "merged_shape", allowzero=1)  # [B, T, h * d_h]
        self.widths[context] = inner
        return self.linear(f"{name}.output", context, inner, d)

    def ffn(self, name: str, x: str, filters: int) -> str:
        y = self.linear(f"{name}.intermediate", x, self.shape.hidden, filters)  # [B, T, N]
        return self.linear(f"{name}.output", self.activation(y), filters, self.shape.hidden)

    def activation(self, x: str) -> str:
        kind = self.shape.activation
        if kind == "relu":
            return self.node("Relu", x)
        if kind == "gelu":
            return self.node("Gelu", x, approximate="none")
        if kind == "gelu_pytorch_tanh":
            return self.node("Gelu", x, approximate="tanh")
        # gelu_new: transformers writes the formula out
        scalar = {
            n: self.constant(f"gelu.{n}", np.asarray(value, np.float32))
            for n, value in (
                ("half", 0.5),
                ("three", 3.0),
                ("cubic", 0.044715),
                ("one", 1.0),
                ("root", math.sqrt(2 / math.pi)),
            )
        }
        half = self.node("Mul", x, scalar["half"])
        cubic = self.node("Mul", self.node("Pow", x, scalar["three"]), scalar["cubic"])
        inner = self.node("Mul", self.node("Add", x, cubic), scalar["root"])
        return self.node("Mul", half, self.node("Add", self.node("Tanh", inner), scalar["one"]))

    def model(self, output: str) -> onnx.ModelProto:
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        dims = ["batch", "sequence"]
        inputs = [
            helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [*dims, self.shape.hidden])
        ]
        shape_nodes = []
        if self._needs_shape:
            inputs.append(
                helper.make_tensor_value_info(
                    "mask", TensorProto.FLOAT, ["batch", 1, "sequence", "sequence"]
                )
            )
            # As the exporter writes them: batch and sequence are read off the input once, for all
            # layers.
            self.constant("minus_one", np.asarray([-1], np.int64))
            self.constant("head_dim", np.asarray([self.shape.head_dim], np.int64))
            self.constant("scale", np.asarray(self.shape.head_dim**-0.5, np.float32))
            shape_nodes = [
                helper.make_node("Shape", ["hidden"], ["batch_size"], start=0, end=1),
                helper.make_node("Shape", ["hidden"], ["sequence_size"], start=1, end=2),
                helper.make_node(
                    "Concat",
                    ["batch_size", "sequence_size", "minus_one", "head_dim"],
                    ["split_shape"],
                    axis=0,
                ),
                helper.make_node(
                    "Concat", ["batch_size", "sequence_size", "minus_one"], ["merged_shape"], axis=0
                ),
            ]
        nodes = [*shape_nodes, *self.nodes]
        for node in nodes:
            node.output[0] = "output" if node.output[0] == output else node.output[0]
        graph = helper.make_graph(
            nodes,
            "stack",
            inputs,
            [
                helper.make_tensor_value_info(
                    "output", TensorProto.FLOAT, [*dims, self.shape.hidden]
                )
            ],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
            # Exported models state them; ONNX Runtime fuses Add + LayerNormalization only where it
            # knows both shapes.
            value_info=[
                helper.make_tensor_value_info(name, TensorProto.FLOAT, [*dims, width])
                for name, width in self.widths.items()
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = 10  # what every onnxruntime since 1.18 reads
        write_sums(model)
        assert isinstance(model, onnx.ModelProto)
        return model
