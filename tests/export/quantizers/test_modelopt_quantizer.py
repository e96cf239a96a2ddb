"""INT8 and FP8 as modelopt writes them for TensorRT: which products are quantized, whose weights
they are, what stays in fp32, what is refused.

What needs modelopt runs where it can be imported: `pip install 'rfx-exporter[modelopt]'` in an
environment without the extra `cpu`.
"""

import importlib.util
import time

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.blocks import BlockShape, stack, stack_inputs
from rfx.core.errors import EnvironmentMissingError, UnsupportedModelError, UsageError
from rfx.core.workload import Workload
from rfx.cost.bundle import Bundle, strip
from rfx.export.onnx import export_onnx
from rfx.export.precision.convert import convert_precision, is_quantized
from rfx.export.quantizers import modelopt as quantizer
from rfx.export.quantizers.mixed import changed, made_by_modules, mixed
from rfx.export.quantizers.modelopt import FORMS, PACKAGES, Modelopt, chosen
from rfx.export.quantizers.products import module_of, weights_of_products
from rfx.export.quantizers.qdq import QdqFile, weak_scales
from rfx.runtimes.base import EngineOptions
from rfx.runtimes.find import runtime_class, stand_in
from tests.families import make, text_inputs

needs_modelopt = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in PACKAGES),
    reason="nvidia-modelopt is not installed (extra modelopt, without the extra cpu)",
)
NAMES = ("input_ids", "attention_mask")
SHAPE = BlockShape(64, 4, 16, 256)
TYPES = {"int8": TensorProto.INT8, "fp8": TensorProto.FLOAT8E4M3FN}
both = pytest.mark.parametrize("precision", sorted(TYPES))


def texts(n: int = 8) -> list[dict[str, np.ndarray]]:
    """Token ids of n texts, each of another length."""
    rng = np.random.default_rng(0)
    return [
        {
            "input_ids": rng.integers(2, 60, (1, tokens)),
            "attention_mask": np.ones((1, tokens), np.int64),
        }
        for tokens in range(4, 4 + n)
    ]


