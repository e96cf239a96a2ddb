"""INT8 as ONNX Runtime's dynamic quantization writes it: what it computes, which products are in
integers, what stays as it was, what is refused."""

import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.blocks import ACTIVATIONS, LAYOUTS, BlockShape, stack, stack_inputs
from rfx.core import environment
from rfx.core.errors import EnvironmentMissingError, InternalCheckError, UnsupportedModelError
from rfx.core.plan import Plan
from rfx.core.workload import Workload
from rfx.export.onnx import export_onnx, plan_metadata
from rfx.export.precision.convert import convert_precision
from rfx.export.quantizers.onnxruntime import (
    ENDING,
    PRODUCT,
    OnnxRuntimeDynamic,
    integer_weights,
    reduced_range,
    scales,
)
from rfx.export.quantizers.products import weights_of_products
from rfx.models.families.find import find_sites
from rfx.models.shrink import shrink
from rfx.runtimes.find import runtime_class
from tests.families import batch, make, text_inputs

COUNTS = (0, 1, 8, 31, 32)  # of channels: none, below, at and beside the steps of the kernels
FAMILIES = ("bert", "distilbert", "esm")
NAMES = ("input_ids", "attention_mask")


def linear(weight: np.ndarray, bias: np.ndarray | None = None, *, gemm: bool = False):
    """x @ weight + bias as a file, [n, inputs] -> [n, outputs]; as a Gemm the weight is kept turned
    round, as PyTorch has it."""
    stored = np.ascontiguousarray(weight.T) if gemm else weight
    initializers = [numpy_helper.from_array(stored, "lin.weight")]
    if bias is not None:
        initializers.append(numpy_helper.from_array(bias, "lin.bias"))
    if gemm:
        names = ["x", "lin.weight"] + (["lin.bias"] if bias is not None else [])
        nodes = [helper.make_node("Gemm", names, ["y"], "product", transB=1)]
    elif bias is None:
        nodes = [helper.make_node("MatMul", ["x", "lin.weight"], ["y"], "product")]
    else:
        nodes = [
            helper.make_node("MatMul", ["x", "lin.weight"], ["h"], "product"),
            helper.make_node("Add", ["h", "lin.bias"], ["y"], "sum"),
        ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weight.shape[1]])],
        initializers,
    )
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10)


def run(model: onnx.ModelProto, feeds: dict) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


def replace(model: onnx.ModelProto, name: str, values: np.ndarray) -> None:
    weight = next(i for i in model.graph.initializer if i.name == name)
    weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))


