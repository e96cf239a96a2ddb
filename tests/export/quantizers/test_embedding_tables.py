"""Embedding tables in 8 bits: rows of integers, each with its scale."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from rfx.core.errors import UnsupportedModelError
from rfx.export.quantizers.onnxruntime import OnnxRuntimeDynamic
from rfx.export.quantizers.tables import (
    compared_tables,
    large_tables,
    quantize_tables,
    table_values,
)

ROWS, WIDTH = 4200, 64  # a little above the least size


def model(values, *, reader="Gather", axis=0, output=False):
    """ids -> the rows of a table, doubled; and another that is too small to matter."""
    nodes = [
        helper.make_node(reader, ["table", "ids"], ["rows"], "read", axis=axis),
        helper.make_node("Gather", ["small", "ids"], ["few"], "other"),
        helper.make_node("Add", ["rows", "few"], ["y"], "sum"),
    ]
    small = np.ones((ROWS, WIDTH // 64), np.float32)
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", WIDTH])
    graph = helper.make_graph(
        nodes,
        "g",
        [ids],
        [y],
        [numpy_helper.from_array(values, "table"), numpy_helper.from_array(small, "small")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    made.ir_version = 10
    return made


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    table = rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
    table *= 10.0 ** rng.integers(-3, 3, (ROWS, 1))  # rows of very different sizes
    table[7] = 0
    return table


def run(made, ids):
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"ids": ids})[0]


def test_a_row_moves_by_half_a_step_of_its_own_scale_at_most(values):
    plain = model(values)
    made = onnx.ModelProto()
    made.CopyFrom(plain)
    assert quantize_tables(made) == ["table"] and compared_tables(plain, made) == []
    onnx.checker.check_model(made, full_check=True)
    assert made.ByteSize() < 0.3 * plain.ByteSize()
    ids = np.arange(ROWS)
    half = np.abs(values).max(axis=1, keepdims=True) / 127 / 2
    moved = np.abs(run(made, ids) - run(plain, ids))
    assert (moved <= 1.001 * half + 1e-6).all() and moved.max() > 0
    np.testing.assert_array_equal(run(made, np.array([7])), run(plain, np.array([7])))
    np.testing.assert_allclose(table_values(made)["table"], values, atol=1.001 * half.max())
    assert [v.name for v in made.graph.output] == ["y"]


@pytest.mark.parametrize("kind", ["GatherElements", "a product", "small"])
def test_other_tables_stay(values, kind):
    plain = model(values[: ROWS // 2] if kind == "small" else values)
    if kind == "GatherElements":
        plain.graph.node[0].op_type = kind
    if kind == "a product":
        plain.graph.node.append(helper.make_node("MatMul", ["rows", "table"], ["more"], "tied"))
    before = plain.SerializeToString()
    assert large_tables(plain) == {} and quantize_tables(plain) == []
    assert plain.SerializeToString() == before


def test_an_edited_table_is_found(values):
    plain, made = model(values), model(values)
    quantize_tables(made)
    rows = next(i for i in made.graph.initializer if i.name == "table_rows")
    whole = numpy_helper.to_array(rows).copy()
    whole[3, 5] += 2
    rows.CopyFrom(numpy_helper.from_array(whole, "table_rows"))
    assert compared_tables(plain, made) == [
        "the table table lies more than half a step from its fp32 values"
    ]
    assert compared_tables(plain, plain) == ["the table table is not in integers"]


def test_a_table_that_is_not_finite_is_named(values):
    values[5, 5] = np.nan
    broken = model(values)
    weight = numpy_helper.from_array(np.ones((WIDTH, WIDTH), np.float32), "w")
    broken.graph.initializer.append(weight)
    broken.graph.node.append(helper.make_node("MatMul", ["y", "w"], ["z"], "product"))
    with pytest.raises(UnsupportedModelError, match="table has a value that is not finite"):
        OnnxRuntimeDynamic().convert(broken)
    with pytest.raises(ValueError, match="table"):
        quantize_tables(broken)
