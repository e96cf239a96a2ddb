"""Files in fp16 and bf16: which type stands where, what they compute, what is refused, who else
builds them."""

import inspect
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from benchmarks.blocks import ACTIVATIONS, LAYOUTS, BlockShape, stack, stack_inputs
from rfx.core.errors import InternalCheckError, UnsupportedModelError, UsageError
from rfx.core.plan import Plan
from rfx.export.onnx import export_onnx, plan_metadata, shape_mismatches
from rfx.export.precision.convert import convert_precision
from rfx.models.families.find import find_sites
from rfx.models.shrink import shrink
from tests.families import FAMILIES, HEADS, batch, make, text_inputs, with_slow

FLOAT, HALF = TensorProto.FLOAT, {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
# Of logits between 0.4 and 3.5, random weights, 1-3 layers. Measured: 3.3e-3 and 1.7e-2 where every
# step is rounded
# (the reference evaluator), 1.6e-3 (fp16) under ONNX Runtime and 1.9e-2 (bf16) under OpenVINO.
TOLERANCE = {"fp16": 6e-3, "bf16": 4e-2}
CASES = [(family, "text-classification", pruned) for family in FAMILIES for pruned in (False, True)]
CASES += [("bert", "question-answering", True), ("distilbert", "token-classification", True)]
CASES = with_slow(CASES, lambda case: case[0])


@cache
def exported(family: str, task: str, pruned: bool, folder: Path):
    """(file, sites, plan, feeds) of a miniature model; the pruned ones have half of everything, one
    emptied sublayer of each kind, and three layers."""
    model = make(
        family,
        task,
        **{"n_layers" if family == "distilbert" else "num_hidden_layers": 3 if pruned else 1},
    )
    sites = find_sites(model)
    plan = Plan.dense(sites)
    if pruned:
        plan = Plan.of(
            sites,
            {s.name: range(s.units // 2) for s in sites} | {"layer.1.ffn": (), "layer.2.mha": ()},
        )
        model = shrink(model, sites, plan)
    feeds = {k: v.numpy() for k, v in batch().items()}
    # With segments given: onnx.reference cannot run the GatherElements that picks them otherwise.
    if "token_type_ids" in inspect.signature(model.forward).parameters:
        feeds["token_type_ids"] = np.zeros_like(feeds["input_ids"])
    file = folder / f"{family}-{task}-{pruned}.onnx"
    export_onnx(
        model,
        file,
        inputs=text_inputs(list(feeds)),
        output_names=HEADS[task][1],
        metadata=plan_metadata(plan),
    )
    return file, sites, plan, feeds


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("precision")


def run(model: onnx.ModelProto, feeds: dict) -> list[np.ndarray]:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, feeds
    )


def evaluate(model: onnx.ModelProto, feeds: dict) -> list[np.ndarray]:
    """In NumPy, every step rounded to its type: ONNX Runtime's CPU provider has no bfloat16
    products."""
    return ReferenceEvaluator(model).run(None, feeds)


def difference(got: list[np.ndarray], expected: list[np.ndarray]) -> float:
    assert all(g.dtype == np.float32 and g.shape == e.shape for g, e in zip(got, expected))
    return max(float(np.abs(g - e).max()) for g, e in zip(got, expected))


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(
        model, check_type=True, strict_mode=True, data_prop=True
    ).graph
    found = {
        v.name: v.type.tensor_type.elem_type
        for v in (*graph.value_info, *graph.input, *graph.output)
    }
    return found | {i.name: i.data_type for i in graph.initializer}


def assert_types(model: onnx.ModelProto, precision: str) -> None:
    """Norms, softmax and what leads to it, residuals and Pow in fp32; products, biases and
    activations in half."""
    types, half = element_types(model), HALF[precision]
    makers = {x: node for node in model.graph.node for x in node.output}
    weights = {i.name for i in model.graph.initializer}
    seen = set()
    for node in model.graph.node:
        kinds = {types[x] for x in (*node.input, *node.output) if types[x] in (FLOAT, half)}
        sources = [
            makers[x].op_type if x in makers else "weight" if x in weights else "input"
            for x in node.input
        ]
        if node.op_type in ("MatMul", "Gemm", "Gelu", "Relu", "Erf"):
            assert kinds == {half}, node
        elif node.op_type in ("LayerNormalization", "Pow", "Where"):
            assert kinds == {FLOAT}, node
        elif node.op_type == "Softmax":
            assert kinds == {FLOAT} and sources == ["Add"], node
            for x in makers[
                node.input[0]
            ].input:  # scores and mask: cast up right behind the product, if they were half
                assert types[x] == FLOAT
                product = makers.get(x)
                while product is not None and product.op_type in ("Mul", "Div"):
                    product = makers[product.input[0]]
                if product is not None and product.op_type == "Cast":
                    assert makers[product.input[0]].op_type == "MatMul"
        elif node.op_type == "Add" and kinds and "weight" not in sources:
            assert kinds == {FLOAT}, node
            seen.add("residual")
        elif node.op_type == "Add" and kinds and "MatMul" in sources:
            assert kinds == {half}, node
            seen.add("bias")
        seen.add(node.op_type)
    assert {"MatMul", "LayerNormalization", "Softmax", "residual", "bias"} <= seen


def assert_casts(model: onnx.ModelProto) -> None:
    """One Cast a tensor and type, none that changes nothing, none of what another Cast made."""
    types = element_types(model)
    casts = [
        (n.input[0], next(a.i for a in n.attribute if a.name == "to"))
        for n in model.graph.node
        if n.op_type == "Cast" and types[n.input[0]] in (FLOAT, *HALF.values())
    ]
    assert len(casts) == len(set(casts)) > 0
    assert all(types[x] != to for x, to in casts)
    made = {
        n.output[0]
        for n in model.graph.node
        if n.op_type == "Cast" and n.input[0] in {x for x, _ in casts}
    }
    assert not made & {x for x, _ in casts}


def assert_same_interface(model: onnx.ModelProto, original: onnx.ModelProto) -> None:
    assert list(model.graph.input) == list(original.graph.input)
    assert list(model.graph.output) == list(original.graph.output)
    shapes = [[(i.name, list(i.dims)) for i in m.graph.initializer] for m in (model, original)]
    assert shapes[0] == shapes[1] and model.ir_version == original.ir_version
    types = element_types(model)
    assert all(v.type.tensor_type.elem_type == types[v.name] for v in model.graph.value_info)
    named = {x for n in model.graph.node for x in (*n.input, *n.output)}
    assert {v.name for v in model.graph.value_info} <= named


@pytest.mark.parametrize("family, task, pruned", CASES)
def test_a_family_in_half(family, task, pruned, folder):
    file, sites, plan, feeds = exported(family, task, pruned, folder)
    original = onnx.load(file)
    expected = run(original, feeds)
    for precision in HALF:
        model = convert_precision(original, precision)
        assert_same_interface(model, original)
        assert_types(model, precision)
        assert_casts(model)
        onnx.save(model, file.with_suffix(f".{precision}.onnx"))
        assert shape_mismatches(file.with_suffix(f".{precision}.onnx"), sites, plan) == []
        assert 0 < difference(evaluate(model, feeds), expected) < TOLERANCE[precision]
        if precision == "fp16":
            assert 0 < difference(run(model, feeds), expected) < TOLERANCE[precision]


def test_a_norm_is_cast_down_once_for_q_k_and_v(folder):
    file, *_ = exported("bert", "token-classification", False, folder)
    model = convert_precision(onnx.load(file), "fp16")
    readers = {
        x: sorted(
            n.input[1].split(".")[-3]
            for n in model.graph.node
            if n.op_type == "MatMul" and x == n.input[0]
        )
        for x in ("layer_norm.fp16", "layer_norm_1.fp16")
    }
    assert readers == {"layer_norm.fp16": ["key", "query", "value"], "layer_norm_1.fp16": ["dense"]}
    into = [n for n in model.graph.node if n.output[0] == "layer_norm.fp16"]
    assert [(n.op_type, list(n.input)) for n in into] == [("Cast", ["layer_norm"])]


def test_embedding_tables_are_half_and_their_sums_are_not(folder):
    file, *_ = exported("bert", "text-classification", False, folder)
    model = convert_precision(onnx.load(file), "bf16")
    types = element_types(model)
    gathers = [
        n
        for n in model.graph.node
        if n.op_type == "Gather" and n.input[0].endswith("embeddings.weight")
    ]
    assert len(gathers) == 3
    added = []
    for gather in gathers:
        assert types[gather.input[0]] == types[gather.output[0]] == TensorProto.BFLOAT16
        readers = [n for n in model.graph.node if gather.output[0] in n.input]
        assert [n.op_type for n in readers] == ["Cast"] and types[readers[0].output[0]] == FLOAT
        added += [n.op_type for n in model.graph.node if readers[0].output[0] in n.input]
    assert sorted(added) == ["Add", "Add", "Sum"]  # the last of them is normalised


@pytest.mark.parametrize("precision", HALF)
def test_padding_stays_unseen(precision, folder):
    """The mask's minimum must not become an infinity, nor be rounded to something that lets padding
    through."""
    file, _, _, feeds = exported("roberta", "text-classification", True, folder)
    model = convert_precision(onnx.load(file), precision)
    lowest = [numpy_helper.to_array(i) for i in model.graph.initializer if i.data_type == FLOAT]
    assert min(float(v.min()) for v in lowest) == np.finfo(np.float32).min
    got = evaluate(model, feeds)[0]
    short = evaluate(model, {k: v[1:2, :7] for k, v in feeds.items()})[0]
    assert np.isfinite(got).all() and np.abs(got[1] - short[0]).max() < TOLERANCE[precision]
    assert np.abs(
        got[1]
        - evaluate(model, {**feeds, "attention_mask": np.ones_like(feeds["input_ids"])})[0][1]
    ).max() > (2 * TOLERANCE[precision])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_stack_of_blocks_in_half(activation, layout):
    shape = BlockShape(32, 4, 8, 48, layout, activation)
    original = stack(shape, [(4, 48), (0, 48), (2, 0)])
    feeds = stack_inputs(shape, 2, 7)
    expected = run(original, feeds)
    for precision, tolerance in (("fp16", 2e-4), ("bf16", 2e-3)):  # measured: 6e-5, 5.1e-4
        model = convert_precision(original, precision)
        assert_same_interface(model, original)
        assert_types(model, precision)
        assert_casts(model)
        assert 0 < difference(evaluate(model, feeds), expected) < tolerance
        if precision == "fp16":
            assert 0 < difference(run(model, feeds), expected) < tolerance
        types = element_types(model)
        tanh = {types[n.input[0]] for n in model.graph.node if n.op_type == "Tanh"}
        assert tanh == ({FLOAT} if activation == "gelu_new" else set())  # with its Pow, as a whole


def test_a_stack_of_nothing_has_nothing_to_convert():
    shape = BlockShape(32, 4, 8, 48)
    original = stack(shape, [(0, 0)])
    feeds = {"hidden": stack_inputs(shape, 2, 7)["hidden"]}
    model = convert_precision(original, "bf16")
    assert list(model.graph.node) == list(original.graph.node)
    assert difference(run(model, feeds), run(original, feeds)) == 0


def test_a_file_of_weights_is_half_as_large(folder):
    weights = stack(BlockShape(256, 4, 64, 1024), [(4, 1024)] * 2)
    model = make("bert", vocab_size=20000, num_hidden_layers=1)
    tables = export_onnx(
        model, folder / "tables.onnx", inputs=text_inputs(("input_ids",)), output_names=("logits",)
    )
    for original in (weights, onnx.load(tables)):
        for precision in HALF:
            ratio = convert_precision(original, precision).ByteSize() / original.ByteSize()
            assert 0.5 <= ratio < 0.51


def parsed(
    body: str,
    inputs: str = "float[B,3] x",
    weights: str = "float[3,3] w = {1,2,3,4,5,6,7,8,9}",
    opset: int = 20,
    outputs: str = "float[B,3] y",
) -> onnx.ModelProto:
    """A model from ONNX's text form, with some of its types."""
    text = (
        f'<ir_version: 10, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) '
        f"<{weights}> {{ {body} }}"
    )
    return onnx.parser.parse_model(text)


def weight(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(i for i in model.graph.initializer if i.name == name)


def test_weights_are_rounded_to_the_nearest_even():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 32, 200_000, dtype=np.uint32)
    ties = rng.integers(0, 1 << 16, 20_000, dtype=np.uint32) << 16 | 0x8000
    values = np.concatenate([bits, ties, np.asarray([0, 1 << 31, 1, 0x807FFFFF], np.uint32)]).view(
        np.float32
    )
    for precision, dtype in (("bf16", ml_dtypes.bfloat16), ("fp16", np.float16)):
        largest = float(ml_dtypes.finfo(dtype).max)
        fit = values[np.abs(values) <= largest].reshape(1, -1)
        model = parsed(
            "y = MatMul(x, w)",
            inputs="float[B,1] x",
            outputs=f"float[B,{fit.size}] y",
            weights="float[1] w = {1}",
        )
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(fit, "w"))
        stored = weight(convert_precision(model, precision), "w")
        assert fit.size > 80_000 and stored.data_type == HALF[precision]
        assert stored.raw_data == fit.astype(dtype).tobytes()


def with_value(model: onnx.ModelProto, name: str, value: float) -> onnx.ModelProto:
    array = numpy_helper.to_array(weight(model, name)).copy()
    array.flat[0] = value
    weight(model, name).CopyFrom(numpy_helper.from_array(array, name))
    return model


def test_a_weight_that_fp16_cannot_hold_is_refused():
    name = "layer.0.attention.query.weight.T"
    model = with_value(stack(BlockShape(32, 4, 8, 48), [(4, 48)]), name, -1e6)
    with pytest.raises(UnsupportedModelError, match="--precision bf16") as error:
        convert_precision(model, "fp16")
    assert name in str(error.value) and "1e+06" in str(error.value) and "65504" in str(error.value)
    stored = numpy_helper.to_array(weight(convert_precision(model, "bf16"), name)).astype(
        np.float32
    )
    assert stored.flat[0] == pytest.approx(-1e6, rel=2**-8)
    with pytest.raises(UnsupportedModelError, match="--precision fp32"):
        convert_precision(with_value(model, name, 3.4e38), "bf16")  # finite in fp32 alone
    for broken in (np.nan, np.inf):
        for precision in HALF:
            with pytest.raises(UnsupportedModelError, match="not finite"):
                convert_precision(with_value(model, name, broken), precision)


def test_large_numbers_outside_of_the_products_are_welcome():
    model = with_value(
        stack(BlockShape(32, 4, 8, 48), [(4, 48)]), "layer.0.ffn.LayerNorm.weight", 1e6
    )
    converted = convert_precision(model, "fp16")
    assert weight(converted, "layer.0.ffn.LayerNorm.weight") == weight(
        model, "layer.0.ffn.LayerNorm.weight"
    )
    # a formula between two products, of a number that fp16 does not have: fp32 as a whole, and
    # nothing is refused
    model = parsed(
        "a = MatMul(x, w) b = Mul(a, c) e = Sigmoid(b) y = MatMul(e, w)",
        weights="float[3,3] w = {1,2,3,4,5,6,7,8,9}, float c = {-100000}",
    )
    for precision, expected in (("fp16", FLOAT), ("bf16", TensorProto.BFLOAT16)):
        converted = convert_precision(model, precision)
        types = element_types(converted)
        assert {
            types[n.input[0]] for n in converted.graph.node if n.op_type in ("Mul", "Sigmoid")
        } == {expected}


def test_a_constant_mask_on_the_scores_is_no_bias():
    """ESM scales its queries: nothing but the mask stands between the scores and the softmax."""
    body = "k = Transpose<perm=[0,2,1]>(q) s = MatMul(q, k) a = Add(s, m) y = Softmax(a)"
    lowest = "float[1,1,2] m = {0, -340282346638528859811704183484516925440}"
    model = parsed(body, inputs="float[B,2,4] q", outputs="float[B,2,2] y", weights=lowest)
    converted = convert_precision(model, "fp16")
    assert weight(converted, "m") == weight(model, "m")
    feeds = {"q": np.random.default_rng(0).standard_normal((2, 2, 4)).astype(np.float32)}
    assert np.array_equal(run(converted, feeds)[0], np.broadcast_to(np.float32([1, 0]), (2, 2, 2)))


def test_softmax_and_its_scaling_stay_fp32_without_a_mask_too():
    body = (
        "k = Transpose<perm=[0,2,1]>(q) s = MatMul(q, k) a = Mul(s, c) p = Softmax(a) y = "
        "MatMul(p, q)"
    )
    model = parsed(
        body, inputs="float[B,2,4] q", outputs="float[B,2,4] y", weights="float c = {0.5}"
    )
    for precision, half in HALF.items():
        converted = convert_precision(model, precision)
        types = element_types(converted)
        inputs = {n.op_type: {types[x] for x in n.input} for n in converted.graph.node}
        assert (inputs["Mul"], inputs["Softmax"], inputs["MatMul"]) == ({FLOAT}, {FLOAT}, {half})
        assert [n.op_type for n in converted.graph.node].count(
            "Cast"
        ) == 5  # q, k and p down, s and y up


def test_what_is_read_in_both_types_is_stored_once_in_fp32():
    body = (
        "a = MatMul(x, w) b = Add(c, a) n = LayerNormalization(b, c) d = MatMul(n, w) y = Add(d, c)"
    )
    model = parsed(body, weights="float[3,3] w = {1,2,3,4,5,6,7,8,9}, float[3] c = {1,2,3}")
    converted = convert_precision(model, "fp16")
    assert (weight(converted, "w").data_type, weight(converted, "c").data_type) == (
        TensorProto.FLOAT16,
        FLOAT,
    )
    assert [list(n.input) for n in converted.graph.node if n.op_type == "Add"] == [
        ["c.fp16", "a.fp16"],
        ["d.fp16", "c.fp16"],
    ]
    assert len(converted.graph.initializer) == 2
    assert_casts(converted)
    with pytest.raises(UnsupportedModelError):  # its Cast would make infinity
        convert_precision(with_value(model, "c", 1e6), "fp16")


@pytest.mark.parametrize(
    "other, more",
    [("MatMul(n, w)", ""), ("Neg(n) u = Mul(w, y)", ""), ("Neg(n)", ", float[3,3] w")],
)
def test_a_table_that_more_than_gathers_read_is_stored_in_fp32(other, more):
    body = f"e = Gather(w, i) n = LayerNormalization(e, c) y = {other}"
    inputs, weights = "int64[B] i", "float[3,3] w = {1,2,3,4,5,6,7,8,9}, float[3] c = {1,2,3}"
    converted = convert_precision(
        parsed(body, inputs, weights, outputs=f"float[B,3] y{more}"), "bf16"
    )
    assert weight(converted, "w").data_type == FLOAT
    gather = next(n for n in converted.graph.node if n.op_type == "Gather")
    assert element_types(converted)[gather.output[0]] == FLOAT
    more = convert_precision(
        parsed("e = Gather(w, i) f = Gather(w, e_) y = Add(e, f)", "int64[B] i, int64[B] e_"),
        "bf16",
    )
    assert weight(more, "w").data_type == TensorProto.BFLOAT16


def test_a_weight_that_may_be_given_anew_keeps_its_type():
    model = parsed("y = MatMul(x, w)")
    # Its initializer is then a default.
    model.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [3, 3]))
    converted = convert_precision(model, "fp16")
    assert_same_interface(converted, model)
    feeds = {"x": np.eye(3, dtype=np.float32)}
    assert np.array_equal(run(converted, feeds)[0], numpy_helper.to_array(weight(model, "w")))
    assert np.array_equal(run(converted, {**feeds, "w": feeds["x"]})[0], feeds["x"])


