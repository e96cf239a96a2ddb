"""INT8 as NNCF writes it for OpenVINO: which products are in integers, whose weights they are, what
is kept in fp32, what is refused, and that the library says and sends nothing."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from benchmarks.blocks import BlockShape, stack, stack_inputs
from rfx.core.errors import (
    EnvironmentMissingError,
    InternalCheckError,
    UnsupportedModelError,
    UsageError,
)
from rfx.core.workload import Workload
from rfx.export.onnx import export_onnx
from rfx.export.precision.convert import convert_precision
from rfx.export.quantizers import nncf as quantizer
from rfx.export.quantizers.mixed import changed, mixed
from rfx.export.quantizers.nncf import Nncf, kept_nodes
from rfx.export.quantizers.products import module_of, products_with_weight, weights_of_products
from rfx.runtimes.find import runtime
from tests.families import make, text_inputs

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nncf") is None or importlib.util.find_spec("openvino") is None,
    reason="NNCF or OpenVINO is not installed (extra openvino)",
)
NAMES = ("input_ids", "attention_mask")
SHAPE = BlockShape(32, 4, 8, 64)


def texts(n: int = 8) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        {
            "input_ids": rng.integers(2, 60, (1, tokens)),
            "attention_mask": np.ones((1, tokens), np.int64),
        }
        for tokens in rng.integers(4, 16, n)
    ]


def quantized(plain: onnx.ModelProto, feeds=None, **more) -> onnx.ModelProto:
    feeds = texts() if feeds is None else feeds
    return convert_precision(plain, "int8", quantizer="nncf", calibration=feeds, **more)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A BERT in fp32 and in INT8."""
    file = tmp_path_factory.mktemp("nncf") / "plain.onnx"
    export_onnx(make("bert"), file, inputs=text_inputs(NAMES), output_names=("logits",))
    plain = onnx.load(file)
    return plain, quantized(plain)


def run(model: onnx.ModelProto, feed, folder, precision="int8") -> np.ndarray:
    file = folder / "m.onnx"
    onnx.save(model, file)
    engine = runtime("openvino").build(file, Workload.of_text(precision=precision))
    return engine.run(feed)["logits"]


def edited(model: onnx.ModelProto, name: str, change) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensor = next(i for i in copy.graph.initializer if i.name == name)
    values = numpy_helper.to_array(tensor).copy()
    tensor.CopyFrom(numpy_helper.from_array(change(values), name))
    return copy


def stored(model: onnx.ModelProto, node: str) -> onnx.NodeProto:
    """The DequantizeLinear of a product's weight."""
    product = next(n for n in model.graph.node if n.name == node)
    return next(n for n in model.graph.node if product.input[1] in n.output)


def test_every_product_with_a_weight_is_in_integers_and_has_its_weight(pair, tmp_path):
    plain, made = pair
    products = len(weights_of_products(plain))
    assert products > 10 and Nncf().compare(plain, made) == (products, [])
    assert [i.name for i in made.graph.input] == list(NAMES)
    assert {p.key: p.value for p in made.metadata_props}["rfx.precision"] == "int8"
    assert made.ByteSize() < plain.ByteSize()
    for feed in texts(3):
        a, b = run(made, feed, tmp_path), run(plain, feed, tmp_path, "fp32")
        assert 0 < np.abs(a - b).max() < 0.25  # the logits of a model that was never trained


def test_everything_mixed_is_the_quantized_file_with_its_corrected_biases(pair, tmp_path):
    plain, made = pair
    whole = mixed(plain, made, changed(plain, made))
    corrected = {i.name for i in whole.graph.initializer if i.name.endswith("bias.quantized")}
    assert corrected  # NNCF corrects some
    for feed in texts(3):
        np.testing.assert_array_equal(run(whole, feed, tmp_path), run(made, feed, tmp_path))
        nothing = run(mixed(plain, made, ()), feed, tmp_path, "fp32")
        np.testing.assert_array_equal(nothing, run(plain, feed, tmp_path, "fp32"))


def test_a_weight_or_a_table_that_was_changed_is_found(pair):
    plain, made = pair
    node, weight, _ = next(iter(products_with_weight(plain)))

    def other(values):
        values.flat[3] += -3 if values.flat[3] > 0 else 3
        return values

    count, wrong = Nncf().compare(plain, edited(made, stored(made, node.name).input[0], other))
    assert count == len(weights_of_products(plain))
    assert wrong == [f"{weight} lies more than half a step from its fp32 values"]
    scaled = edited(made, stored(made, node.name).input[1], lambda scale: scale * np.float32(1.5))
    assert Nncf().compare(plain, scaled)[1] == wrong
    table = next(n for n in plain.graph.node if n.op_type == "Gather").input[0]
    tables = [i.name for i in made.graph.initializer if table in i.name and i.data_type == 3]
    (rows,) = (n for n in tables if n.endswith("_quantized"))
    assert Nncf().compare(plain, edited(made, rows, other))[1] == [
        f"the table {table} lies more than half a step from its fp32 values"
    ]


