"""Embedding tables in 8 bits: a row of integers and its scale are gathered in place of a row of
fp32.

In a small encoder the table of tokens is half of the file and more, and it takes no part in any
product. Each row has a scale of its own, so that a value moves by at most half a step of its row;
what is gathered becomes fp32 again at once. Standard operators do it, in every runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

LEAST_BYTES = 1 << 20  # smaller tables (positions, types of tokens) are not worth two operators
ROWS, SCALE = "_rows", "_row_scale"  # endings of what a table becomes
ROUNDING, TINY = 1.001, 1e-12  # of half a step: the arithmetic of a comparison itself
_STEPS = 127  # of a row's largest value: signed integers of 8 bits, symmetric


def quantize_tables(model: onnx.ModelProto) -> list[str]:
    """Replace the large embedding tables of a file by rows of integers with scales, in place.

    Returns:
        The names of the tables.

    Raises:
        ValueError: a value is not finite.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    tables = _tables(model)
    for name, table in tables.items():
        values = numpy_helper.to_array(table)  # [rows, width]
        if not np.isfinite(values).all():
            raise ValueError(f"{name} has a value that is not finite")
        scale = np.abs(values).max(axis=1, keepdims=True) / _STEPS  # [rows, 1]
        scale = np.where(scale > 0, scale, 1).astype(np.float32)
        rows = np.rint(values / scale).astype(np.int8)
        graph.initializer.remove(table)
        graph.initializer.append(numpy_helper.from_array(rows, name + ROWS))
        graph.initializer.append(numpy_helper.from_array(scale, name + SCALE))
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.op_type != "Gather" or node.input[0] not in tables:
            graph.node.append(node)
            continue
        name, indices, out = node.input[0], node.input[1], node.output[0]
        whole, cast, step = (f"{out}{end}" for end in (ROWS, "_values", SCALE))
        graph.node.extend(
            [
                helper.make_node("Gather", [name + ROWS, indices], [whole], f"node_{whole}"),
                helper.make_node("Cast", [whole], [cast], f"node_{cast}", to=TensorProto.FLOAT),
                helper.make_node("Gather", [name + SCALE, indices], [step], f"node_{step}"),
                helper.make_node("Mul", [cast, step], [out], node.name),
            ]
        )
    return list(tables)


def table_values(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The tables in integers of a file as the numbers that they stand for, under the names that
    they had in fp32. [rows, width] each."""
    from onnx import numpy_helper

    constants = {i.name: i for i in model.graph.initializer}
    found = {}
    for name, rows in constants.items():
        scale = constants.get(name.removesuffix(ROWS) + SCALE)
        if name.endswith(ROWS) and scale is not None:
            values = numpy_helper.to_array(rows).astype(np.float32) * numpy_helper.to_array(scale)
            found[name.removesuffix(ROWS)] = values
    return found


def large_tables(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The tables of an fp32 file that are quantized, by name. [rows, width] each."""
    from onnx import numpy_helper

    return {name: numpy_helper.to_array(table) for name, table in _tables(model).items()}


def compared_tables(plain: onnx.ModelProto, quantized: onnx.ModelProto) -> list[str]:
    """What in the tables of a quantized file is not that of the fp32 file, each in words."""
    from onnx import numpy_helper

    expected, found = large_tables(plain), table_values(quantized)
    constants = {i.name: i for i in quantized.graph.initializer}
    wrong = [f"the table {name} is not in integers" for name in sorted(expected.keys() - found)]
    for name in sorted(expected.keys() & found.keys()):
        half = numpy_helper.to_array(constants[name + SCALE]) / 2  # [rows, 1]
        alike = expected[name].shape == found[name].shape
        if not alike or (np.abs(expected[name] - found[name]) > half * ROUNDING + TINY).any():
            wrong.append(f"the table {name} lies more than half a step from its fp32 values")
    return wrong


def _tables(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The large fp32 tables that nothing reads but `Gather` of whole rows."""
    from onnx import TensorProto

    graph = model.graph
    given = {v.name for v in (*graph.input, *graph.output)}
    found = {}
    for tensor in graph.initializer:
        if (
            tensor.data_type == TensorProto.FLOAT
            and len(tensor.dims) == 2
            and 4 * tensor.dims[0] * tensor.dims[1] >= LEAST_BYTES
            and tensor.name not in given
        ):
            readers = [n for n in graph.node if tensor.name in n.input]
            if readers and all(_gathers_rows(n, tensor.name) for n in readers):
                found[tensor.name] = tensor
    return found


def _gathers_rows(node: onnx.NodeProto, name: str) -> bool:
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    return node.op_type == "Gather" and node.input[0] == name != node.input[1] and axis == 0
