"""Parity through Polygraphy: the first tensor that differs is named, and the command line repeats
it."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from rfx.core.errors import EnvironmentMissingError, UsageError
from rfx.core.plan import Plan
from rfx.evidence.gates import same_gate
from rfx.export.onnx import export_onnx
from rfx.export.precision.convert import convert_precision
from rfx.measure.parity.compare import compare_runtimes
from rfx.measure.parity.difference import INPUTS, save_repro
from rfx.measure.parity.locate import Found
from rfx.measure.parity.measure import measure
from rfx.measure.parity.repro import repro_commands
from rfx.measure.parity.sides import Side
from rfx.measure.parity.silence import silent_polygraphy
from rfx.models.families.find import find_sites
from rfx.models.shrink import shrink
from rfx.runtimes.find import runtime_class
from tests.families import batch, make, text_inputs

pytest.importorskip("polygraphy", reason="Polygraphy is not installed (extra rtx)")
NAMES = ("input_ids", "attention_mask")
FEEDS = [{k: v.numpy() for k, v in batch(3, 11, seed).items()} for seed in (0, 1)]
LAYER = "bert.encoder.layer.1"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("parity") / "model.onnx"
    return export_onnx(make("bert"), file, inputs=text_inputs(NAMES), output_names=("logits",))


def changed(file: Path, weight: str, to, path: Path) -> Path:
    """A copy with one number of a weight changed: by `to` added, or to NaN."""
    proto = onnx.load(file)
    tensor = next(i for i in proto.graph.initializer if i.name == weight)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[3] = values.flat[3] + to
    tensor.CopyFrom(numpy_helper.from_array(values, weight))
    onnx.save(proto, path)
    return path


def bash(command: list[str], folder: Path) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    return subprocess.run(
        ["bash", *command], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_a_model_is_equal_to_itself_and_nothing_is_printed_or_left_behind(model, capfd):
    from polygraphy import config
    from polygraphy.logger import G_LOGGER

    before = str(G_LOGGER.module_severity), set(G_LOGGER.once_logged), config.USE_TENSORRT_RTX
    assert compare_runtimes(model, FEEDS, tolerance=2e-4) is None
    assert compare_runtimes(model, FEEDS, against=model, runtime="ort", tolerance=0.0) is None
    assert (
        str(G_LOGGER.module_severity),
        set(G_LOGGER.once_logged),
        config.USE_TENSORRT_RTX,
    ) == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("weight", "operator"),
    [
        (f"{LAYER}.intermediate.dense.weight.T", "MatMul"),
        (f"{LAYER}.intermediate.dense.bias", "Add"),
        (f"{LAYER}.output.dense.weight.T", "MatMul"),
        (f"{LAYER}.attention.self.query.weight.T", "MatMul"),  # the mask's -3.4e38 stands behind it
        (f"{LAYER}.output.LayerNorm.weight", "LayerNormalization"),
        ("classifier.weight", "Gemm"),
    ],
)
def test_the_first_tensor_behind_a_changed_weight_is_named(
    model, weight, operator, tmp_path, capfd
):
    other = changed(model, weight, 0.5, tmp_path / "changed.onnx")
    found = compare_runtimes(model, FEEDS, against=other, tolerance=2e-4)
    reader = next(n for n in onnx.load(model).graph.node if weight in n.input)
    assert (found.tensor, found.operator, found.node) == (reader.output[0], operator, reader.name)
    assert found.module == weight.removesuffix(".T").rpartition(".")[0]
    assert found.share > 2e-4 and found.dtypes == ("float32", "float32") and found.skipped == 0
    assert found.ranges[0][0] < found.ranges[0][1] and found.not_finite == (0, 0)
    text = str(found)
    assert found.tensor in text and found.module in text and operator in text and str(other) in text
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["tensor"] == found.tensor
    assert capfd.readouterr() == ("", "")


def test_it_sees_what_the_gate_sees(model, tmp_path):
    other = changed(model, f"{LAYER}.output.dense.weight.T", 0.5, tmp_path / "changed.onnx")
    sessions = [ort.InferenceSession(f, providers=["CPUExecutionProvider"]) for f in (model, other)]
    a, b = (np.concatenate([s.run(None, f)[0].ravel() for f in FEEDS]) for s in sessions)
    share = float(np.abs(a - b).max()) / max(1.0, float(np.abs(a).max()))
    found = compare_runtimes(model, FEEDS, against=other, tolerance=2e-4)
    assert found.outputs_share == pytest.approx(share, rel=1e-4)
    for tolerance in (share * 1.01, share * 0.99):
        passes = same_gate({"a-b": share}, tolerance).outcome == "pass"
        assert (
            compare_runtimes(model, FEEDS, against=other, tolerance=tolerance) is None
        ) == passes


def test_numbers_that_are_not_finite_are_named(model, tmp_path):
    broken = changed(model, f"{LAYER}.intermediate.dense.weight.T", math.nan, tmp_path / "nan.onnx")
    found = compare_runtimes(model, FEEDS, against=broken, tolerance=2e-4)
    assert found.module == f"{LAYER}.intermediate.dense" and found.operator == "MatMul"
    assert (
        found.share == math.inf
        and found.not_finite[0] == 0 < found.not_finite[1]
        and "not finite" in str(found)
    )
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["share"] is None
    alone = compare_runtimes(broken, FEEDS, tolerance=2e-4)  # equal on both sides, and wrong
    assert (alone.tensor, alone.share) == (found.tensor, math.inf) and min(alone.not_finite) > 0


def test_half_precision_is_held_against_full(model, tmp_path):
    half = tmp_path / "half.onnx"
    onnx.save(convert_precision(onnx.load(model), "fp16"), half)
    assert compare_runtimes(model, FEEDS, against=half, tolerance=1e-2) is None
    found = compare_runtimes(model, FEEDS, against=half, tolerance=1e-7)
    assert found.module == "bert.embeddings.word_embeddings" and found.operator == "Gather"
    # `x.fp16` stands for `x`.
    assert found.compared == len(Side(model, "ort").tensors) and found.skipped == 0
    assert (
        save_repro(tmp_path, found).name == "parity.sh"
        and bash(["parity.sh"], tmp_path).returncode == 1
    )
    back = compare_runtimes(half, FEEDS, against=model, tolerance=1e-7)
    assert back.dtypes == ("float16", "float32") and back.module == found.module


def test_a_pruned_model_with_an_emptied_sublayer(tmp_path):
    dense = make("bert")
    sites = find_sites(dense)
    kept = {s.name: range(s.units // 2) for s in sites} | {"layer.1.ffn": (), "layer.2.mha": ()}
    small = shrink(dense, sites, Plan.of(sites, kept))
    model = export_onnx(
        small, tmp_path / "small.onnx", inputs=text_inputs(NAMES), output_names=("logits",)
    )
    assert compare_runtimes(model, FEEDS, tolerance=2e-4) is None
    other = changed(
        model, "bert.encoder.layer.2.intermediate.dense.weight.T", 0.5, tmp_path / "changed.onnx"
    )
    found = compare_runtimes(model, FEEDS, against=other, tolerance=2e-4)
    assert found.module == "bert.encoder.layer.2.intermediate.dense" and found.operator == "MatMul"


def test_the_worst_example_alone_shows_it(model, tmp_path):
    ids = np.concatenate([f["input_ids"] for f in FEEDS])
    values, rows = np.unique(np.stack([ids.ravel(), np.repeat(np.arange(len(ids)), 11)]), axis=1)
    token = next(v for v in values if (values == v).sum() == 1 and v != 1)
    proto = onnx.load(model)
    weight = next(
        i for i in proto.graph.initializer if i.name == "bert.embeddings.word_embeddings.weight"
    )
    table = numpy_helper.to_array(weight).copy()
    table[token, :5] += 1.0
    weight.CopyFrom(numpy_helper.from_array(table, weight.name))
    onnx.save(proto, tmp_path / "changed.onnx")
    found = compare_runtimes(model, FEEDS, against=tmp_path / "changed.onnx", tolerance=2e-4)
    assert found.module == "bert.embeddings.word_embeddings" and found.inputs[
        "input_ids"
    ].shape == (1, 11)
    assert token in found.inputs["input_ids"]
    assert found.inputs["input_ids"].tolist() == ids[rows[values == token]].tolist()


def test_the_command_repeats_it_until_it_is_mended(model, tmp_path):
    folder = tmp_path / "with a space"
    folder.mkdir()
    other = changed(model, f"{LAYER}.output.dense.weight.T", 0.5, folder / "model.onnx")
    found = compare_runtimes(model, FEEDS, against=other, tolerance=2e-4)
    script = save_repro(folder, found)
    assert {p.name for p in folder.iterdir()} == {"model.onnx", INPUTS, "parity.sh"}
    done = bash(["-c", found.command], folder)
    assert done.returncode == 1 and found.tensor in done.stdout, done.stderr
    moved = folder.rename(tmp_path / "moved")  # the model in the folder moves with it
    shutil.copy(model, moved / "model.onnx")
    mended = bash([str(moved / script.name)], tmp_path)
    assert mended.returncode == 0, mended.stdout[-2000:] + mended.stderr


def test_bfloat16_is_left_out_where_it_cannot_be_read(tmp_path):
    """ONNX Runtime computes with it but gives none to NumPy."""
    rng, files = np.random.default_rng(0), []
    weight = rng.normal(size=(4, 4)).astype(np.float32)
    for name, values in (("a", weight), ("b", weight + 0.5)):
        nodes = [
            helper.make_node("MatMul", ["x", "lin.weight.T"], ["h"]),
            helper.make_node("Cast", ["h"], ["c.bf16"], to=TensorProto.BFLOAT16),
            helper.make_node("Cast", ["c.bf16"], ["c"], to=TensorProto.FLOAT),
            helper.make_node("Neg", ["c"], ["y"]),
        ]
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4]) for n in "xy"]
        graph = helper.make_graph(
            nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(values, "lin.weight.T")]
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        files.append(tmp_path / f"{name}.onnx")
        onnx.save(proto, files[-1])
    found = compare_runtimes(
        files[0], [{"x": np.ones((2, 4), np.float32)}], against=files[1], tolerance=1e-3
    )
    assert (found.tensor, found.module, found.compared, found.skipped) == ("h", "lin", 3, 1)
    save_repro(tmp_path, found)
    assert bash(["parity.sh"], tmp_path).returncode == 1


def test_a_difference_that_only_fusions_make_is_said_to_be_one(model, tmp_path):
    from polygraphy import constants
    from polygraphy.backend.onnx import ModifyOutputs

    # As other exporters write it, with sums that ONNX Runtime fuses with the normalisation.
    proto, fused = onnx.load(model), tmp_path / "fused.onnx"
    for node in proto.graph.node:
        node.op_type = "Add" if node.op_type == "Sum" else node.op_type
    onnx.save(proto, fused)
    # Every tensor is an output, so it can fuse nothing.
    unfused = tmp_path / "unfused.onnx"
    onnx.save(ModifyOutputs(onnx.load(fused), outputs=constants.MARK_ALL)(), unfused)
    found = compare_runtimes(fused, FEEDS, against=unfused, tolerance=0.0)
    assert found.tensor == "logits" and 0 < found.outputs_share < 1e-5
    assert "fusions" in found.note and found.note in str(found)
    save_repro(tmp_path, found)
    assert bash(["parity.sh"], tmp_path).returncode == 1


def test_masks_are_no_difference_and_no_scale():
    full = np.array([[1.0, np.finfo(np.float32).min]], np.float32)
    half = np.array([[1.5, np.finfo(np.float16).min]], np.float16)
    found = measure(full, half)
    assert (found.difference, found.scale) == (0.5, 1.0) and [v[0] for v in found.values] == [
        "float32",
        "float16",
    ]
    infinite = np.array([np.inf, -np.inf, 2.0], np.float32)
    assert measure(infinite, infinite).difference == 0.0
    assert measure(infinite, infinite, outputs=True).difference == np.inf
    assert measure(np.array([np.inf]), np.array([1.0])).difference == np.inf
    assert measure(np.array([np.nan]), np.array([np.nan])).nan
    assert measure(np.zeros(3), np.zeros(4)) is None
    assert measure(np.zeros(3), np.zeros(4), outputs=True).difference == np.inf
    assert measure(np.array([True, False]), np.array([True, True])).difference == 1.0
    assert measure(np.zeros((0, 4)), np.zeros((0, 4))).difference == 0.0


def test_bfloat16_comes_as_torch():
    import torch

    found = measure(
        np.array([1.0, 2.0], np.float32), torch.tensor([1.0, 2.5], dtype=torch.bfloat16)
    )
    assert (found.difference, found.scale, found.values[1][0]) == (0.5, 2.0, "bfloat16")


def test_bad_input_is_refused(model, tmp_path):
    with pytest.raises(UsageError, match="attention_mask"):
        compare_runtimes(model, [{"input_ids": FEEDS[0]["input_ids"]}], tolerance=1e-3)
    with pytest.raises(UsageError, match="none"):
        compare_runtimes(model, [], tolerance=1e-3)
    with pytest.raises(UsageError, match="openvino"):
        compare_runtimes(model, FEEDS, runtime="openvino", tolerance=1e-3)
    with pytest.raises(UsageError, match=r"\[2, 3, 4\]"):
        compare_runtimes(
            model, [FEEDS[0], {n: np.ones((2, 3, 4), np.int64) for n in NAMES}], tolerance=1e-3
        )
    with pytest.raises(UsageError, match="cannot be run on these inputs"):
        compare_runtimes(
            model, [FEEDS[0] | {"attention_mask": np.ones((3, 7), np.int64)}], tolerance=1e-3
        )
    with pytest.raises(UsageError, match="cannot be read"):
        compare_runtimes(tmp_path / "none.onnx", FEEDS, tolerance=1e-3)
    (tmp_path / "broken.onnx").write_bytes(model.read_bytes()[:2000])
    with pytest.raises(UsageError, match="cannot be read"):
        compare_runtimes(model, FEEDS, against=tmp_path / "broken.onnx", tolerance=1e-3)
    proto = onnx.load(model)
    proto.graph.node[-1].output[0] = proto.graph.output[0].name = "scores"
    onnx.save(proto, tmp_path / "renamed.onnx")
    with pytest.raises(UsageError, match="no output in common"):
        compare_runtimes(model, FEEDS, against=tmp_path / "renamed.onnx", tolerance=1e-3)


def test_without_polygraphy_the_next_step_is_named(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "polygraphy", None)  # as Python says that there is none
    with pytest.raises(EnvironmentMissingError, match=r"pip install.*polygraphy"):
        compare_runtimes(model, FEEDS, tolerance=1e-3)


@pytest.mark.parametrize("runtime", ["trt", "trt-rtx"])
def test_without_a_gpu_it_is_said(model, runtime):
    here = runtime_class(runtime).availability()
    if here.ok:
        pytest.skip(f"{runtime} runs here")
    with pytest.raises(EnvironmentMissingError) as caught:
        compare_runtimes(model, FEEDS, runtime=runtime, tolerance=1e-3)
    assert here.reason in str(caught.value) and here.next_step in str(caught.value)


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", ["trt", "trt-rtx"])
def test_tensorrt_agrees_and_is_told_apart(model, runtime, tmp_path):
    cls = runtime_class(runtime)
    if not cls.availability().ok:
        pytest.skip(cls.availability().reason)
    for precision in ("fp32", "fp16", "bf16"):
        file = tmp_path / f"{precision}.onnx"
        onnx.save(convert_precision(onnx.load(model), precision), file)
        tolerance = cls().tolerance(precision)
        assert (
            compare_runtimes(model, FEEDS, against=file, runtime=runtime, tolerance=tolerance)
            is None
        )
        other = changed(model, f"{LAYER}.output.dense.weight.T", 100.0, tmp_path / "changed.onnx")
        found = compare_runtimes(other, FEEDS, against=file, runtime=runtime, tolerance=tolerance)
        assert found.module == f"{LAYER}.output.dense"
        save_repro(tmp_path, found)
        assert bash(["parity.sh"], tmp_path).returncode == 1


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_tensorrt_rtx_builds_with_every_tensor_as_an_output(model, precision, tmp_path, capfd):
    """As far as it goes without a GPU: Polygraphy's loaders as `compare_runtimes` has them, up to
    an engine's bytes."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (extra rtx)")
    from polygraphy import config
    from polygraphy.backend.onnx import OnnxFromPath  # noqa: F401 - Polygraphy has chosen its TensorRT by now
    from polygraphy.backend.trt import EngineBytesFromNetwork, util

    file = tmp_path / "model.onnx"
    onnx.save(convert_precision(onnx.load(model), precision), file)
    side = Side(file, "trt-rtx")
    before = config.USE_TENSORRT_RTX, util.trt, util.TRT_LOGGER
    with silent_polygraphy("trt-rtx"):
        loaders = side.loaders(
            [*FEEDS, {n: a[:1] for n, a in FEEDS[0].items()}], True, compute_capabilities=[(8, 9)]
        )
        network = loaders[0]()[1]
        marked = {network.get_output(i).name for i in range(network.num_outputs)}
        assert EngineBytesFromNetwork(*loaders)().nbytes > 0
    assert side.tensors.keys() <= marked
    assert (
        config.USE_TENSORRT_RTX,
        util.trt,
        util.TRT_LOGGER,
    ) == before and capfd.readouterr().out == ""


