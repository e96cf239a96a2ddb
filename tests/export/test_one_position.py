"""A last layer of which the head reads one position is computed at that position alone."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from rfx.core.plan import Kind, Plan
from rfx.export.one_position import choose_early, modules_at_one_position
from rfx.export.onnx import export_onnx
from rfx.models.families.find import find_sites
from rfx.models.shrink import shrink
from tests.families import HEADS, make, text_inputs, with_slow

NAMES = ("input_ids", "attention_mask")
FAMILIES = with_slow(
    ["bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "ernie", "esm"],
    named=("bert", "distilbert", "esm"),
)


def both(model, folder, outputs=("logits",), **more):
    """The file, and the same without moving anything."""
    made = export_onnx(
        model, folder / "m.onnx", inputs=text_inputs(NAMES), output_names=outputs, **more
    )
    whole = export_onnx(
        model,
        folder / "whole.onnx",
        inputs=text_inputs(NAMES),
        output_names=outputs,
        one_position=False,
        **more,
    )
    return made, whole


def given(batch, tokens):
    ids = np.random.default_rng(batch).integers(2, 100, (batch, tokens))
    mask = np.ones_like(ids)
    mask[-1, tokens // 2 + 1 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def session(file):
    return ort.InferenceSession(file, providers=["CPUExecutionProvider"])


def shapes_when_run(file, tensors, feeds):
    """Shapes of some tensors of a graph as they are computed."""
    proto = onnx.load(file)
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in tensors)
    run = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(tensors, (a.shape for a in run.run(list(tensors), feeds)), strict=True))


def products(file):
    """The tensor that each product with a weight gives, by the module."""
    return {
        n.input[1].removesuffix(".T").removesuffix(".weight"): n.output[0]
        for n in onnx.load(file).graph.node
        if n.op_type == "MatMul" and n.input[1].endswith(".weight.T")
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_is_computed_at_the_first_token_and_the_function_stays(family, tmp_path):
    model = make(family)
    file, whole = both(model, tmp_path)
    last = [s for s in find_sites(model) if s.layer == 2]
    expected = {s.output for s in last}
    expected |= {m for s in last if s.kind is Kind.FFN for m in s.inputs}
    queries = {m for s in last if s.kind is Kind.MHA for m in s.inputs[:1]}
    assert modules_at_one_position([file]) == expected | queries
    assert modules_at_one_position([whole]) == frozenset()
    a, b = session(file), session(whole)
    for batch, tokens in ((1, 1), (1, 9), (3, 2), (4, 17)):
        feeds = given(batch, tokens)
        np.testing.assert_allclose(a.run(None, feeds)[0], b.run(None, feeds)[0], atol=2e-6)
    made = products(file)
    seen = shapes_when_run(file, made.values(), given(3, 7))
    for module, tensor in made.items():
        assert seen[tensor][1] == (1 if module in expected | queries else 7), module


@pytest.mark.parametrize("task", ["token-classification", "question-answering"])
def test_what_is_read_at_every_position_is_left_as_it_is(task, tmp_path):
    model = make("bert", task, num_hidden_layers=1)
    file, whole = both(model, tmp_path, HEADS[task][1])
    assert modules_at_one_position([file]) == frozenset()
    assert file.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_other_precisions_read_the_same_position(precision, tmp_path):
    model = make("bert", num_hidden_layers=2)
    file, whole = both(model, tmp_path, precision=precision)
    assert len(modules_at_one_position([file])) == 4
    feeds = given(2, 9)
    first, second = (session(f).run(None, feeds)[0] for f in (file, whole))
    # The scales of dynamic quantization are of what is there: of one position other than of all.
    scale = np.abs(second).max()
    np.testing.assert_allclose(first, second, atol=(0.1 if precision == "int8" else 2e-3) * scale)


@pytest.mark.parametrize("emptied", ["layer.2.mha", "layer.2.ffn", "both", "all"])
def test_an_emptied_last_layer_computes_the_same(emptied, tmp_path):
    model = make("bert")
    sites = find_sites(model)
    gone = {"both": {"layer.2.mha", "layer.2.ffn"}, "all": {s.name for s in sites}}
    names = gone.get(emptied, {emptied})
    kept = {s.name: () if s.name in names else range(1, s.units) for s in sites}
    small = shrink(model, sites, Plan.of(sites, kept))
    file, whole = both(small, tmp_path)
    for batch, tokens in ((1, 1), (3, 8)):
        feeds = given(batch, tokens)
        first, second = (session(f).run(None, feeds)[0] for f in (file, whole))
        np.testing.assert_allclose(first, second, atol=2e-6)
    at_one = modules_at_one_position([file])
    for site in sites[-2:]:
        assert (site.output in at_one) == (site.name not in names)


def small_graph(*, read_too=None, index=0, axis=1, mixed=False):
    """x [batch, positions, 4] times a weight, a norm, and the choice of one position."""
    f32 = onnx.TensorProto.FLOAT
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "block.weight.T")
    scale = numpy_helper.from_array(np.ones(4, np.float32), "norm")
    where = numpy_helper.from_array(np.asarray(index, np.int64), "where")
    nodes = [
        helper.make_node("MatMul", ["x", "block.weight.T"], ["product"]),
        *(
            [helper.make_node("ReduceMean", ["product"], ["mixed"], axes=[1])]
            if mixed
            else [helper.make_node("Gelu", ["product"], ["mixed"])]
        ),
        helper.make_node("Sum", ["product", "mixed"], ["sum"]),
        helper.make_node("LayerNormalization", ["sum", "norm"], ["normed"], axis=-1),
        helper.make_node("Gather", ["normed", "where"], ["y"], axis=axis),
    ]
    dims, values = ["batch", "positions", 4], ("product", "sum", "normed")
    infos = [helper.make_tensor_value_info(n, f32, dims) for n in values]
    infos.append(helper.make_tensor_value_info("mixed", f32, ["batch", 1, 4] if mixed else dims))
    outputs = [helper.make_tensor_value_info("y", f32, ["batch", "out"])]
    if read_too:
        outputs.append(next(v for v in infos if v.name == read_too))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", f32, dims)],
        outputs,
        [weight, scale, where],
        value_info=[v for v in infos if v.name != read_too],
    )
    opset = 17 if mixed else 20
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def outputs_of(model, x):
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"x": x}
    )


@pytest.mark.parametrize("index", [0, -1])
def test_the_first_and_the_last_position_can_be_read_early(index):
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    model = small_graph(index=index)
    before = outputs_of(model, x)
    assert choose_early(model) == ("block",)
    onnx.checker.check_model(model)
    assert [n.op_type for n in model.graph.node][:2] == ["Gather", "MatMul"]
    np.testing.assert_array_equal(outputs_of(model, x), before)


@pytest.mark.parametrize(
    "kinds",
    [
        {"index": 2},  # of one position there is no third
        {"axis": 2},
        {"read_too": "normed"},
        {"read_too": "product"},
    ],
)
def test_what_is_needed_elsewhere_is_computed_as_before(kinds):
    model = small_graph(**kinds)
    before = model.SerializeToString()
    assert choose_early(model) == ()
    assert model.SerializeToString() == before


def test_a_mean_over_positions_needs_them_all():
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    model = small_graph(mixed=True)
    before = outputs_of(model, x)
    assert choose_early(model) == ()
    np.testing.assert_array_equal(outputs_of(model, x), before)
