"""The sum before a normalisation is a `Sum`: ONNX Runtime fuses an `Add` into a slow kernel."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from benchmarks.blocks import BlockShape, stack, stack_inputs
from rfx.export.onnx import export_onnx
from rfx.export.sums import write_sums
from tests.families import make, text_inputs, with_slow

NAMES = ("input_ids", "attention_mask")
GIVEN = {
    "input_ids": np.arange(2, 16).reshape(2, 7),
    "attention_mask": np.array([[1] * 7, [1] * 5 + [0] * 2]),
}
# What stands before a LayerNormalization: the embeddings' sum and two a layer; of a pre-LN model
# the same, for its last normalisation follows the last layer.
FAMILIES = with_slow(["bert", "roberta", "electra", "distilbert", "esm"], named=("bert", "esm"))


def served(file, tmp_path):
    """Operators as a default session of ONNX Runtime runs them, and its outputs."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return operators(onnx.load(tmp_path / "optimized.onnx")), session.run(None, GIVEN)[0]


def operators(proto):
    return Counter(n.op_type for n in proto.graph.node)


def as_adds(file, tmp_path):
    """The same graph as PyTorch's exporter writes it."""
    proto = onnx.load(file)
    for node in proto.graph.node:
        if node.op_type == "Sum":
            node.op_type = "Add"
    onnx.save(proto, tmp_path / "adds.onnx")
    return tmp_path / "adds.onnx"


@pytest.mark.parametrize("family", FAMILIES)
def test_no_default_session_fuses_the_sum_and_the_function_stays(family, tmp_path):
    model = make(family, num_hidden_layers=2) if family != "distilbert" else make(family)
    file = export_onnx(
        model, tmp_path / "m.onnx", inputs=text_inputs(NAMES), output_names=("logits",)
    )
    added = as_adds(file, tmp_path)
    fused, before = served(added, tmp_path)
    plain, after = served(file, tmp_path)
    assert fused["SkipLayerNormalization"] > 0 == plain["SkipLayerNormalization"]
    assert plain["LayerNormalization"] == operators(onnx.load(file))["LayerNormalization"]
    np.testing.assert_allclose(after, before, atol=1e-6 * max(1, np.abs(before).max()))


def test_a_sum_for_each_normalisation_that_follows_a_residual(tmp_path):
    file = export_onnx(
        make("bert"), tmp_path / "m.onnx", inputs=text_inputs(NAMES), output_names=("logits",)
    )
    found = operators(onnx.load(file))
    assert found["Sum"] == found["LayerNormalization"] == 1 + 2 * 3


@pytest.mark.parametrize("layout", ["post-ln", "pre-ln"])
def test_stacks_are_written_alike(layout):
    shape = BlockShape(16, 2, 8, 24, layout=layout)
    made = stack(shape, [(2, 24), (1, 8), (0, 0)])
    read = {n.input[0] for n in made.graph.node if n.op_type == "LayerNormalization"}
    before = {n.output[0]: n.op_type for n in made.graph.node}
    assert {before[x] for x in read if x in before} == {"Sum"}
    given = stack_inputs(shape, 2, 5)
    as_sum = ReferenceEvaluator(made).run(None, given)[0]
    for node in made.graph.node:
        node.op_type = "Add" if node.op_type == "Sum" else node.op_type
    np.testing.assert_array_equal(ReferenceEvaluator(made).run(None, given)[0], as_sum)


def test_other_sums_and_other_domains_are_left_alone():
    helper, f32 = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Add", ["x", "x"], ["scores"]),
        helper.make_node("Add", ["x", "scores"], ["own"], domain="mine"),
        helper.make_node("LayerNormalization", ["own", "w", "scores"], ["y"], axis=-1),
    ]
    values = [helper.make_tensor_value_info(n, f32, [2, 4]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    model = helper.make_model(graph)
    assert write_sums(model) == 0
    assert [n.op_type for n in model.graph.node[:2]] == ["Add", "Add"]
