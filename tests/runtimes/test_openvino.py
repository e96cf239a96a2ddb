"""OpenVINO: a second engine that really runs, which keeps the interface honest."""

import json

import numpy as np
import onnx
import pytest

from rfx.core.errors import EnvironmentMissingError, UsageError
from rfx.core.workload import Workload
from rfx.cost import effort
from rfx.export.blocks import BlockShape, stack, stack_inputs
from rfx.export.precision.convert import convert_precision
from rfx.runtimes.find import runtime, runtime_class
from tests.commands import STANDARD, given, run

pytestmark = pytest.mark.skipif(
    not runtime_class("openvino").availability().ok,
    reason="OpenVINO is not installed (extra openvino)",
)
SHAPE = BlockShape(32, 4, 8, 64)
INPUTS = stack_inputs(SHAPE, 2, 6)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("openvino") / "stack.onnx"
    onnx.save(stack(SHAPE, [(4, 64), (2, 32), (0, 64), (4, 0)]), path)
    return path


def test_it_computes_what_onnx_runtime_does(file):
    ours, theirs = (
        runtime("openvino").build(file, Workload()),
        runtime("ort").build(file, Workload()),
    )
    assert ours.input_names == theirs.input_names and ours.output_names == theirs.output_names
    for batch, tokens in ((2, 6), (1, 9)):  # dynamic in both
        inputs = stack_inputs(SHAPE, batch, tokens)
        np.testing.assert_allclose(
            ours.run(inputs)["output"], theirs.run(inputs)["output"], atol=2e-5
        )


def test_a_bound_run_gives_the_same_and_is_timed(file):
    openvino = runtime("openvino")
    engine = openvino.build(file, Workload())
    bound = engine.bind(INPUTS)
    assert bound.time_ms() > 0 and bound.with_transfers_ms() is None
    np.testing.assert_array_equal(bound.outputs()[0], engine.run(INPUTS)["output"])
    assert (
        openvino.clock_for(Workload()) == "process CPU time"
        and openvino.clock_for(Workload.of_text(threads=2)) == "wall clock"
    )
    assert openvino.build(file, Workload.of_text(threads=2)).bind(INPUTS).time_ms() > 0
    engine.close()
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.run(INPUTS)


def test_what_cannot_be_built_or_run_is_named(file, tmp_path):
    openvino = runtime("openvino")
    with pytest.raises(UsageError, match="no.onnx"):
        openvino.build(tmp_path / "no.onnx", Workload())
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(UsageError, match="bad.onnx"):
        openvino.build(tmp_path / "bad.onnx", Workload())
    engine = openvino.build(file, Workload())
    for call in (engine.run, engine.bind):
        with pytest.raises(UsageError, match="mask"):
            call({"hidden": INPUTS["hidden"]})
        with pytest.raises(UsageError, match="hidden float64"):
            call({**INPUTS, "hidden": INPUTS["hidden"].astype(np.float64)})
        with pytest.raises(UsageError, match="hidden float32"):
            call({**INPUTS, "hidden": INPUTS["hidden"][0]})
        with pytest.raises(UsageError, match="2,6,31|2, 6, 31"):
            call({**INPUTS, "hidden": INPUTS["hidden"][:, :, :-1]})


def test_a_precision_that_the_cpu_does_not_compute_in_is_refused(file, monkeypatch):
    import rfx.runtimes.openvino as module

    monkeypatch.setattr(module, "computes_in", lambda: ("FP32", "INT8"))
    with pytest.raises(EnvironmentMissingError, match="no faster") as error:
        runtime("openvino").build(file, Workload.of_text(precision="bf16"))
    assert str(error.value.allowed) == "fp32"


def test_bfloat16_is_computed_where_the_cpu_does(tmp_path):
    from rfx.runtimes.openvino import computes_in

    if "BF16" not in computes_in():
        pytest.skip("this CPU does not compute in bf16")
    shape, inputs = BlockShape(64, 4, 16, 256), stack_inputs(BlockShape(64, 4, 16, 256), 2, 9)
    full = stack(shape, [(4, 256), (2, 96)])
    onnx.save(full, tmp_path / "full.onnx")
    onnx.save(convert_precision(full, "bf16"), tmp_path / "typed.onnx")
    openvino = runtime("openvino")
    expected = openvino.build(tmp_path / "full.onnx", Workload()).run(inputs)["output"]
    found = openvino.build(tmp_path / "typed.onnx", Workload.of_text(precision="bf16")).run(inputs)[
        "output"
    ]
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    assert 1e-6 < difference <= openvino.tolerance("bf16")  # computed in another type, and close


def test_the_whole_pipeline_runs_on_it(trained, warm, tmp_path, monkeypatch):
    """Table, closed loop, gates: the same code as on any other runtime, timed for real."""
    monkeypatch.setattr(effort, "SECONDS", (0.5, 2.0))
    monkeypatch.setattr(effort, "MIN_ROUNDS", 8)
    out = tmp_path / "out"
    arguments = given(trained, **STANDARD | {"target": "openvino"}, latency=0.8, out=out)
    result = run("prune-export", *arguments, "--json", "--quiet")
    evidence = json.loads(result.stdout)
    assert "error" not in evidence, evidence
    assert evidence["table"]["key"]["runtime"] == "openvino"
    assert evidence["search"]["rounds"] and evidence["latency"]["workload"]["runtime"] == "openvino"
    gates = {g["name"]: g["outcome"] for g in evidence["gates"]}
    assert gates["shrunk"] == gates["same"] == gates["accuracy"] == "pass", evidence["gates"]
    assert evidence["latency"]["measurement"]["warmup_ms"] == 200
