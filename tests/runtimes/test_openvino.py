"""OpenVINO: a second engine that really runs, which keeps the interface honest."""

import json

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import rfx.cost.latency as latency
from rfx.cli import app
from rfx.errors import EnvironmentMissingError, UsageError
from rfx.export.blocks import BlockShape, stack, stack_inputs
from rfx.runtimes import runtime, runtime_class
from rfx.runtimes.base import Conditions

pytestmark = pytest.mark.skipif(not runtime_class("openvino").availability().ok, reason="OpenVINO is not installed (extra openvino)")
SHAPE = BlockShape(32, 4, 8, 64)
INPUTS = stack_inputs(SHAPE, 2, 6)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("openvino") / "stack.onnx"
    onnx.save(stack(SHAPE, [(4, 64), (2, 32), (0, 64), (4, 0)]), path)
    return path


def test_it_computes_what_onnx_runtime_does(file):
    ours, theirs = runtime("openvino").build(file, Conditions()), runtime("ort").build(file, Conditions())
    assert ours.input_names == theirs.input_names and ours.output_names == theirs.output_names
    for batch, tokens in ((2, 6), (1, 9)):  # dynamic in both
        inputs = stack_inputs(SHAPE, batch, tokens)
        np.testing.assert_allclose(ours.run(inputs)["output"], theirs.run(inputs)["output"], atol=2e-5)


def test_a_bound_run_gives_the_same_and_is_timed(file):
    openvino = runtime("openvino")
    engine = openvino.build(file, Conditions())
    bound = engine.bind(INPUTS)
    assert bound.time_ms() > 0 and bound.with_transfers_ms() is None
    np.testing.assert_array_equal(bound.outputs()[0], engine.run(INPUTS)["output"])
    assert openvino.clock_for(Conditions()) == "process CPU time" and openvino.clock_for(Conditions(threads=2)) == "wall clock"
    assert openvino.build(file, Conditions(threads=2)).bind(INPUTS).time_ms() > 0
    engine.close()
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.run(INPUTS)


def test_what_cannot_be_built_or_run_is_named(file, tmp_path):
    openvino = runtime("openvino")
    with pytest.raises(UsageError, match="no.onnx"):
        openvino.build(tmp_path / "no.onnx", Conditions())
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(UsageError, match="bad.onnx"):
        openvino.build(tmp_path / "bad.onnx", Conditions())
    engine = openvino.build(file, Conditions())
    for call in (engine.run, engine.bind):
        with pytest.raises(UsageError, match="mask"):
            call({"hidden": INPUTS["hidden"]})
        with pytest.raises(UsageError, match="hidden float64"):
            call({**INPUTS, "hidden": INPUTS["hidden"].astype(np.float64)})
        with pytest.raises(UsageError, match="hidden float32"):
            call({**INPUTS, "hidden": INPUTS["hidden"][0]})
        with pytest.raises(UsageError, match="OpenVINO cannot run"):
            call({**INPUTS, "hidden": INPUTS["hidden"][:, :, :-1]})


def test_a_precision_that_the_cpu_does_not_compute_in_is_refused(file, monkeypatch):
    import rfx.runtimes.openvino as module

    monkeypatch.setattr(module, "capabilities", lambda: ("FP32", "INT8"))
    with pytest.raises(EnvironmentMissingError, match="no faster") as error:
        runtime("openvino").build(file, Conditions(precision="bf16"))
    assert str(error.value.allowed) == "fp32"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_whole_pipeline_runs_on_it(trained, cache, tmp_path, monkeypatch, precision):
    """Table, closed loop, gates: the same code as on any other runtime, timed for real."""
    from rfx.runtimes.openvino import capabilities

    if precision.upper() not in ("FP32", *capabilities()):
        pytest.skip(f"this CPU does not compute in {precision}")
    monkeypatch.setattr(latency, "SECONDS", (0.5, 2.0))
    monkeypatch.setattr(latency, "MIN_ROUNDS", 8)
    out = tmp_path / "out"
    arguments = ["prune-export", str(trained["model"]), "--train", str(trained["train"]), "--eval", str(trained["eval"]),
                 "--target", "openvino", "--precision", precision, "--latency", "0.8", "--examples", "64", "--sequence", "32",
                 "--max-length", "32", "--out", str(out), "--json", "--quiet"]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    evidence = json.loads(result.stdout)
    assert evidence["table"]["key"]["runtime"] == "openvino" and evidence["table"]["key"]["precision"] == precision
    assert evidence["search"]["rounds"] and evidence["latency"]["conditions"]["runtime"] == "openvino"
    gates = {g["name"]: g["outcome"] for g in evidence["gates"]}
    assert gates["shrunk"] == gates["same"] == gates["accuracy"] == "pass", evidence["gates"]
    assert evidence["latency"]["measurement"]["warmup_ms"] == 200
    again = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert again["table"]["hash"] == evidence["table"]["hash"] or evidence["warnings"]
