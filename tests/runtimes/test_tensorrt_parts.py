"""TensorRT's code on stand-ins: what a GPU would show only when it fails, runs short of memory, or
is not the first."""

import hashlib
import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import rfx.runtimes.gpu as gpu
import rfx.runtimes.tensorrt.build as build
import rfx.runtimes.tensorrt.log as log
import rfx.runtimes.tensorrt.runtime as tensorrt
from rfx.core.errors import EnvironmentMissingError, ExitCode, UnsupportedModelError, UsageError
from rfx.core.store import Store
from rfx.core.workload import Workload
from rfx.runtimes.base import EngineOptions
from rfx.runtimes.find import runtime_class
from rfx.runtimes.tensorrt.engine import TrtEngine
from rfx.runtimes.tensorrt.file import build_ahead, read_engine_file


class Stream:
    """Keeps what it is told in `said`."""

    ptr = 7

    def __init__(self, non_blocking=False):
        self.said = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False

    def synchronize(self):
        self.said.append("wait")

    def begin_capture(self):
        self.said.append("begin")

    def end_capture(self):
        self.said.append("end")
        return SimpleNamespace(launch=lambda stream: stream.said.append("graph"))


class Event:
    def record(self, stream):
        stream.said.append("event")

    def synchronize(self):
        pass