def test_a_file_that_was_never_quantized_is_found(pair):
    plain, _ = pair
    count, wrong = Nncf().compare(plain, plain)
    assert count == 0 and "nothing in the file is in integers" in wrong
    assert len(wrong) == len(weights_of_products(plain)) + 1


def test_modules_that_are_kept_stay_in_fp32_and_so_does_their_attention(pair):
    plain, made = pair
    layer = "bert.encoder.layer.0"
    attention = [f"{layer}.attention.self.{n}" for n in ("query", "key", "value")]
    modules = [*attention, f"{layer}.attention.output.dense"]
    assert len(kept_nodes(plain, modules)) == 6  # four linears, scores and context
    partly = quantized(plain, keep_fp32=modules)
    own = Nncf(keep_fp32=modules)
    assert own.compare(plain, partly) == (len(weights_of_products(plain)) - 4, [])
    assert len(own.compare(plain, made)[1]) == 4  # which should be in fp32
    assert len(Nncf().compare(plain, partly)[1]) == 4  # which should be in integers
    whole = [module_of(name) for name in weights_of_products(plain)]
    assert quantized(plain, keep_fp32=whole).graph == plain.graph


def test_stacks_with_emptied_sublayers_are_quantized(tmp_path):
    feeds = [stack_inputs(SHAPE, 2, 6)]
    plain = stack(SHAPE, [(4, 64), (2, 32), (0, 64), (4, 0)])
    made = quantized(plain, feeds)
    assert Nncf().compare(plain, made) == (len(weights_of_products(plain)), [])
    onnx.save(made, tmp_path / "stack.onnx")
    engine = runtime("openvino").build(tmp_path / "stack.onnx", Workload.of_text(precision="int8"))
    assert np.isfinite(engine.run(feeds[0])["output"]).all()
    nothing = stack(SHAPE, [(0, 0)])
    assert quantized(nothing, feeds).graph == nothing.graph


def test_it_gives_the_same_file_twice(pair):
    plain, made = pair
    assert quantized(plain).SerializeToString() == made.SerializeToString()


def test_an_activation_that_is_not_finite_is_named(pair):
    plain, _ = pair
    name = "bert.encoder.layer.1.intermediate.dense.weight.T"
    broken = edited(plain, name, lambda w: np.full_like(w, 3e38))
    with pytest.raises(UsageError, match="not finite") as refused:
        quantized(broken)
    assert refused.value.exit_code == 2
    assert "layer.1.output.dense" in refused.value.got and "example 1 of 8" in refused.value.got


def test_what_cannot_be_quantized_is_refused(pair, monkeypatch):
    plain, _ = pair
    with pytest.raises(UsageError, match="there are none"):
        quantized(plain, [])
    with pytest.raises(UsageError, match="does not write this precision"):
        Nncf("fp8")
    with pytest.raises(UnsupportedModelError, match="not finite"):
        quantized(edited(plain, next(iter(weights_of_products(plain))), lambda w: w * np.nan))

    def fails(*_, **__):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(Nncf, "_quantized", fails)
    with pytest.raises(InternalCheckError, match="could not quantize") as failed:
        quantized(plain)
    assert failed.value.exit_code == 6 and "no such operator" in failed.value.got

    def interrupted(*_, **__):
        raise RuntimeError("stopped") from KeyboardInterrupt()

    monkeypatch.setattr(Nncf, "_quantized", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quantized(plain)
    monkeypatch.setattr(quantizer.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentMissingError) as missing:
        quantized(plain)
    assert missing.value.exit_code == 4 and "rfx-exporter[openvino]" in missing.value.next_step


def test_weights_keep_to_7_bits_where_sums_overflow(pair, monkeypatch):
    plain, made = pair
    assert "8 bits" in Nncf().method() or quantizer.int8_products() == "saturating"
    monkeypatch.setattr(quantizer, "int8_products", lambda: "saturating")
    assert "7 bits" in Nncf().method()
    narrow = quantized(plain)
    node = next(iter(products_with_weight(plain)))[0].name
    for model, most in ((narrow, 64), (made, 128)):
        name = stored(model, node).input[0]
        values = next(i for i in model.graph.initializer if i.name == name)
        assert np.abs(numpy_helper.to_array(values).astype(int)).max() <= most
    assert Nncf().compare(plain, narrow)[1] == []


PROBE = """
import json, sys
events = []
def hook(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind", "os.fork"):
        events.append(event)
sys.addaudithook(hook)
import rfx
from benchmarks.blocks import BlockShape, stack, stack_inputs
from rfx.export.precision.convert import convert_precision
shape = BlockShape(32, 2, 16, 64)
feeds = [stack_inputs(shape, 1, 8)]
convert_precision(stack(shape, [(2, 64)]), "int8", quantizer="nncf", calibration=feeds)
from nncf.telemetry.wrapper import telemetry
print(json.dumps({"events": events, "telemetry": type(telemetry).__name__}))
"""


def test_the_library_prints_nothing_and_opens_no_connection():
    done = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=120, check=True
    )
    assert json.loads(done.stdout) == {"events": [], "telemetry": "MagicMock"}
    assert done.stderr == ""