def test_a_power_between_products_stays_fp32():
    model = parsed(
        "a = MatMul(x, w) b = Pow(a, c) y = MatMul(b, w)",
        weights="float[3,3] w = {1,2,3,4,5,6,7,8,9}, float c = {3}",
    )
    converted = convert_precision(model, "fp16")
    types = element_types(converted)
    assert {types[x] for n in converted.graph.node if n.op_type == "Pow" for x in n.input} == {
        FLOAT
    }


def test_products_of_positions_stay_fp32():
    """Angles of rotary embeddings: 511 in bf16 is off by up to a radian."""
    body = "f = Cast<to=1>(i) g = Unsqueeze(f, axes) h = MatMul(g, w) y = Cos(h)"
    model = parsed(body, "int64[B] i", "float[1,3] w = {1, 0.5, 0.25}, int64[1] axes = {1}")
    feeds = {"i": np.arange(511, dtype=np.int64)}
    for precision in HALF:
        converted = convert_precision(model, precision)
        assert difference(run(converted, feeds), run(model, feeds)) == 0


def test_what_a_type_is_not_defined_for_stays_fp32():
    """Conv takes bfloat16 from opset 22 on."""
    kernel = "float[1,1,2,2] k = {1,2,3,4}"
    for opset, precision, expected in (
        (20, "bf16", FLOAT),
        (22, "bf16", HALF["bf16"]),
        (20, "fp16", HALF["fp16"]),
    ):
        model = parsed("y = Conv(x, k)", "float[B,1,4,4] x", kernel, opset, "float[B,1,3,3] y")
        assert weight(convert_precision(model, precision), "k").data_type == expected