def test_what_tensorrt_refuses_is_said(tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (extra rtx)")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4]) for n in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Unheard", ["x"], ["y"], domain="of")], "g", ends[:1], ends[1:]
    )
    sets = [helper.make_opsetid("", 20), helper.make_opsetid("of", 1)]
    onnx.save(helper.make_model(graph, opset_imports=sets, ir_version=10), tmp_path / "m.onnx")
    feed = {"x": np.ones((2, 4), np.float32)}
    with pytest.raises(EnvironmentMissingError, match="rfx build"), silent_polygraphy("trt-rtx"):
        Side(tmp_path / "m.onnx", "trt-rtx").loaders([feed], False, compute_capabilities=[(8, 9)])[
            0
        ]()


@pytest.mark.parametrize("against", [False, True])
def test_polygraphy_understands_the_command_for_tensorrt(model, against, tmp_path):
    """Without a GPU: it writes the script that it would run."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (extra rtx)")
    other = Path(shutil.copy(model, tmp_path / "other.onnx")) if against else model
    sides, feed = (Side(model, "ort"), Side(other, "trt-rtx")), FEEDS[0]
    at = Found("logits", "logits", measure(np.zeros(3), np.zeros(3)), feed, 1, 0, 1.0)
    commands = repro_commands(*sides, at, {"": 1e-3, "logits": 2e-4})
    assert len(commands) == 1 + against
    generated = []
    for words in commands:
        setting = [w for w in words if w.startswith("POLYGRAPHY_")]
        done = bash(
            ["-c", '"$0" "$@"', "env", *setting, *words[len(setting) :], "--gen", "-"], tmp_path
        )
        assert done.returncode == 0, done.stdout + done.stderr
        generated.append(done.stdout)
    build = (
        "min=[3, 11], opt=[3, 11], max=[3, 11]",
        "strongly_typed=True",
        "ModifyNetworkOutputs",
        "CreateConfigRTX",
    )
    assert all(x in generated[0] for x in build), generated[0]
    assert (
        "constants.MARK_ALL" in generated[-1]
        and "atol={'': 0.001, 'logits': 0.0002}" in generated[-1]
    )
    assert "OnnxrtRunner" in generated[-1] and ("load_streaming" in generated[-1]) == against
