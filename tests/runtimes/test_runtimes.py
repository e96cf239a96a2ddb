"""The registry and ONNX Runtime on the CPU: engines, their errors, timing side by side."""

import numpy as np
import onnx
import pytest

from benchmarks.blocks import BlockShape, stack, stack_inputs
from rfx.core.artefact import Artefact, Graph
from rfx.core.errors import EnvironmentMissingError, ExitCode, UsageError
from rfx.core.workload import Workload
from rfx.runtimes.base import BoundRun
from rfx.runtimes.find import (
    best_runtime,
    builder_elsewhere,
    compilers,
    locators,
    runtime,
    runtime_class,
    runtime_names,
    runtimes_report,
    stand_in,
)
from rfx.runtimes.timing import interleave
from tests.families import text_inputs

SHAPE = BlockShape(32, 4, 8, 64)
INPUTS = stack_inputs(SHAPE, 2, 6)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("runtimes") / "stack.onnx"
    onnx.save(stack(SHAPE, [(4, 64)] * 2), path)
    return path


def test_every_registered_runtime_says_whether_it_can_run_here():
    for name in runtime_names():
        here = runtime_class(name).availability()
        assert here.ok or (here.reason and here.next_step)
    assert runtime_class("ort").availability().ok


def test_an_unknown_runtime_names_the_known_ones():
    with pytest.raises(UsageError, match="auto, ort, cuda, openvino, trt, trt-rtx"):
        runtime("coreml")


@pytest.mark.skipif(runtime_class("trt").availability().ok, reason="TensorRT runs here")
def test_tensorrt_says_what_is_missing_and_what_would_run():
    with pytest.raises(EnvironmentMissingError, match="--target ort") as error:
        runtime("trt")
    assert error.value.exit_code == ExitCode.ENVIRONMENT
    assert best_runtime().name == runtime("auto").name == "ort"


def test_an_engine_runs_and_a_bound_run_gives_the_same(file):
    engine = runtime("ort").build(file, Workload())
    assert engine.input_names == ("hidden", "mask") and engine.output_names == ("output",)
    out = engine.run({**INPUTS, "unused": np.zeros(1)})["output"]
    bound = engine.bind(INPUTS)
    assert bound.time_ms() > 0
    np.testing.assert_array_equal(bound.outputs()[0], out)
    engine.close()
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.run(INPUTS)


def test_several_threads_are_timed_by_the_wall_clock(file):
    ort = runtime("ort")
    assert (
        ort.clock_for(Workload()) == "process CPU time"
        and ort.clock_for(Workload.of_text(threads=2)) == "wall clock"
    )
    assert ort.build(file, Workload.of_text(threads=2)).bind(INPUTS).time_ms() > 0


def test_what_cannot_be_built_or_run_is_named(file, tmp_path):
    ort = runtime("ort")
    with pytest.raises(UsageError, match="no.onnx"):
        ort.build(tmp_path / "no.onnx", Workload())
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(UsageError, match="bad.onnx"):
        ort.build(tmp_path / "bad.onnx", Workload())
    with pytest.raises(UsageError, match="fp32"):
        ort.build(file, Workload.of_text(precision="fp16"))
    engine = ort.build(file, Workload())
    with pytest.raises(UsageError, match="mask"):
        engine.run({"hidden": INPUTS["hidden"]})
    for call in (engine.run, engine.bind):
        with pytest.raises(UsageError, match="hidden float64"):
            call({**INPUTS, "hidden": INPUTS["hidden"].astype(np.float64)})


def test_memory_that_is_not_enough_is_the_machines_fault(file):
    """The sentences are ONNX Runtime's, of a GPU that was full."""
    from rfx.runtimes.onnxruntime.engine import run_error

    for text in (
        "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size "
        "17179869184",
        "CUDA failure 2: out of memory ; GPU=0",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
    ):
        assert isinstance(run_error(RuntimeError(text), INPUTS), EnvironmentMissingError)
    assert isinstance(
        run_error(RuntimeError("Got invalid dimensions for input"), INPUTS), UsageError
    )


def test_an_operator_the_runtime_does_not_have_is_an_environment_error(tmp_path):
    node = onnx.helper.make_node("Nonsense", ["x"], ["y"], domain="com.example")
    value = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy"]
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:])
    model = onnx.helper.make_model(
        graph,
        opset_imports=[
            onnx.helper.make_opsetid("", 20),
            onnx.helper.make_opsetid("com.example", 1),
        ],
    )
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(EnvironmentMissingError):
        runtime("ort").build(tmp_path / "x.onnx", Workload())


class Counted(BoundRun):
    """Notes the order of the runs; not a runtime."""

    def __init__(self, name, order):
        self.name, self.order = name, order

    def time_ms(self):
        self.order.append(self.name)
        return {"a": 1.0, "b": 2.0, "c": 3.0}[self.name]