def test_branches_read_outer_tensors_in_fp32():
    branch = "g1 () => (float[B,3] t) { t = Neg(a) }", "g2 () => (float[B,3] u) { u = Abs(a) }"
    model = parsed(
        f"a = MatMul(x, w) y = If (c) <then_branch = {branch[0]}, else_branch = {branch[1]}>",
        inputs="float[B,3] x, bool c",
    )
    converted = convert_precision(model, "fp16")
    feeds = {"x": np.eye(3, dtype=np.float32), "c": np.asarray(True)}
    assert weight(converted, "w").data_type == TensorProto.FLOAT16
    assert np.array_equal(
        run(converted, feeds)[0], -np.arange(1, 10, dtype=np.float32).reshape(3, 3)
    )


def test_taken_names_are_not_taken_again():
    model = parsed("a = MatMul(x, w) b = Neg(a) c = Softmax(b) d = MatMul(c, w) y = Neg(d)")
    for node in model.graph.node:  # the text form has no names with a dot
        for names in (node.input, node.output):
            names[:] = [{"c": "x.fp16", "d": "a.fp16"}.get(x, x) for x in names]
    converted = convert_precision(model, "fp16")  # ends in a check that every name is made once
    assert_casts(converted)
    feeds = {"x": np.ones((1, 3), np.float32)}
    assert difference(run(converted, feeds), run(model, feeds)) < 1e-2