def by_hand(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """The quantization that is asked of modelopt, without it: one scale for what enters a product,
    one a column for its weight."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    products = {node.output[0]: (name, weight) for node, name, weight in chosen(model)}
    tensors = {i.name: i for i in result.graph.initializer}
    largest, kind = (127, TYPES["int8"]) if precision == "int8" else (36, TYPES["fp8"])
    nodes, made = [], set()

    def scale_of(name: str, scale: np.ndarray) -> list[str]:
        result.graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
        zeros = bytes(scale.size)
        zero = helper.make_tensor(f"{name}_zero_point", kind, scale.shape, zeros, raw=True)
        result.graph.initializer.append(zero)
        return [f"{name}_scale", f"{name}_zero_point"]

    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.output[0] in products:
            name, weight = products[node.output[0]]
            entering = node.input[0]
            if entering not in made:
                made.add(entering)
                extra = scale_of(entering, np.asarray(0.05, np.float32))
                nodes.append(
                    helper.make_node("QuantizeLinear", [entering, *extra], [f"{entering}_q"])
                )
                nodes.append(
                    helper.make_node(
                        "DequantizeLinear", [f"{entering}_q", *extra], [f"{entering}_d"]
                    )
                )
            scale = np.abs(weight).max(axis=0) / np.float32(largest)
            if precision == "int8":
                whole = np.rint(weight / scale).astype(np.int8)
                tensors[name].CopyFrom(numpy_helper.from_array(whole, name))
            else:
                rounded = helper.make_tensor(name, kind, weight.shape, (weight / scale).ravel())
                raw = bytes(rounded.int32_data) or rounded.raw_data
                tensors[name].CopyFrom(helper.make_tensor(name, kind, weight.shape, raw, raw=True))
            extra = scale_of(name, scale)
            nodes.append(
                helper.make_node("DequantizeLinear", [name, *extra], [f"{name}_d"], axis=1)
            )
            copy.input[:] = [f"{entering}_d", f"{name}_d"]
        nodes.append(copy)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    onnx.checker.check_model(result, full_check=True)
    return result


def exported(folder) -> onnx.ModelProto:
    file = folder / "plain.onnx"
    model = make("bert", hidden_size=64, intermediate_size=128)
    export_onnx(model, file, inputs=text_inputs(NAMES), output_names=("logits",))
    return onnx.load(file)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> onnx.ModelProto:
    """A BERT in fp32."""
    return exported(tmp_path_factory.mktemp("modelopt"))


def quantized(model: onnx.ModelProto, precision: str, feeds=None, **more) -> onnx.ModelProto:
    feeds = texts() if feeds is None else feeds
    return convert_precision(model, precision, quantizer="modelopt", calibration=feeds, **more)


def run(model: onnx.ModelProto, feed, folder) -> np.ndarray:
    """By what stands in for TensorRT where there is no GPU."""
    file = folder / "m.onnx"
    onnx.save(model, file)
    engine = stand_in("fp8").build(file, Workload.of_text(precision="fp32"))
    return next(iter(engine.run(feed).values()))


def edited(model: onnx.ModelProto, name: str, change) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensor = next(i for i in copy.graph.initializer if i.name == name)
    if tensor.data_type == TensorProto.FLOAT8E4M3FN:
        whole = bytearray(tensor.raw_data)
        whole[3] ^= 0x10  # another exponent: twice or half of the number
        tensor.raw_data = bytes(whole)
    else:
        values = numpy_helper.to_array(tensor).copy()
        tensor.CopyFrom(numpy_helper.from_array(change(values), name))
    return copy


def other(values):
    values.flat[3] += np.asarray(-3 if values.flat[3] > 0 else 3, values.dtype)
    return values


def test_precisions_and_capabilities():
    assert is_quantized("int8") and is_quantized("fp8") and not is_quantized("fp16")
    for name in ("trt", "trt-rtx"):
        able = runtime_class(name).capabilities
        assert able.quantizer == "modelopt" and {"int8", "fp8"} <= set(able.precisions)
        assert able.least_compute == {"fp8": (8, 9)}
    others = [
        n for n in ("ort", "cuda", "openvino") if "fp8" in runtime_class(n).capabilities.precisions
    ]
    assert others == []
    with pytest.raises(UsageError, match="does not write this precision"):
        Modelopt("fp16")


def test_products_at_tokens_are_chosen_and_those_of_one_row_or_of_few_columns_are_not(plain):
    names = {module_of(name) for _, name, _ in chosen(plain)}
    every = {module_of(name) for name in weights_of_products(plain)}
    assert len(names) >= 12 and all(".layer." in name for name in names)
    assert {"classifier", "bert.pooler.dense"} <= every - names
    small = stack(BlockShape(32, 2, 8, 64), [(1, 64), (2, 64)])
    assert len(list(chosen(small))) == 2 + 6  # a head of 8 columns is left in fp32
    assert len(list(chosen(stack(SHAPE, [(4, 256), (0, 256), (4, 0)])))) == 6 + 2 + 4


@both
def test_a_file_that_was_quantized_is_compared_with_what_it_was_made_of(plain, tmp_path, precision):
    made, own = by_hand(plain, precision), Modelopt(precision)
    products = [name for _, name, _ in chosen(plain)]
    assert own.compare(plain, made) == (len(products), [])
    forged = edited(made, products[0], other)
    assert own.compare(plain, forged)[1] == [
        f"{products[0]} lies more than half a step from its fp32 values"
    ]
    scaled = edited(made, f"{products[0]}_scale", lambda scale: scale * np.float32(2.5))
    assert own.compare(plain, scaled)[1] == own.compare(plain, forged)[1]
    count, wrong = own.compare(plain, plain)
    form = {"int8": "integers", "fp8": "fp8"}[precision]
    assert count == 0 and f"nothing in the file is in {form}" in wrong
    assert f"the product of {products[0]} is not in {form}" in wrong
    kept = Modelopt(precision, keep_fp32=[module_of(products[0])])
    assert kept.compare(plain, made)[1] == [f"{products[0]} is in {form}, and should be in fp32"]
    head = next(n for n in weights_of_products(plain) if module_of(n) == "classifier")
    (said,) = own.compare(plain, edited(made, head, other))[1]
    assert said == f"{head} should be in fp32, and is not that of the fp32 file"
    # The same weights in the other format are not what was announced.
    announced = Modelopt("fp8" if precision == "int8" else "int8")
    count, wrong = announced.compare(plain, made)
    assert count == len(products) == len(wrong)
    assert all(f"is not in {FORMS[announced.precision]}" in line for line in wrong)
    bias = next(i.name for i in plain.graph.initializer if i.name.endswith("dense.bias"))
    assert own.compare(plain, edited(made, bias, lambda b: b + 1))[1] == [
        f"{bias} is not that of the fp32 file"
    ]


def test_steps_of_fp8_are_those_of_the_format():
    """Every number of the format: the next larger one lies a step away."""
    patterns = np.arange(0x7F, dtype=np.uint8)  # zero to the largest
    raw = helper.make_tensor("w", TensorProto.FLOAT8E4M3FN, (127, 1), patterns.tobytes(), raw=True)
    one = numpy_helper.from_array(np.float32(1), "s")
    zero = helper.make_tensor("z", TensorProto.FLOAT8E4M3FN, (), b"\0", raw=True)
    node = helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"])
    output = helper.make_tensor_value_info("d", TensorProto.FLOAT, (127, 1))
    graph = helper.make_graph([node], "g", [], [output], [raw, one, zero])
    found = QdqFile(helper.make_model(graph)).stored("d")
    assert found is not None and found.values.max() == 448
    assert np.array_equal(np.diff(found.values[:, 0]), 2 * found.half[:-1, 0])


def test_scales_that_are_not_positive_are_found(plain):
    made = by_hand(plain, "int8")
    name = next(i.name for i in made.graph.initializer if i.name.endswith("weight.T_scale"))
    assert weak_scales(made) == []
    for wrong in (0.0, -1.0, np.inf, np.nan):
        broken = edited(made, name, lambda scale, wrong=wrong: np.full_like(scale, wrong))
        assert weak_scales(broken) == [name]


@both
def test_what_stands_in_for_a_gpu_computes_the_file_as_it_says(plain, tmp_path, precision):
    """ONNX Runtime's own optimisations make an invalid graph of FP8, or round as the CPU does."""
    made = by_hand(plain, precision)
    for feed in texts(3):
        apart = np.abs(run(made, feed, tmp_path) - run(plain, feed, tmp_path)).max()
        assert 0 < apart < 0.5  # the logits of a model that was never trained
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        made.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = texts(1)[0]
    assert np.abs(session.run(None, feed)[0] - run(made, feed, tmp_path)).max() < 1e-4


@both
def test_shapes_for_a_board_have_scales_that_a_runtime_takes(tmp_path, precision):
    model = by_hand(stack(SHAPE, [(4, 256), (2, 96)]), precision)
    light, sizes = strip(model)
    name = {"int8": "weights.s8.bin", "fp8": "weights.f8.bin"}[precision]
    whole = sum(int(np.prod(w.shape)) for _, _, w in chosen(stack(SHAPE, [(4, 256), (2, 96)])))
    assert whole <= sizes[name] < whole + 4096 * 12
    assert weak_scales(onnx.load_from_string(light)) == [] and len(light) < model.ByteSize() / 3
    bundle = Bundle.__new__(Bundle)
    bundle._sizes = sizes
    bundle._write_weights(tmp_path)
    (tmp_path / "m.onnx").write_bytes(light)
    engine = stand_in(precision).build(tmp_path / "m.onnx", Workload.of_text(precision="fp32"))
    assert np.isfinite(engine.run(stack_inputs(SHAPE, 1, 8))["output"]).all()
    if importlib.util.find_spec("tensorrt_rtx") is not None:
        from rfx.runtimes.tensorrt.file import build_ahead

        asked = Workload.of_text(sequence=16, precision=precision)
        built, _ = build_ahead(tmp_path / "m.onnx", asked, EngineOptions(), ("8.9",))
        assert len(built.engine) > 0


def test_without_modelopt_it_says_how_to_get_it(plain, monkeypatch):
    monkeypatch.setattr(quantizer.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentMissingError) as error:
        quantized(plain, "int8")
    said = error.value.render()
    assert "nvidia-modelopt" in said and "rfx-exporter[modelopt]" in said and "no modelopt" in said


@needs_modelopt
@both
def test_modelopt_quantizes_what_it_is_asked_to(plain, tmp_path, precision):
    made, own = quantized(plain, precision), Modelopt(precision)
    products = [name for _, name, _ in chosen(plain)]
    assert own.compare(plain, made) == (len(products), [])
    stored = {i.data_type for i in made.graph.initializer if i.name in products}
    assert stored == {TYPES[precision]} and weak_scales(made) == []
    assert [i.name for i in made.graph.input] == list(NAMES)
    assert {p.key: p.value for p in made.metadata_props}["rfx.precision"] == precision
    assert made.ByteSize() < plain.ByteSize()
    for feed in texts(3):
        assert 0 < np.abs(run(made, feed, tmp_path) - run(plain, feed, tmp_path)).max() < 0.5
    assert quantized(plain, precision).SerializeToString() == made.SerializeToString()
    assert own.method().startswith("nvidia-modelopt 0") and f", {precision}, " in own.method()


@needs_modelopt
@both
def test_modelopt_keeps_modules_in_fp32_and_takes_stacks(plain, tmp_path, precision):
    layer = "bert.encoder.layer.0"
    modules = [f"{layer}.intermediate.dense", f"{layer}.output.dense"]
    partly, own = quantized(plain, precision, keep_fp32=modules), Modelopt(precision, modules)
    assert own.compare(plain, partly) == (len(list(chosen(plain))) - 2, [])
    assert len(Modelopt(precision).compare(plain, partly)[1]) == 2
    feeds = [stack_inputs(SHAPE, 2, 6)]
    counts = [(4, 256), (2, 96), (0, 256), (4, 0)]
    began = time.monotonic()
    blocks = quantized(stack(SHAPE, counts), precision, feeds)
    print(f"{precision}: a stack of four blocks in {time.monotonic() - began:.2f} s")
    assert Modelopt(precision).compare(stack(SHAPE, counts), blocks) == (18, [])
    assert np.isfinite(run(blocks, feeds[0], tmp_path)).all()
    nothing = stack(SHAPE, [(0, 0)])
    assert quantized(nothing, precision, feeds).graph == nothing.graph


@needs_modelopt
def test_modelopt_is_not_given_what_no_scale_fits(plain):
    with pytest.raises(UsageError, match="calibration inputs"):
        quantized(plain, "int8", [])
    weight = next(name for _, name, _ in chosen(plain))

    def broken(values):
        values.flat[0] = np.nan
        return values

    with pytest.raises(UnsupportedModelError, match="not finite"):
        quantized(edited(plain, weight, broken), "int8")


@needs_modelopt
@both
def test_tensorrt_rtx_builds_what_modelopt_quantized_for_the_job(plain, tmp_path, precision):
    pytest.importorskip("tensorrt_rtx")
    from rfx.runtimes.tensorrt.file import build_ahead

    onnx.save(quantized(plain, precision), tmp_path / "m.onnx")
    asked = Workload.of_text(sequence=16, precision=precision)
    built, facts = build_ahead(
        tmp_path / "m.onnx", asked, EngineOptions(max_sequence=32), ("8.9", "12.0")
    )
    assert facts["precision"] == precision and len(built.engine) == facts["engine_bytes"]


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_sites_are_mixed_although_weights_keep_their_names(plain, precision):
    made = by_hand(plain, precision)
    left = changed(plain, made)
    whole = mixed(plain, made, left)
    assert Modelopt(precision).compare(plain, whole) == Modelopt(precision).compare(plain, made)
    stored = {i.name: i.data_type for i in whole.graph.initializer}
    assert stored.keys() & {f"{n}.quantized" for n in weights_of_products(plain)}
    # One module alone: its product is quantized, and no other one is.
    name = next(n for n in weights_of_products(plain) if n.endswith("query.weight.T"))
    one = mixed(plain, made, made_by_modules(plain, [module_of(name)]) & left)
    onnx.checker.check_model(one, full_check=True)
    count, wrong = Modelopt(precision).compare(plain, one)
    assert count == 1 and len(wrong) == Modelopt(precision).compare(plain, made)[0] - 1
    nothing = mixed(plain, made, ())
    assert not [n for n in nothing.graph.node if n.op_type == "DequantizeLinear"]
