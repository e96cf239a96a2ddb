"""Real engines of the TensorRT family, built without a GPU by TensorRT-RTX."""

import hashlib
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from benchmarks.blocks import BlockShape, stack
from rfx.cli.app import app
from rfx.core.errors import EnvironmentMissingError, ExitCode, UnsupportedModelError, UsageError
from rfx.core.plan import Plan
from rfx.core.workload import Workload
from rfx.export.onnx import export_onnx
from rfx.export.precision.convert import convert_precision
from rfx.models.shrink import shrink
from rfx.runtimes.base import EngineOptions
from rfx.runtimes.find import runtime, runtime_class
from rfx.runtimes.tensorrt.build import layer_lines, require_version
from rfx.runtimes.tensorrt.file import build_ahead, read_engine_file, write_engine_file
from tests.families import FAMILIES, make, text_inputs, with_slow

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (extra rtx)")
CAPABILITIES = ("8.0", "8.9", "12.0")
CONDITIONS = Workload.of_text(batch=2, sequence=16)
OPTIONS = EngineOptions(max_batch=4, max_sequence=24)
no_gpu = pytest.mark.skipif(
    runtime_class("trt-rtx").availability().ok, reason="TensorRT-RTX runs here"
)


def plans(sites):
    """Dense; pruned with a layer each of its own; with an emptied sublayer of either kind."""
    rng = np.random.default_rng(0)
    uneven = {
        s.name: sorted(rng.permutation(s.units)[: max(1, s.units // 2 + s.layer)].tolist())
        for s in sites
    }
    emptied = dict(uneven)
    emptied[next(s.name for s in sites if s.kind.value == "mha")] = []
    emptied[[s.name for s in sites if s.kind.value == "ffn"][-1]] = []
    return {
        "dense": Plan.dense(sites),
        "pruned": Plan.of(sites, uneven),
        "emptied": Plan.of(sites, emptied),
    }


@pytest.mark.parametrize("family", with_slow(FAMILIES, named=("bert", "distilbert")))
def test_every_family_builds_dense_pruned_and_emptied(family, tmp_path):
    from rfx.models.families.find import find_sites

    model = make(family)
    sites = find_sites(model)
    for name, plan in plans(sites).items():
        small = shrink(model, sites, plan)
        file = export_onnx(
            small,
            tmp_path / f"{name}.onnx",
            inputs=text_inputs(("input_ids", "attention_mask")),
            output_names=("logits",),
        )
        half = tmp_path / f"{name}-fp16.onnx"
        onnx.save(convert_precision(onnx.load(file), "fp16"), half)
        for typed in (file, half):
            # Every architecture multiplies the time: one plan for all of them is enough.
            named = CAPABILITIES if name == "pruned" and typed is half else CAPABILITIES[1:2]
            built, facts = build_ahead(typed, CONDITIONS, OPTIONS, named)
            assert len(built.engine) == facts["engine_bytes"] > 0
            assert facts["compute_capabilities"] == list(named)
            assert facts["profile"] == {"min": [1, 1], "opt": [2, 16], "max": [4, 24]}


def built_stack(layers, tmp_path, precision="fp32", shape=BlockShape(256, 8, 32, 1024)):
    file = tmp_path / f"{abs(hash(tuple(layers)))}{precision}.onnx"
    onnx.save(convert_precision(stack(shape, layers), precision), file)
    return build_ahead(file, CONDITIONS, OPTIONS, ("8.9",))[0]


def test_a_pruned_engine_is_smaller_and_shows_its_widths(tmp_path):
    dense, pruned = built_stack([(8, 1024)] * 4, tmp_path), built_stack([(3, 416)] * 4, tmp_path)
    # Bytes: q, k, v, output and the two linears, fp32.
    weights = 4 * 4 * (4 * 256 * 3 * 32 + 2 * 256 * 416)
    assert pruned.weights_bytes == pytest.approx(weights, rel=0.05)
    assert len(dense.engine) - len(pruned.engine) == pytest.approx(
        dense.weights_bytes - pruned.weights_bytes, rel=0.1
    )
    shown = " ".join(pruned.layers)
    assert "[256,416]" in shown and "[416,256]" in shown and "1024" not in shown
    assert "[256,1024]" in " ".join(dense.layers)


def test_half_precision_halves_the_weights(tmp_path):
    full = built_stack([(8, 1024)] * 4, tmp_path).weights_bytes
    for precision in ("fp16", "bf16"):
        assert built_stack([(8, 1024)] * 4, tmp_path, precision).weights_bytes == pytest.approx(
            full / 2, rel=0.1
        )


def save(nodes, inputs, outputs, path, opset=20, initializers=()):
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 10
    onnx.save(model, path)
    return path


def test_what_the_parser_refuses_is_named_with_its_node(tmp_path):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    file = save(
        [helper.make_node("Det", ["x"], ["y"], name="determinant")], [x], [y], tmp_path / "det.onnx"
    )
    with pytest.raises(UnsupportedModelError, match="Det at node 0 .determinant.") as error:
        build_ahead(file, CONDITIONS, OPTIONS, ("8.9",))
    assert error.value.exit_code == ExitCode.UNSUPPORTED_MODEL and error.value.next_step
    result = CliRunner().invoke(
        app,
        [
            "build",
            str(file),
            "--compute-capability",
            "8.9",
            "--out",
            str(tmp_path / "x.engine"),
            "--json",
        ],
    )
    assert result.exit_code == 5 and "determinant" in json.loads(result.stdout)["error"]["got"]
    assert not list(tmp_path.glob("*.engine*"))


def test_what_is_no_model_or_no_target_is_a_usage_error(tmp_path):
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no model at all")
    with pytest.raises(UsageError, match="bad.onnx"):
        build_ahead(bad, CONDITIONS, OPTIONS, ("8.9",))
    good = tmp_path / "good.onnx"
    onnx.save(stack(BlockShape(32, 4, 8, 64), [(4, 64)]), good)
    with pytest.raises(UsageError, match="12.1"):
        build_ahead(good, CONDITIONS, OPTIONS, ("9.0",))
    for arguments, code, said in (
        (["--target", "ort"], 2, "serve the ONNX file"),
        (["--target", "nonsense"], 2, "rfx env"),
        (["--target", "trt", "--compute-capability", "8.9"], 2, "trt-rtx"),
        (["--compute-capability", "8.9", "--out", str(tmp_path)], 2, "Is a directory"),
    ):
        result = CliRunner().invoke(app, ["build", str(good), *arguments])
        assert result.exit_code == code and said in result.output, result.output


@no_gpu
def facts_of(engine: bytes) -> dict:
    return {"tool": "rfx 0", "engine_sha256": hashlib.sha256(engine).hexdigest()}


def test_without_a_gpu_nothing_is_built_for_it_or_run(tmp_path):
    good = tmp_path / "good.onnx"
    onnx.save(stack(BlockShape(32, 4, 8, 64), [(4, 64)]), good)
    before = tmp_path / "good.engine"
    write_engine_file(b"an engine of yesterday", facts_of(b"an engine of yesterday"), before)
    result = CliRunner().invoke(app, ["build", str(good), "--out", str(before)])
    assert result.exit_code == 4 and "--compute-capability" in result.output
    assert before.read_bytes() == b"an engine of yesterday"
    before.write_bytes(b"a stranger's file")
    result = CliRunner().invoke(app, ["build", str(good), "--out", str(before)])
    assert result.exit_code == 2 and before.read_bytes() == b"a stranger's file"
    for target in ("trt", "trt-rtx"):
        with pytest.raises(EnvironmentMissingError, match="--target ort"):
            runtime(target)
        with pytest.raises(EnvironmentMissingError):
            runtime_class(target)().build(good, CONDITIONS)


def test_a_built_engine_lies_beside_its_facts_and_is_read_back(tmp_path):
    good = tmp_path / "good.onnx"
    onnx.save(stack(BlockShape(32, 4, 8, 64), [(4, 64)]), good)
    result = CliRunner().invoke(
        app,
        [
            "build",
            str(good),
            "--compute-capability",
            "8.9",
            "--compute-capability",
            "12.0",
            "--json",
        ],
    )
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    path = tmp_path / "good.rtx.engine"
    assert facts["written"] == str(path) and facts["compute_capabilities"] == ["8.9", "12.0"]
    plan, read = read_engine_file(path)
    assert len(plan) == facts["engine_bytes"] and read["engine_sha256"] == facts["engine_sha256"]
    said = CliRunner().invoke(app, ["build", str(good), "--compute-capability", "8.9"]).output
    assert "compute capability 8.9" in said and "unverified on hardware" in said


def test_an_engine_that_is_truncated_damaged_or_of_elsewhere_is_refused(tmp_path, monkeypatch):
    import rfx.runtimes.tensorrt.file as module

    good = tmp_path / "good.onnx"
    onnx.save(stack(BlockShape(32, 4, 8, 64), [(4, 64)]), good)
    built, facts = build_ahead(good, CONDITIONS, OPTIONS, ("8.9",))
    path = write_engine_file(built.engine, facts, tmp_path / "model.engine")
    path.write_bytes(built.engine[:-100])
    with pytest.raises(EnvironmentMissingError, match="truncated"):
        read_engine_file(path)
    path.write_bytes(bytes(reversed(built.engine)))
    with pytest.raises(EnvironmentMissingError, match="damaged"):
        read_engine_file(path)
    with pytest.raises(UsageError, match="No such file"):
        read_engine_file(tmp_path / "none.engine")
    write_engine_file(built.engine, facts, path)
    monkeypatch.setattr(module, "compute_capability", lambda: (9, 0))
    with pytest.raises(EnvironmentMissingError, match="this GPU has 9.0") as error:
        module.require_same(
            path,
            facts,
            {"library": facts["library"], "device": "NVIDIA H200 (sm90)"},
            portable=True,
        )
    assert error.value.exit_code == ExitCode.ENVIRONMENT and "rfx build" in error.value.next_step
    here = {"library": "tensorrt 11.4.0", "device": "B (sm89)"}
    for recorded, said in (
        ({"library": "tensorrt 10.13.2", "device": "B (sm89)"}, "built by tensorrt 10.13.2"),
        ({"library": "tensorrt 11.4.0", "device": "A (sm80)"}, "built on A"),
    ):
        with pytest.raises(EnvironmentMissingError, match=said):
            module.require_same(path, recorded, here, portable=False)
    module.require_same(
        path,
        {
            "library": "tensorrt 11.1.0",
            "device": "A (sm80)",
            "options": {"version_compatible": True, "hardware_compatible": True},
        },
        here,
        portable=False,
    )


@no_gpu
def test_an_engine_cannot_be_loaded_without_a_gpu(tmp_path):
    good = tmp_path / "good.onnx"
    onnx.save(stack(BlockShape(32, 4, 8, 64), [(4, 64)]), good)
    built, facts = build_ahead(good, CONDITIONS, OPTIONS, ("8.9",))
    path = write_engine_file(built.engine, facts, tmp_path / "model.engine")
    with pytest.raises(EnvironmentMissingError, match="--target ort"):
        runtime_class("trt-rtx")().load(path, CONDITIONS)


def test_an_old_tensorrt_is_refused():
    require_version("10.13.2.6")
    require_version("11.4.0.106")
    for version in ("10.3.0", "8.6.1"):
        with pytest.raises(EnvironmentMissingError, match=version):
            require_version(version)


def test_the_builders_layer_list_is_read():
    line = (
        "Layers:\nName: a+b_myl0_1, LayerType: gemm, Inputs: [ { Name: x, Dimensions: [-1,384] "
        "}], Constants: [ { Name: w, "
        "Dimensions: [384,640], Strides: [640,1] }], Outputs: [ { Name: y, Dimensions: [-1,640] "
        "}], TacticName: t"
    )
    assert layer_lines([line, line]) == ["gemm: a+b_myl0_1 [384,640]"]


def test_a_workspace_that_is_too_small_and_sizes_that_cannot_be_are_named(tmp_path):
    """TensorRT says so in the middle of a line of its log."""
    file = tmp_path / "stack.onnx"
    onnx.save(stack(BlockShape(64, 4, 16, 256), [(4, 256)]), file)
    rtx = runtime_class("trt-rtx")
    with pytest.raises(UsageError, match="workspace is too small") as error:
        rtx(EngineOptions(workspace_mb=0)).build_elsewhere(
            file, Workload.of_text(sequence=16), ("8.9",), tmp_path / "a.engine"
        )
    assert "--workspace-mb" in error.value.next_step
    assert not (tmp_path / "a.engine").exists()


def test_fp8_for_a_gpu_that_does_not_have_it_is_refused_before_any_work(tmp_path):
    file = tmp_path / "fp8.onnx"
    model = stack(BlockShape(32, 4, 8, 64), [(4, 64)])
    onnx.helper.set_model_props(model, {"rfx.precision": "fp8"})
    onnx.save(model, file)
    asked = ["build", str(file), "--compute-capability", "8.6"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 2, result.output
    assert "cannot compute in fp8" in result.output and "8.9 or more" in result.output
    assert [p.name for p in tmp_path.iterdir()] == ["fp8.onnx"]
