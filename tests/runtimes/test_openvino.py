"""OpenVINO: a second engine that really runs, which keeps the interface honest."""

import gc
import json
import os
import subprocess
import sys
import weakref

import numpy as np
import onnx
import pytest

from benchmarks.blocks import BlockShape, stack, stack_inputs
from rfx.core.errors import EnvironmentMissingError, UsageError
from rfx.core.workload import Workload
from rfx.cost import effort
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


def test_what_was_bound_lives_as_long_as_its_engine(file):
    # The requests of a compiled model share a graph, which points at what ran last: an engine that
    # ran again after it had been timed read freed memory, and the process died.
    engine = runtime("openvino").build(file, Workload())
    given = {name: array.copy() for name, array in INPUTS.items()}
    alive = [weakref.ref(array) for array in given.values()]
    assert engine.bind(given).time_ms() > 0
    del given
    gc.collect()
    assert all(ref() is not None for ref in alive)
    for batch, tokens in ((1, 3), (2, 6)):
        inputs = stack_inputs(SHAPE, batch, tokens)
        assert np.isfinite(engine.run(inputs)["output"]).all()
    engine.close()
    gc.collect()
    assert all(ref() is None for ref in alive)


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


BUILD = """
import os, sys
from pathlib import Path
from rfx.core.errors import UsageError
from rfx.core.workload import Workload
from rfx.runtimes.find import runtime
try:
    runtime("openvino").build(Path(sys.argv[1]), Workload())
except UsageError as error:
    os.write(2, b"and stderr is there again\\n")
    print(error.what)
"""


@pytest.mark.parametrize("shown", [False, True])
def test_a_file_that_is_no_onnx_is_said_by_rfx_alone(tmp_path, shown):
    """OpenVINO's other readers print native lines about it, beside the exception."""
    (tmp_path / "bad.onnx").write_text("this is no onnx\n")
    done = subprocess.run(
        [sys.executable, "-c", BUILD, "bad.onnx"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "RFX_SHOW_LIBRARIES": "1" if shown else ""},
        timeout=120,
    )
    assert done.stdout == "OpenVINO cannot read bad.onnx.\n", done.stderr
    assert done.stderr.endswith("and stderr is there again\n")
    assert shown or done.stderr == "and stderr is there again\n"


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
    assert gates["shrunk"] == gates["same"] == gates["agreement"] == "pass", evidence["gates"]
    assert gates["accuracy"] == "not-judged"  # there is no --max-drop
    assert evidence["latency"]["measurement"]["warmup_ms"] == 200


@pytest.mark.parametrize(
    "said, sentence",
    [
        (
            "Exception from src/inference/src/cpp/core.cpp:84:\n"
            "Exception from src/inference/src/model_reader.cpp:148:\n"
            'Unable to read the model: "x.onnx" Please check that the model is correct.\n\n',
            'Unable to read the model: "x.onnx" Please check that the model is correct.',
        ),
        (
            "Exception from src/inference/src/cpp/core.cpp:84:\n"
            "Check 'false' failed at src/frontends/unconverted_ops_report.cpp:151:\n"
            "FrontEnd API failed with OpConversionFailure:\n"
            "Model wasn't fully converted.\nSummary:\n"
            "-- No conversion rule found for operations: Nonsense-28\n",
            "No conversion rule found for operations: Nonsense-28",
        ),
        (
            "Exception from src/inference/src/cpp/infer_request.cpp:224:\n"
            "Exception from src/plugins/intel_cpu/src/node.cpp:794:\n"
            "[CPU] Add node with name 'a' Check 'shape[j] == 1' failed at src/eltwise.cpp:52:\n"
            "Eltwise shape infer input shapes dim index: 1 mismatch\n",
            "[CPU] Add node with name 'a': Eltwise shape infer input shapes dim index: 1 mismatch",
        ),
        ("Exception from src/a.cpp:1:\n", "Exception from src/a.cpp:1:"),
    ],
)
def test_an_error_is_its_sentence_and_not_the_way_it_came(said, sentence):
    from rfx.runtimes import openvino

    assert openvino.sentence(RuntimeError(said)) == sentence


def test_the_real_library_s_errors_are_sentences(tmp_path):
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, 4]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Nonsense", ["x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph), tmp_path / "op.onnx")
    with pytest.raises(UsageError) as error:
        runtime("openvino").build(tmp_path / "op.onnx", Workload())
    assert "Nonsense" in str(error.value.got) and "Exception from" not in str(error.value)


def test_importing_it_reports_to_nobody():
    """OpenVINO's package for reports is not there for it, so that it asks no host."""
    import sys

    import openvino.tools.ovc.telemetry_utils as used

    assert sys.modules["openvino_telemetry"] is None
    assert used.tm.__name__.endswith("telemetry_stub")