def reference(x: np.ndarray, whole: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """One linear as the standard defines it: `DynamicQuantizeLinear` of the activations, a scale
    and a zero point a tensor, sums of u8 x s8 in int32, a scale a channel.

    Args:
        x: [n, inputs]; whole: the weights in s8, [inputs, outputs]; scale, bias: [outputs].
    """
    low, high = min(np.float32(0), x.min()), max(np.float32(0), x.max())
    step = np.float32((high - low) / np.float32(255))
    zero = np.uint8(np.clip(np.rint(-low / step), 0, 255))
    activations = np.clip(np.rint(x / step) + zero, 0, 255).astype(np.uint8)
    sums = (activations.astype(np.int32) - np.int32(zero)) @ whole.astype(np.int32)
    assert sums.dtype == np.int32
    return sums.astype(np.float32) * (step * scale) + bias


def shapes(n: int = 100) -> list[tuple[int, int, int]]:
    """Rows, inputs and outputs: each count of each, then random ones."""
    rng = np.random.default_rng(7)
    named = [(5, a, b) for a in COUNTS for b in COUNTS]
    return named + [tuple(int(v) for v in rng.integers(1, 97, 3)) for _ in range(n - len(named))]


@pytest.mark.parametrize("gemm", [False, True], ids=["MatMul", "Gemm"])
def test_a_linear_is_what_numpy_makes_of_the_standard(gemm):
    rng = np.random.default_rng(0)
    for rows, inputs, outputs in shapes():
        weight = rng.standard_normal((inputs, outputs)).astype(np.float32)
        weight *= 10.0 ** rng.uniform(-2, 2, outputs).astype(np.float32)  # channels of all sizes
        bias = rng.standard_normal(outputs).astype(np.float32)
        x = (rng.standard_normal((rows, inputs)) * 3 + rng.uniform(-2, 2)).astype(np.float32)
        plain = linear(weight, bias, gemm=gemm)
        made = convert_precision(plain, "int8")
        if not weight.size:  # an emptied product has no integers, and gives the bias alone
            assert list(made.graph.node) == list(plain.graph.node)
            np.testing.assert_array_equal(run(made, {"x": x})[0], np.tile(bias, (rows, 1)))
            continue
        assert OnnxRuntimeDynamic().compare(plain, made) == (1, [])
        (whole,) = (v for k, v in constants(made).items() if k.endswith(ENDING))
        assert whole.dtype == np.int8 and whole.shape == weight.shape
        scale = scales(made)["lin.weight"]
        assert scale.shape == (outputs,)
        largest = np.abs(weight).max(axis=0)  # a scale a channel, of its own largest weight
        np.testing.assert_allclose(scale, largest / (64 if reduced_range() else 127), rtol=1e-5)
        expected = reference(x, whole, scale, bias)
        (got,) = run(made, {"x": x})
        # By channel, since theirs are of all sizes.
        size = np.abs(expected).max(axis=0) + 1e-6
        assert (np.abs(got - expected) / size).max() < 1e-5, (rows, inputs, outputs)


def test_sums_of_the_largest_numbers_do_not_overflow():
    """Pairs of 255 x 127 do not fit into 16 bits, in which CPUs without VNNI add them up."""
    weight = np.full((64, 8), 1.0, np.float32)
    weight[:, ::2] = -1.0
    x = np.ones((3, 64), np.float32)
    (got,) = run(convert_precision(linear(weight), "int8"), {"x": x})
    np.testing.assert_allclose(got, x @ weight, rtol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_stack_with_emptied_sublayers_is_quantized(activation, layout):
    shape = BlockShape(32, 4, 8, 48, layout, activation)
    plain = stack(shape, [(4, 48), (0, 31), (1, 0), (0, 0)])
    made = convert_precision(plain, "int8")
    assert OnnxRuntimeDynamic().compare(plain, made) == (len(weights_of_products(plain)), [])
    feeds = stack_inputs(shape, 2, 7)
    (expected,), (got,) = run(plain, feeds), run(made, feeds)
    assert 0 < np.abs(got - expected).max() < 0.05 * np.abs(expected).max()


def test_a_stack_of_nothing_is_left_as_it_is():
    shape = BlockShape(32, 4, 8, 48)
    plain = stack(shape, [(0, 0), (0, 0)])
    made = convert_precision(plain, "int8")
    assert list(made.graph.node) == list(plain.graph.node)
    assert OnnxRuntimeDynamic().compare(plain, made) == (0, ["nothing in the file is in integers"])


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Of each family a pruned model with one emptied sublayer of each kind: its file in fp32, the
    same in int8, and what both are fed."""
    folder, found = tmp_path_factory.mktemp("int8"), {}
    for family in FAMILIES:
        model = make(family, **{"n_layers" if family == "distilbert" else "num_hidden_layers": 2})
        sites = find_sites(model)
        plan = Plan.of(
            sites,
            {s.name: range(s.units // 2) for s in sites} | {"layer.0.ffn": (), "layer.1.mha": ()},
        )
        file = export_onnx(
            shrink(model, sites, plan),
            folder / f"{family}.onnx",
            inputs=text_inputs(NAMES),
            output_names=("logits",),
            metadata=plan_metadata(plan),
        )
        plain = onnx.load(file)
        made = convert_precision(plain, "int8")
        onnx.save(made, folder / f"{family}-int8.onnx")
        found[family] = plain, made, folder / f"{family}-int8.onnx"
    return found


def feeds() -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in batch().items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_product_with_a_weight_is_in_integers_and_no_other(family, pairs):
    plain, made, _ = pairs[family]
    weights = weights_of_products(plain)
    products = [n for n in made.graph.node if n.op_type == PRODUCT]
    assert len(products) == len(weights) > 5
    assert weights_of_products(made) == {}  # none is left in fp32
    assert any(n.op_type == "Gemm" for n in plain.graph.node)  # the head's, which is one of them
    assert not any(n.op_type == "Gemm" for n in made.graph.node)
    assert integer_weights(made).keys() == weights.keys()
    kept = constants(plain)
    # The products of two activations, attention's, stay.
    between = [n for n in plain.graph.node if n.op_type == "MatMul" and n.input[1] not in kept]
    left = {n.name for n in made.graph.node if n.op_type == "MatMul"}
    assert left == {n.name for n in between} and left
    assert OnnxRuntimeDynamic().compare(plain, made) == (len(weights), [])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_has_the_same_ends_and_passes_the_checker(family, pairs):
    plain, made, file = pairs[family]
    onnx.checker.check_model(str(file), full_check=True)
    assert list(made.graph.input) == list(plain.graph.input)
    assert list(made.graph.output) == list(plain.graph.output)
    assert made.ir_version == plain.ir_version
    facts = {p.key: p.value for p in made.metadata_props}
    before = {p.key: p.value for p in plain.metadata_props}
    assert facts == before | {"rfx.precision": "int8"} and facts["rfx.plan"]
    names = [i.name for i in made.graph.initializer]
    assert len(set(names)) == len(names)
    integers = {i.name for i in made.graph.initializer if i.data_type == TensorProto.INT8}
    assert {n.input[1] for n in made.graph.node if n.op_type == PRODUCT} <= integers


@pytest.mark.parametrize("family", FAMILIES)
def test_it_runs_on_the_runtime_and_stays_near_to_fp32(family, pairs):
    plain, made, file = pairs[family]
    runtime = runtime_class("ort")()
    engine = runtime.build(file, Workload.of_text(batch=3, sequence=11, precision="int8"))
    try:
        got = engine.run(feeds())["logits"]
    finally:
        engine.close()
    (expected,) = run(plain, feeds())
    assert got.shape == expected.shape and got.dtype == np.float32
    np.testing.assert_array_equal(got, run(made, feeds())[0])
    assert 0 < np.abs(got - expected).max() < runtime.tolerance("int8") * np.abs(expected).max()


def copy(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made


def integer(model: onnx.ModelProto) -> tuple[str, np.ndarray]:
    """The first weight in integers."""
    name = next(n.input[1] for n in model.graph.node if n.op_type == PRODUCT)
    return name, constants(model)[name].copy()


def test_a_weight_that_lies_elsewhere_is_found(pairs):
    plain, made, _ = pairs["bert"]
    edited = copy(made)
    name, whole = integer(edited)
    whole.flat[3] += -2 if whole.flat[3] > 0 else 2
    replace(edited, name, whole)
    count, wrong = OnnxRuntimeDynamic().compare(plain, edited)
    own = name.removesuffix(ENDING)
    assert count == len(weights_of_products(plain))
    assert wrong == [f"{own} lies more than half a step from its fp32 values"]


def test_a_scale_that_was_changed_is_found(pairs):
    plain, made, _ = pairs["bert"]
    edited = copy(made)
    name = integer(edited)[0].removesuffix(ENDING)
    scale = constants(edited)[f"{name}_scale"].copy()
    scale[0] *= 1.5
    replace(edited, f"{name}_scale", scale)
    assert OnnxRuntimeDynamic().compare(plain, edited)[1] == [
        f"{name} lies more than half a step from its fp32 values"
    ]


def test_a_product_that_was_left_in_fp32_is_found(pairs):
    plain, made, _ = pairs["bert"]
    name = "bert.encoder.layer.1.intermediate.dense"
    partly = convert_precision(plain, "int8", keep_fp32=[name])
    count, wrong = OnnxRuntimeDynamic().compare(plain, partly)
    assert count == len(weights_of_products(plain)) - 1
    (said,) = wrong
    assert name in said and "is not in integers" in said
    assert "nothing in the file is in integers" in OnnxRuntimeDynamic().compare(plain, plain)[1]
    # And the other way round.
    (said,) = OnnxRuntimeDynamic(keep_fp32=[name]).compare(plain, made)[1]
    assert name in said and "is in integers" in said


def test_a_weight_of_another_shape_is_found(pairs):
    plain, made, _ = pairs["bert"]
    edited = copy(made)
    name, whole = integer(edited)
    replace(edited, name, whole[:-1])
    own = name.removesuffix(ENDING)
    (rows, columns) = whole.shape
    assert OnnxRuntimeDynamic().compare(plain, edited)[1] == [
        f"{own} has the shape {(rows - 1, columns)} in place of {(rows, columns)}"
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("gemm", [False, True], ids=["MatMul", "Gemm"])
def test_a_weight_that_is_not_finite_is_named(value, gemm):
    weight = np.ones((8, 8), np.float32)
    weight[2, 5] = value
    with pytest.raises(UnsupportedModelError, match="lin.weight has a value") as refused:
        convert_precision(linear(weight, gemm=gemm), "int8")
    assert refused.value.exit_code == 5 and refused.value.next_step


@pytest.mark.parametrize(
    ("machine", "flags", "reduced"),
    [
        ("x86_64", "", True),  # it does not say: nothing better is taken for granted
        ("x86_64", "avx2", True),
        ("x86_64", "avx2 avx512f", True),
        ("x86_64", "avx2 avx512f avx512_bf16", True),
        ("x86_64", "avx2 avx_vnni", False),
        ("x86_64", "avx2 avx512f avx512_vnni", False),
        ("x86_64", "avx2 avx512f amx_int8", False),
        ("aarch64", "asimddp", False),
        ("aarch64", "asimddp i8mm", False),
        ("aarch64", "", False),  # it adds up in 32 bits all the same
    ],
)
def test_weights_keep_to_seven_bits_where_the_cpu_adds_up_in_sixteen(
    machine, flags, reduced, monkeypatch
):
    monkeypatch.setattr(environment, "_cpu", lambda: ("a CPU", frozenset(flags.split())))
    monkeypatch.setattr(environment.platform, "machine", lambda: machine)
    assert reduced_range() is reduced
    assert f"{7 if reduced else 8} bits" in OnnxRuntimeDynamic().method()
    weight = np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32)
    plain = linear(weight)
    made = convert_precision(plain, "int8")
    assert np.abs(integer(made)[1].astype(int)).max() == (64 if reduced else 127)
    assert OnnxRuntimeDynamic().compare(plain, made) == (1, [])


def test_a_weight_of_two_products_is_quantized_for_both():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((8, 8)).astype(np.float32)
    for gemm in (False, True):
        plain = linear(weight, gemm=gemm)
        second = copy(plain).graph.node[0]
        plain.graph.node[0].output[0] = second.input[0] = "between"
        second.name = "again"
        plain.graph.node.append(second)
        made = convert_precision(plain, "int8")
        assert OnnxRuntimeDynamic().compare(plain, made)[1] == []
        assert sum(n.op_type == PRODUCT for n in made.graph.node) == 2
        x = rng.standard_normal((3, 8)).astype(np.float32)
        np.testing.assert_allclose(
            run(made, {"x": x})[0], x @ weight @ weight, atol=0.05 * np.abs(weight).max() * 8
        )


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    with pytest.raises(EnvironmentMissingError, match="not installed") as refused:
        convert_precision(linear(np.ones((8, 8), np.float32)), "int8")
    assert refused.value.exit_code == 4 and "rfx-exporter[cpu]" in refused.value.next_step


def test_a_failure_of_the_library_is_no_traceback(monkeypatch):
    import onnxruntime.quantization as library

    def fails(*_, **__):
        raise RuntimeError("no shape was inferred")

    monkeypatch.setattr(library, "quantize_dynamic", fails)
    with pytest.raises(InternalCheckError, match="could not quantize") as refused:
        convert_precision(linear(np.ones((8, 8), np.float32)), "int8")
    assert "no shape was inferred" in str(refused.value) and refused.value.exit_code == 6

    def interrupted(*_, **__):
        raise RuntimeError("stopped") from KeyboardInterrupt()

    monkeypatch.setattr(library, "quantize_dynamic", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert_precision(linear(np.ones((8, 8), np.float32)), "int8")


def test_the_library_says_nothing_to_our_users(caplog, capfd):
    convert_precision(linear(np.ones((8, 8), np.float32)), "int8")
    assert caplog.records == [] and capfd.readouterr() == ("", "")
