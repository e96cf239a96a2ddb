"""ONNX graphs: float tensors, what subgraphs read, copies without the weights, the checker."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from rfx.core.errors import InternalCheckError, first_line

if TYPE_CHECKING:
    import onnx
    from google.protobuf.message import Message

SMALL = 256  # numbers
_Proto = TypeVar("_Proto", bound="Message")


def tensor_values(tensor: onnx.TensorProto) -> np.ndarray:
    """The numbers of an initializer."""
    from onnx import numpy_helper

    return numpy_helper.to_array(tensor)


def float_tensors(model: onnx.ModelProto) -> set[str]:
    """Names of all float32 tensors of the main graph."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(without_weights(model)).graph
    values = [*inferred.input, *inferred.value_info, *inferred.output]
    found = {v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    return found | {
        i.name for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT
    }


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with inputs in place of its large initializers: types and shapes are inferred without
    copying them."""
    from onnx import helper

    bare = shell(model, without=("graph",))
    bare.graph.CopyFrom(shell(model.graph, without=("initializer",)))
    inputs = {v.name for v in model.graph.input}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= SMALL:
            # The shapes that Reshape and Expand read are among these.
            bare.graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            bare.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return bare


def captured(nodes: Iterable[onnx.NodeProto], inside: bool = False) -> Iterator[str]:
    """Names read in subgraphs, those of outer tensors among them."""
    for node in nodes:
        if inside:
            yield from node.input
        for attribute in node.attribute:
            for graph in ([attribute.g] if attribute.HasField("g") else []) + list(
                attribute.graphs
            ):
                yield from (v.name for v in graph.output)
                yield from captured(graph.node, inside=True)


def shell(message: _Proto, without: tuple[str, ...]) -> _Proto:
    """A copy of a proto without some of its fields: the weights of a model are not copied to be
    thrown away."""
    copy = type(message)()
    for field, value in message.ListFields():
        if field.name in without:
            continue
        if hasattr(value, "MergeFrom"):  # a message or a list of something
            getattr(copy, field.name).MergeFrom(value)
        else:
            setattr(copy, field.name, value)
    return copy


def check(model: onnx.ModelProto, precision: str) -> None:
    """Hold a converted file against ONNX's checker.

    Raises:
        InternalCheckError: it does not pass.
    """
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(
            without_weights(model), check_type=True, strict_mode=True, data_prop=True
        )
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InternalCheckError(
            f"The ONNX file converted to {precision} does not pass the checker.",
            got=first_line(error),
            next_step="use --precision fp32, and report it with `rfx env`",
        ) from error