class Array(np.ndarray):
    """Of the device."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)


@pytest.fixture
def cupy(monkeypatch):
    module = ModuleType("cupy")
    freed = []
    module.freed = freed
    module.cuda = SimpleNamespace(Stream=Stream, Event=Event, get_elapsed_time=lambda a, b: 1.5)
    module.asarray = lambda a: np.array(a).view(Array)
    module.empty = lambda shape, dtype: np.empty(shape, dtype).view(Array)
    module.asnumpy = lambda a, stream=None: np.array(a)
    pool = SimpleNamespace(free_all_blocks=lambda: freed.append(True))
    module.get_default_memory_pool = module.get_default_pinned_memory_pool = lambda: pool
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def fake_trt(name="tensorrt", **more):
    module = ModuleType(name)
    module.__version__ = "11.4.0"
    module.ILogger = type("ILogger", (), {"__init__": lambda self: None})
    module.nptype = lambda t: t
    module.TensorIOMode = SimpleNamespace(INPUT="in")
    for key, value in more.items():
        setattr(module, key, value)
    log._loggers.pop(name, None)
    return module


@pytest.fixture(autouse=True)
def own_loggers(monkeypatch):
    monkeypatch.setattr(log, "_loggers", {})


class FakeEngine:
    num_io_tensors = 2

    def __init__(self, refuses_capture=False):
        self.refuses, self.stream = refuses_capture, None
        self.contexts = []

    def get_tensor_name(self, i):
        return ("ids", "output")[i]

    def get_tensor_mode(self, name):
        return "in" if name == "ids" else "out"

    def get_tensor_dtype(self, name):
        return np.int64 if name == "ids" else np.float32

    def create_execution_context(self, *config):
        self.contexts.append(config)

        def enqueue(ptr):
            said = self.stream().said
            if self.refuses and said[-1:] == ["begin"]:
                raise ValueError("capture is not permitted")
            said.append("enqueue")
            return True

        return SimpleNamespace(
            set_input_shape=lambda n, s: True,
            set_tensor_address=lambda n, p: True,
            get_tensor_shape=lambda n: (2, 3),
            execute_async_v3=enqueue,
        )

    def create_runtime_config(self):
        return SimpleNamespace()

    def serialize(self):
        return b"a plan"


def engine_of(inner, trt=None, facts=None):
    engine = TrtEngine(trt or fake_trt(), object(), inner, {} if facts is None else facts)
    inner.stream = lambda: engine.stream
    return engine


IDS = {"ids": np.ones((2, 3), np.int64)}


def test_a_builder_that_cuda_refuses_is_of_the_environment():
    def refuse(logger):
        logger.log(1, "[checkMacros] CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt = fake_trt(Builder=refuse, Runtime=refuse)
    for make in (log.new_builder, log.new_runtime):
        with pytest.raises(EnvironmentMissingError, match="CUDA initialization failure") as error:
            make(trt)
        assert error.value.exit_code == ExitCode.ENVIRONMENT and "driver" in error.value.next_step


@pytest.mark.parametrize(
    "said, kind",
    [
        ("Error Code 1: Cuda Runtime (cudaError 35)", EnvironmentMissingError),
        ("[defaultAllocator.cpp] OutOfMemory (no further information)", EnvironmentMissingError),
        (
            "Requested amount of GPU memory could not be allocated: out of memory",
            EnvironmentMissingError,
        ),
        ("Skipping tactic 0 due to insufficient memory on requested size", EnvironmentMissingError),
        ("Could not find any implementation for node {ForeignNode}", UnsupportedModelError),
    ],
)
def test_a_failed_build_is_the_machines_fault_or_the_models(said, kind):
    trt = fake_trt()
    log.logger(trt).log(1, said)
    log.logger(trt).log(1, "Could not build")
    error = log.failure(trt, "TensorRT cannot build an engine from this model.")
    assert type(error) is kind and said[:20] in error.render()


def test_early_errors_are_not_pushed_out_by_verbose_lines():
    heard = log.logger(fake_trt())
    heard.log(1, "the first error")
    for i in range(log._KEPT_LINES + 5):
        heard.log(4, f"line {i}")
    for i in range(3 * log._KEPT_PROBLEMS):
        heard.log(2, f"warning {i}")
    heard.log(1, "the last error")
    assert log.complaints(SimpleNamespace(__name__="tensorrt")) == "the first error; the last error"
    assert len(heard.lines) == log._KEPT_LINES and len(heard.problems) <= 2 * log._KEPT_PROBLEMS


def test_the_inspectors_layers_are_read():
    text = json.dumps(
        {
            "Layers": [
                {
                    "Name": "ffn",
                    "LayerType": "gemm",
                    "Outputs": [{"Name": "y", "Dimensions": [2, 16, 416]}],
                    "Weights": {"Type": "Half", "Count": 9},
                },
                {"Name": "norm", "LayerType": "kgen", "Outputs": []},
                "a name alone",
            ],
            "Bindings": [],
        }
    )
    trt = SimpleNamespace(LayerInformationFormat=SimpleNamespace(JSON="json"))
    engine = SimpleNamespace(
        create_engine_inspector=lambda: SimpleNamespace(get_engine_information=lambda _: text)
    )
    assert log.inspected_layers(trt, engine) == [
        "gemm: ffn [2,16,416] 9 weights",
        "kgen: norm",
        "a name alone",
    ]
    broken = SimpleNamespace(
        create_engine_inspector=lambda: SimpleNamespace(get_engine_information=lambda _: "no JSON")
    )
    assert log.inspected_layers(trt, broken) == []


def test_version_compatible_engines_of_rtx_are_refused_at_once(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    options = EngineOptions(version_compatible=True)
    with pytest.raises(UsageError, match="--version-compatible"):
        build_ahead(tmp_path / "none.onnx", Workload(), options, ("8.9",))
    with pytest.raises(UsageError, match="--version-compatible"):
        runtime_class("trt-rtx")(options)
    if not gpu.gpu_count()[0]:
        runtime_class("trt")(options)  # it may be for a board that has TensorRT itself


@pytest.fixture
def one_gpu(monkeypatch):
    monkeypatch.setattr(tensorrt, "gpu_count", lambda: (1, ""))
    monkeypatch.setattr(tensorrt, "_broken", lambda module: None)
    real = tensorrt.importlib.util.find_spec
    monkeypatch.setattr(
        tensorrt.importlib.util,
        "find_spec",
        lambda name: object() if name == "cupy" else real(name),
    )


def test_a_gpu_that_rtx_does_not_compile_for_is_said_before_anything_is_built(one_gpu, monkeypatch):
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(tensorrt, "module_name", lambda target: "tensorrt_rtx")
    for name in ("trt", "trt-rtx"):
        monkeypatch.setattr(tensorrt, "compute_capability", lambda: (9, 0))
        here = runtime_class(name).availability()
        assert (
            not here.ok
            and "compute capability 9.0" in here.reason
            and "--target cuda" in here.next_step
        )
        monkeypatch.setattr(tensorrt, "compute_capability", lambda: (12, 0))
        assert runtime_class(name).availability().ok


def test_a_cupy_that_sees_no_gpu_is_what_has_to_be_installed(cupy, monkeypatch):
    cupy.cuda.is_available = lambda: False
    monkeypatch.setattr(tensorrt, "library", lambda target: None)
    monkeypatch.setattr(tensorrt, "new_builder", lambda trt: None)
    reason, step = tensorrt._broken.__wrapped__("tensorrt")
    assert "CuPy" in reason and "cupy-cuda13x" in step


def test_a_library_that_lacks_its_own_libraries_is_said_in_its_words(monkeypatch, tmp_path):
    lacking = "libnvinfer.so.10: cannot open shared object file"
    (tmp_path / "tensorrt_of_halves.py").write_text(f"raise OSError({lacking!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(build, "module_name", lambda target: "tensorrt_of_halves")
    with pytest.raises(EnvironmentMissingError, match="installed but cannot be loaded") as error:
        build.library("trt")
    assert error.value.got == lacking and "install it again" in error.value.next_step


def test_rtx_serves_trt_where_tensorrt_is_too_old(monkeypatch):
    there = {"tensorrt", "tensorrt_rtx"}
    monkeypatch.setattr(
        build.importlib.util, "find_spec", lambda name: object() if name in there else None
    )
    for version, serves in (
        ("10.3.0", "tensorrt_rtx"),
        ("10.13.2", "tensorrt"),
        ("of unknown version", "tensorrt"),
    ):
        monkeypatch.setattr(build, "installed_version", lambda module, version=version: version)
        assert build.module_name("trt") == serves
    there.discard("tensorrt_rtx")
    monkeypatch.setattr(build, "installed_version", lambda module: "10.3.0")
    assert build.module_name("trt") == "tensorrt"  # to be named as too old


def test_every_option_is_part_of_the_version_that_tables_are_kept_under():
    said = {
        runtime_class("trt")(options).version()
        for options in (
            EngineOptions(),
            EngineOptions(max_batch=8),
            EngineOptions(max_sequence=256),
            EngineOptions(workspace_mb=64),
            EngineOptions(builder_level=4),
            EngineOptions(hardware_compatible=True),
        )
    }
    assert len(said) == 6
    assert (
        runtime_class("trt")(EngineOptions(builder_level=3)).version()
        == runtime_class("trt")().version()
    )


def test_widths_stand_on_the_tiles_of_the_precision():
    for name in ("trt", "trt-rtx", "cuda"):
        assert [runtime_class(name)().grid("ffn", p) for p in ("fp32", "fp16", "bf16")] == [
            32,
            64,
            64,
        ]
    assert runtime_class("ort")().grid("ffn", "fp32") == 32
    assert {runtime_class(n)().grid("mha", "fp16") for n in ("trt", "cuda", "ort")} == {1}


def test_what_is_stated_of_a_measurement():
    said = runtime_class("trt")().measurement(Workload())
    assert (
        said["spin_wait"]
        and said["tf32"]
        and said["builder_level"] == 3
        and said["host_memory"] == "pageable"
    )
    assert "tf32" not in runtime_class("trt")().measurement(Workload.of_text(precision="fp16"))


def test_the_timed_launch_is_queued_behind_another(cupy):
    engine = engine_of(FakeEngine())
    run = engine.bind(IDS)
    assert engine.stream.said[-3:] == ["begin", "enqueue", "end"] and run.measurement() == {}
    engine.stream.said.clear()
    assert run.time_ms() == 1.5
    assert engine.stream.said == ["graph", "event", "graph", "event"]


def test_an_engine_that_cannot_be_captured_is_enqueued_and_said_to_be(cupy):
    engine = engine_of(FakeEngine(refuses_capture=True))
    run = engine.bind(IDS)
    assert "end" in engine.stream.said  # the stream is not left capturing
    engine.stream.said.clear()
    run.time_ms()
    assert engine.stream.said == ["enqueue", "event", "enqueue", "event"]
    assert run.measurement() == {
        "cuda_graph": False,
        "cuda_graph_refused": "capture is not permitted",
    }


def test_outputs_of_the_timed_graph_are_blank_before_it_runs(cupy):
    run = engine_of(FakeEngine()).bind(IDS)
    assert np.isnan(
        run.outputs()["output"]
    ).all()  # the stand-in's graph computes nothing, and that is seen


def test_closing_gives_back_buffers_that_are_still_held(cupy):
    engine = engine_of(FakeEngine())
    first, second = engine.bind(IDS), engine.bind(IDS)
    assert first._buffers.stream is second._buffers.stream is engine.stream
    engine.close()
    engine.close()
    assert not first._buffers.device_outputs and first._buffers.context is None and cupy.freed


def test_a_plan_is_serialised_when_it_is_saved(tmp_path):
    facts = {"engine_bytes": 1, "engine_sha256": "of the builder"}
    engine = engine_of(FakeEngine(), facts=facts)
    assert not [v for v in vars(engine).values() if isinstance(v, bytes)]
    plan, read = read_engine_file(engine.save(tmp_path / "m.engine"))
    assert (
        plan == b"a plan"
        and read["engine_sha256"]
        == hashlib.sha256(plan).hexdigest()
        == engine.facts["engine_sha256"]
    )


def test_inputs_of_another_kind_are_refused_not_cast():
    engine = engine_of(FakeEngine())
    with pytest.raises(UsageError, match="float32") as error:
        engine.fed({"ids": np.ones((2, 3), np.float32)})
    assert "int64" in str(error.value.allowed)
    assert engine.fed({"ids": np.ones((2, 3), np.int32)})["ids"].dtype == np.int64


def test_rtx_compiles_for_a_shape_only_where_it_is_timed(cupy):
    strategies = SimpleNamespace(EAGER="eager", LAZY="lazy")
    engine = engine_of(
        FakeEngine(),
        trt=fake_trt("tensorrt_rtx", DynamicShapesKernelSpecializationStrategy=strategies),
    )
    engine.new_context()
    engine.new_context(timed=True)
    chosen = [
        config[0].dynamic_shapes_kernel_specialization_strategy for config in engine.engine.contexts
    ]
    assert chosen == ["lazy", "eager"]


def test_a_timing_cache_that_tensorrt_refuses_is_said_and_made_again(tmp_path):
    """Whole in the store, but of no use to this TensorRT."""
    said, taken = [], []
    store = Store(tmp_path, warn=said.append)
    trt, options = SimpleNamespace(__version__="11.4.0"), EngineOptions(store=store)

    class Config:
        def create_timing_cache(self, data):
            return SimpleNamespace(data=data, serialize=lambda: b"timings")

        def set_timing_cache(self, cache, ignore_mismatch):
            taken.append(cache.data)
            return cache.data != b"refused"

        def get_timing_cache(self):
            return self.create_timing_cache(b"")

    first = build.TimingCache(trt, Config(), options, "a GPU")
    assert first.origin == "new"
    store.put_folder(
        "timing-cache", first._key, lambda f: (f / "timing.cache").write_bytes(b"refused") and None
    )
    again = build.TimingCache(trt, Config(), options, "a GPU")
    assert again.origin == "new" and taken == [b"", b"refused", b""] and "timing cache" in said[0]
    again.keep()
    assert (
        build.TimingCache(trt, Config(), options, "a GPU").origin == "kept"
        and taken[-1] == b"timings"
    )


def test_nvml_is_asked_of_the_gpu_that_cuda_sees_first(monkeypatch):
    nvml = SimpleNamespace(
        nvmlDeviceGetHandleByPciBusId=lambda bus: {b"0000:9b:00.0": "the second"}[bus],
        nvmlDeviceGetHandleByIndex=lambda i: f"number {i}",
    )
    for bus, handle in (
        ("0000:9b:00.0", "the second"),
        ("0000:00:00.0", "number 0"),
        ("", "number 0"),
    ):
        monkeypatch.setattr(gpu, "pci_bus_id", lambda bus=bus: bus)
        assert gpu._nvml_device(nvml) == handle


def test_groups_of_a_table_take_a_quarter_of_the_free_memory(cupy):
    cupy.cuda.runtime = SimpleNamespace(memGetInfo=lambda: (8 << 30, 16 << 30))
    for name in ("trt", "cuda"):
        assert runtime_class(name)().group_bytes() == 2 << 30
    assert runtime_class("ort")().group_bytes() == 1 << 29


def test_a_pair_is_recorded_without_a_graph_if_either_had_none(cupy):
    from rfx.measure.latency import run_facts

    dense, pruned = (
        engine_of(FakeEngine()).bind(IDS),
        engine_of(FakeEngine(refuses_capture=True)).bind(IDS),
    )
    assert run_facts({"dense": dense, "pruned": dense}) == {}
    assert run_facts({"dense": pruned, "pruned": dense})["cuda_graph"] is False
