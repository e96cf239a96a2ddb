"""On a machine with an NVIDIA GPU: every GPU runtime that is installed, for real. Skips itself
elsewhere, and says so."""

import json

import numpy as np
import onnx
import pytest

from benchmarks.blocks import BlockShape, stack, stack_inputs
from rfx.core.errors import EnvironmentMissingError, UserError
from rfx.core.workload import Workload
from rfx.cost import effort
from rfx.export.precision.convert import convert_precision
from rfx.export.quantizers.modelopt import Modelopt
from rfx.runtimes.base import EngineOptions
from rfx.runtimes.find import runtime, runtime_class, stand_in
from rfx.runtimes.gpu import compute_of, gpu_count, gpu_name, require_compute, throttle_reasons
from tests.commands import given, run

SHAPE = BlockShape(256, 8, 32, 1024)
GPU = ("trt", "trt-rtx", "cuda")


def here(name: str):
    return pytest.param(
        name,
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(
                not runtime_class(name).availability().ok,
                reason=f"{name}: {runtime_class(name).availability().reason}",
            ),
        ],
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", [here(n) for n in GPU])
def test_it_computes_what_the_cpu_does(name, precision, tmp_path):
    full = stack(SHAPE, [(8, 1024), (3, 416), (0, 1024), (8, 0)])
    onnx.save(full, tmp_path / "full.onnx")
    onnx.save(convert_precision(full, precision), tmp_path / "typed.onnx")
    inputs = stack_inputs(SHAPE, 5, 24)
    expected = runtime("ort").build(tmp_path / "full.onnx", Workload()).run(inputs)["output"]
    # A batch of 5 is run in parts.
    workload = Workload.of_text(batch=2, sequence=24, precision=precision)
    target = runtime(name, EngineOptions(max_sequence=32))
    engine = target.build(tmp_path / "typed.onnx", workload)
    found = engine.run(inputs)["output"]
    assert np.abs(found - expected).max() / np.abs(expected).max() <= target.tolerance(precision)
    bound = engine.bind(stack_inputs(SHAPE, 2, 24))
    assert bound.time_ms() > 0 and bound.with_transfers_ms() > 0
    if name != "cuda":  # the graph that is timed computes it too: its outputs were NaN before
        assert bound.measurement() == {}
        alone = engine.run(stack_inputs(SHAPE, 2, 24))["output"]
        np.testing.assert_allclose(
            bound.outputs()["output"], alone, atol=target.tolerance(precision) * np.abs(alone).max()
        )
    engine.close()


@pytest.mark.parametrize("name", [here(n) for n in GPU[:2]])
def test_an_engine_is_kept_loaded_and_built_again_from_the_timing_cache(name, tmp_path):
    from rfx.core.store import Store

    onnx.save(stack(SHAPE, [(8, 1024)] * 2), tmp_path / "m.onnx")
    warnings: list[str] = []
    options = EngineOptions(store=Store(tmp_path / "cache", warn=warnings.append))
    target = runtime(name, options)
    first = target.build(tmp_path / "m.onnx", Workload())
    path = first.save(tmp_path / "m.engine")
    inputs = stack_inputs(SHAPE, 1, 16)
    np.testing.assert_array_equal(
        target.load(path, Workload()).run(inputs)["output"], first.run(inputs)["output"]
    )
    if name == "trt" and first.facts["timing_cache"] is not None:
        again = target.build(tmp_path / "m.onnx", Workload())
        assert (
            again.facts["timing_cache"] == "kept"
            and again.facts["seconds"] <= first.facts["seconds"]
        )
        cache = next((tmp_path / "cache/timing-cache").rglob("timing.cache"))
        cache.write_bytes(cache.read_bytes()[:-20])
        assert (
            target.build(tmp_path / "m.onnx", Workload()).facts["timing_cache"] == "new"
            and warnings
        )
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(EnvironmentMissingError, match="truncated"):
        target.load(path, Workload())