def test_a_conversion_is_repeatable_and_leaves_its_model_alone():
    model = stack(BlockShape(32, 4, 8, 48), [(4, 48)])
    helper.set_model_props(model, {"rfx.plan": "abc", "rfx.precision": "fp32"})
    before = model.SerializeToString(deterministic=True)
    assert convert_precision(model, "fp32") is model
    first, second = (convert_precision(model, "fp16") for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )
    assert model.SerializeToString(deterministic=True) == before
    assert {p.key: p.value for p in first.metadata_props} == {
        "rfx.plan": "abc",
        "rfx.precision": "fp16",
    }


def test_what_is_asked_wrongly_is_refused():
    model = stack(BlockShape(32, 4, 8, 48), [(4, 48)])
    with pytest.raises(UsageError, match="bf16, fp16, fp32, fp8, int8"):
        convert_precision(model, "int4")
    for first, second in (("fp16", "bf16"), ("fp16", "int8"), ("int8", "fp16"), ("int8", "int8")):
        with pytest.raises(UsageError, match="already"):
            convert_precision(convert_precision(model, first), second)


def test_a_result_that_fails_the_checker_is_not_handed_out():
    with pytest.raises(InternalCheckError, match="does not pass the checker"):
        convert_precision(parsed("y = MatMul(x, w)", outputs="float[B,7] y"), "fp16")