def test_rounds_are_interleaved_and_mirrored():
    order = []
    times = interleave({n: Counted(n, order) for n in "abc"}, rounds=8, warmup_ms=0, seed=1)
    assert {n: t.tolist() for n, t in times.items()} == {
        "a": [1.0] * 8,
        "b": [2.0] * 8,
        "c": [3.0] * 8,
    }
    rounds = [order[3 + 3 * i : 6 + 3 * i] for i in range(8)]
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert (
        all(rounds[i + 1] == rounds[i][::-1] for i in range(0, 8, 2))
        and len({tuple(r) for r in rounds}) > 2
    )
    assert interleave({}) == {}


def test_a_measurement_lasts_as_long_as_asked():
    advanced = []
    times = interleave(
        {"a": Counted("a", [])}, min_seconds=0, min_rounds=12, warmup_ms=0, advance=advanced.append
    )
    assert len(times["a"]) == 12 == len(advanced)
    assert (
        len(interleave({"a": Counted("a", [])}, rounds=10**9, max_seconds=0.05, warmup_ms=0)["a"])
        < 10**9
    )


def test_tokens_are_within_the_vocabulary_and_unpadded():
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = text_inputs(names).example(Workload.of_text(batch=3, sequence=9), seed=1)
    assert all(a.shape == (3, 9) and a.dtype == np.int64 for a in inputs.values())
    assert (
        inputs["input_ids"].min() >= 60
        and inputs["input_ids"].max() < 120
        and inputs["attention_mask"].all()
    )
    assert not inputs["token_type_ids"].any()


def test_what_runtimes_say_that_they_can_do_is_consistent():
    for name in runtime_names():
        cls = runtime_class(name)
        able = cls.capabilities
        assert cls.name == name and "fp32" in able.precisions
        assert (able.engine_file is None) == (able.engine_suffix is None)
        if able.engine_file:
            assert able.engine_file == f"model{able.engine_suffix}"
        assert able.device == "gpu" or able.engine_file is None
        assert not able.stands_in or able.device == "cpu"  # on any machine
        assert able.uses_threads == (able.device == "cpu")
    preferences = [runtime_class(n).capabilities.preference for n in runtime_names()]
    assert len(set(preferences)) == len(preferences)


def test_runtimes_are_chosen_by_what_they_can_do():
    assert [r.name for r in runtimes_report()] == ["trt", "trt-rtx", "cuda", "ort", "openvino"]
    assert compilers() == locators() == ("trt", "trt-rtx")
    assert builder_elsewhere().name == "trt-rtx"
    assert stand_in("fp32").name == stand_in("fp16").name == "ort"
    if runtime_class("openvino").availability().ok:
        assert stand_in("bf16").name == "openvino"
    with pytest.raises(EnvironmentMissingError, match="none of .* at int3") as error:
        stand_in("int3")
    assert error.value.next_step.startswith("give another --precision")


def test_an_artefact_is_built_where_its_roles_phase_and_precision_fit(file):
    ort = runtime("ort")
    inputs = text_inputs(("input_ids",))
    one = Artefact.of_model(file, inputs, ("output",))
    assert ort.accepts(one, Workload()) is None
    out = ort.build_artefact(one, Workload()).run(INPUTS)["output"]
    np.testing.assert_array_equal(out, ort.build(file, Workload()).run(INPUTS)["output"])
    two = Artefact({r: Graph(file, inputs, ("output",)) for r in ("encoder", "decoder")})
    for artefact, workload, why in (
        (two, Workload(), "not of encoder, decoder"),
        (one, Workload(phase="decode"), "not decode"),
        (one, Workload(precision="bf16"), "not at bf16"),
    ):
        assert why in ort.accepts(artefact, workload)
        with pytest.raises(UsageError, match=why):
            ort.build_artefact(artefact, workload)


def test_only_a_runtime_that_builds_elsewhere_does(file, tmp_path):
    with pytest.raises(UsageError, match="'ort' does not compile for a GPU that is not there"):
        runtime("ort").build_elsewhere(file, Workload(), ("8.9",), tmp_path / "x")
    with pytest.raises(UsageError, match="'trt' does not compile"):
        runtime_class("trt")().require_elsewhere(("8.9",))


def test_an_engine_file_is_found_under_its_earlier_name_too(tmp_path):
    for name, today, earlier in (
        ("trt", "model.engine", "model.plan"),
        ("trt-rtx", "model.rtx.engine", "model.rtx.plan"),
    ):
        compiler = runtime_class(name)()
        assert compiler.kept_engine(tmp_path) is None
        (tmp_path / earlier).write_bytes(b"x")
        assert compiler.kept_engine(tmp_path) == tmp_path / earlier
        (tmp_path / today).write_bytes(b"x")
        assert compiler.kept_engine(tmp_path) == tmp_path / today
    assert runtime_class("ort")().kept_engine(tmp_path) is None


def test_triton_serves_engines_of_tensorrt_alone(monkeypatch):
    import rfx.runtimes.tensorrt.runtime as tensorrt

    for module, served in (("tensorrt", "tensorrt"), ("tensorrt_rtx", None)):
        monkeypatch.setattr(tensorrt, "module_name", lambda target, module=module: module)
        assert runtime_class("trt")().serving_platform() == served
    assert runtime_class("trt-rtx")().serving_platform() is None
    assert runtime("ort").serving_platform() == "onnxruntime"