@pytest.mark.parametrize("name", [here(n) for n in GPU])
def test_the_whole_pipeline_runs_on_it(name, trained, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(effort, "SECONDS", (0.5, 2.0))
    options = {"precision": "fp16", "latency": 0.8, "examples": 64, "sequence": 32}
    place = {"max_length": 32, "out": tmp_path / "out"}
    arguments = given(trained, target=name, **options, **place)
    result = run("prune-export", *arguments, "--json", "--quiet")
    evidence = json.loads(result.stdout)
    gates = {g["name"]: g["outcome"] for g in evidence["gates"]}
    assert gates["shrunk"] == gates["same"] == "pass", evidence["gates"]
    assert evidence["latency"]["with_transfers"]["dense_ms"] > 0
    verified = run("verify", tmp_path / "out", "--json", "--quiet")
    assert verified.exit_code in (0, 1, 7), verified.output


def has(precision: str) -> None:
    """Skips where the GPU does not have a precision, or modelopt is not there."""
    able = runtime_class("trt").capabilities
    try:
        require_compute(able, precision, compute_of(gpu_name()))
        Modelopt.require()
    except UserError as error:
        pytest.skip(f"{error.what} {error.got}")


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("name", [here(n) for n in GPU[:2]])
def test_a_quantized_file_gives_what_it_says(name, precision, tmp_path):
    has(precision)
    counts = [(8, 1024), (3, 416), (0, 1024), (8, 0)]
    inputs = stack_inputs(SHAPE, 2, 24)
    made = convert_precision(
        stack(SHAPE, counts), precision, quantizer="modelopt", calibration=[inputs]
    )
    onnx.save(made, tmp_path / "m.onnx")
    expected = stand_in(precision).build(tmp_path / "m.onnx", Workload()).run(inputs)["output"]
    workload = Workload.of_text(batch=2, sequence=24, precision=precision)
    target = runtime(name, EngineOptions(max_sequence=32))
    engine = target.build(tmp_path / "m.onnx", workload)
    found = engine.run(inputs)["output"]
    assert np.abs(found - expected).max() / np.abs(expected).max() <= target.tolerance(precision)
    assert engine.bind(inputs).time_ms() > 0
    engine.close()


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("name", [here(n) for n in GPU[:2]])
def test_the_whole_pipeline_runs_quantized(name, precision, trained, cache, tmp_path, monkeypatch):
    has(precision)
    monkeypatch.setattr(effort, "SECONDS", (0.5, 2.0))
    options = {"precision": precision, "latency": 0.8, "examples": 64, "sequence": 32}
    arguments = given(trained, target=name, **options, max_length=32, out=tmp_path / "out")
    result = run("prune-export", *arguments, "--json", "--quiet")
    evidence = json.loads(result.stdout)
    gates = {g["name"]: g["outcome"] for g in evidence["gates"]}
    assert gates["shrunk"] == gates["same"] == "pass", evidence["gates"]
    part, rival = evidence["quantization"], evidence["rival"]
    assert part["mismatches"] == [] and part["ratio"] > 0
    assert rival["precision"] == precision and rival["latency"]["ratio"] > 0
    verified = run("verify", tmp_path / "out", "--json", "--quiet")
    assert verified.exit_code in (0, 1, 7), verified.output


@pytest.mark.skipif(gpu_count()[0] > 0, reason="there is a GPU")
def test_without_a_gpu_cuda_does_not_fall_back_to_the_cpu(tmp_path):
    onnx.save(stack(SHAPE, [(8, 1024)]), tmp_path / "m.onnx")
    with pytest.raises(EnvironmentMissingError, match="NVIDIA driver"):
        runtime_class("cuda")().build(tmp_path / "m.onnx", Workload())
    with pytest.raises(EnvironmentMissingError, match="--target ort"):
        runtime("cuda")


def test_what_holds_the_clocks_down_is_said_in_words():
    assert (
        throttle_reasons(0x4 | 0x40) == ["software power cap", "hardware thermal slowdown"]
        and throttle_reasons(0) == []
    )