def test_boards_without_torch_convert_too():
    code = (
        "import sys\nfrom benchmarks.blocks import BlockShape, stack\nfrom "
        "rfx.export.precision.convert "
        "import convert_precision\n"
        "convert_precision(stack(BlockShape(32, 4, 8, 48), [(4, 48)]), 'bf16')\nassert 'torch' "
        "not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


BUILT = [("bert", True), ("esm", True), ("distilbert", False)]


@pytest.mark.parametrize("family, pruned", BUILT)
def test_openvino_runs_both(family, pruned, folder):
    openvino = pytest.importorskip("openvino")
    file, _, _, feeds = exported(family, "text-classification", pruned, folder)
    original = onnx.load(file)
    for precision in HALF:
        core = openvino.Core()
        model = core.read_model(convert_precision(original, precision).SerializeToString())
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        got = [np.asarray(v) for v in compiled(feeds).values()]
        assert 0 < difference(got, run(original, feeds)) < TOLERANCE[precision]


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("what", [*BUILT, "gelu_new", "relu"], ids=str)
def test_tensorrt_rtx_builds_a_strongly_typed_engine(what, precision, folder):
    trt = pytest.importorskip("tensorrt_rtx")
    if isinstance(what, tuple):
        file, *_ = exported(what[0], "text-classification", what[1], folder)
        original = onnx.load(file)
    else:
        original = stack(BlockShape(32, 4, 8, 48, "pre-ln", what), [(4, 48), (0, 24), (2, 0)])
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(convert_precision(original, precision).SerializeToString()), (
        parser.get_error(0).desc()
    )
    kind = {"fp16": trt.float16, "bf16": trt.bfloat16}[precision]
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    products = [x for x in layers if x.type == trt.LayerType.MATRIX_MULTIPLY]
    assert products and {x.get_output(0).dtype for x in products} == {kind}
    assert {x.get_output(0).dtype for x in layers if x.type == trt.LayerType.SOFTMAX} == {
        trt.float32
    }
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        batch_first = [
            [n if at == 0 else length for at in range(len(tensor.shape))]
            for n, length in ((1, 1), (2, 16), (4, 32))
        ]
        profile.set_shape(
            tensor.name,
            *([d if d >= 0 else x for d, x in zip(tensor.shape, s)] for s in batch_first),
        )
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
