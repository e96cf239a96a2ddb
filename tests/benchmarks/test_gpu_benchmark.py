"""The GPU benchmark, run for real on the CPU's runtime at a tiny size: it writes, resumes and says
what it skipped."""

import contextlib
import io
import json
import shutil
import subprocess
import time
from types import SimpleNamespace

import numpy as np
import pytest

import benchmarks.gpu as gpu
import benchmarks.gpu_bench as gpu_bench
import benchmarks.gpu_extras as gpu_extras
from benchmarks.blocks import BlockShape
from benchmarks.gpu_report import half_width, markdown, roofline_ms
from rfx.core.workload import Workload
from rfx.cost import effort
from rfx.cost.table import LatencyTable, TableKey
from rfx.methods.scores.base import Scores
from rfx.runtimes.find import runtime_class

SMALL = [
    "--runtimes",
    "ort",
    "trt",
    "--shapes",
    "tiny",
    "--batches",
    "1",
    "--precisions",
    "fp32",
    "--sequence",
    "16",
    "--seconds",
    "0.2",
    "--targets",
    "0.7",
    "--no-extras",
]


@pytest.fixture(scope="module")
def quick():
    """A smaller model and shorter measurements, for the tests that measure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(effort, "SECONDS", (0.1, 0.5))
        patch.setattr(effort, "ANCHOR_SECONDS", 0.04)
        patch.setattr(effort, "MIN_ROUNDS", 4)
        patch.setitem(gpu.SHAPES, "tiny", (BlockShape(64, 2, 32, 128), 2))
        yield


@pytest.fixture(scope="module")
def measured(quick, tmp_path_factory):
    """(folder of a finished run, what it printed); not to be written to."""
    folder, said = tmp_path_factory.mktemp("gpu"), io.StringIO()
    with contextlib.redirect_stdout(said):
        assert gpu.main(["--out", str(folder), *SMALL]) == 0
    return folder, said.getvalue()


def test_it_measures_and_writes(measured):
    folder, said = measured
    result = json.loads((folder / "gpu.json").read_text())
    row = next(r for r in result["rows"] if r["config"]["runtime"] == "ort")
    assert (
        row["done"]
        and row["dense_ms"] > 0
        and 0 < row["targets"][0]["ratio"] < 1
        and row["flops_half"]["flops"] <= 0.5
    )
    assert {"chosen_ratio", "rounds", "landed"} <= set(row["targets"][0])
    assert row["work"]["flop"] > 0
    assert "0.7" in (folder / "gpu.md").read_text() and "| ort | tiny | 1 x 16 |" in said
    if not runtime_class("trt").availability().ok:
        assert "NVIDIA driver" in result["skipped"]["trt"]


def test_what_is_measured_is_not_measured_again(measured, tmp_path, monkeypatch):
    shutil.copytree(measured[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(gpu, "run_config", lambda *a, **k: pytest.fail("measured twice"))
    assert gpu.main(["--out", str(tmp_path), *ORT]) == 0
    text = (tmp_path / "gpu.md").read_text()
    assert "Dropped at batch 1" in text and "What width is worth" in text


ORT = ["--runtimes", "ort", *SMALL[3:]]


def test_quantized_models_are_measured_beside_the_others(quick, tmp_path):
    """On the CPU by its own quantizer: the same code as on a GPU, where modelopt is it."""
    asked = [x if x != "fp32" else "int8" for x in ORT]
    assert gpu.main(["--out", str(tmp_path), *asked]) == 0
    (row,) = rows(tmp_path)
    assert row["done"] and row["config"]["precision"] == "int8" and row["quantizer"] == ""
    assert row["table"]["key"]["precision"] == "int8" and 0 < row["targets"][0]["ratio"] < 1
    assert list(row["against"]) == ["fp32"] and row["against"]["fp32"]["ratio"] > 0
    assert "| int8 | fp32 |" in (tmp_path / "gpu.md").read_text()


def test_what_cannot_be_quantized_here_is_skipped_and_named(tmp_path, monkeypatch):
    from rfx.export.quantizers import modelopt

    trt = runtime_class("trt")
    monkeypatch.setattr(modelopt.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(trt, "device", lambda self: "NVIDIA Orin (sm87)")
    skipped: dict[str, str] = {}
    configs = [
        {"runtime": name, "precision": precision}
        for name, precision in (("trt", "fp16"), ("trt", "int8"), ("trt", "fp8"), ("ort", "fp8"))
    ]
    assert gpu.possible(configs, skipped) == configs[:1]
    assert "nvidia-modelopt" in skipped["trt int8"] and "8.7" in skipped["trt fp8"]
    assert skipped["ort fp8"] == "ort does not run at fp8"


def rows(folder):
    return json.loads((folder / "gpu.json").read_text())["rows"]


def test_one_that_fails_is_recorded_and_tried_again_last(tmp_path, monkeypatch):
    tried = []

    def fails_first(config, store, progress, targets, seconds, row, save):
        tried.append(config["batch"])
        if tried == [1]:
            raise MemoryError("out of memory allocating 3 bytes")
        row["done"] = True

    monkeypatch.setattr(gpu, "run_config", fails_first)
    two = list(ORT)
    assert gpu.main(["--out", str(tmp_path), *two]) == 0
    assert (
        "MemoryError: out of memory" in rows(tmp_path)[0]["error"]
        and "done" not in rows(tmp_path)[0]
    )
    assert "tried again" in (tmp_path / "gpu.md").read_text()
    two[two.index("--batches") + 1 : two.index("--batches") + 2] = ["1", "8"]
    assert gpu.main(["--out", str(tmp_path), *two]) == 0
    assert tried == [1, 8, 1] and all(r["done"] and "error" not in r for r in rows(tmp_path))


def test_out_of_time_leaves_a_row_that_goes_on(measured, tmp_path, monkeypatch):
    shutil.copytree(measured[0] / "cache", tmp_path / "cache")  # a table that is there is taken
    real = gpu.Bench.dense_ms

    def then_late(bench, dense, seconds):
        bench.progress._deadline = 0.0
        return real(bench, dense, seconds)

    with monkeypatch.context() as patch:
        patch.setattr(gpu.Bench, "dense_ms", then_late)
        assert gpu.main(["--out", str(tmp_path), *ORT]) == 0
    (row,) = rows(tmp_path)
    assert row["dense_ms"] > 0 and "table" not in row and "done" not in row and "error" not in row
    assert "out of time" in (tmp_path / "gpu.md").read_text()
    monkeypatch.setattr(
        gpu.Bench,
        "at_flops",
        lambda *a: {"flops": 0.5, "speedup": 1.5, "ratio": 0.7, "interval": (0.6, 0.8)},
    )
    monkeypatch.setattr(
        gpu.Bench,
        "at_target",
        lambda self, dense, table, target, seconds: {"target": target, "infeasible": "x"},
    )
    assert gpu.main(["--out", str(tmp_path), *ORT]) == 0
    assert rows(tmp_path)[0]["done"] and rows(tmp_path)[0]["table"]


def test_a_bug_does_not_exit_as_a_failed_gate(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "configurations", lambda args: 1 / 0)
    assert gpu.main(["--out", str(tmp_path), *ORT]) == 6


def test_landing_is_judged_by_a_measurement_that_did_not_choose(monkeypatch):
    seeds = []

    def pair(self, dense, counts, seconds, target=None, seed=gpu_bench.SEED):
        seeds.append(seed)
        ratio = 0.68 if seed == gpu_bench.SEED else 0.71
        return SimpleNamespace(
            ratio=ratio, interval=(0.7, 0.72), speedup=1 / ratio, model_dump=lambda mode: {}
        )

    monkeypatch.setattr(gpu.Bench, "pair", pair)
    bench = gpu.Bench.__new__(gpu.Bench)
    bench.shape, bench.layers, bench.inputs = BlockShape(64, 4, 16, 256), 3, None
    bench.sites, bench.workload = gpu_bench.sites_of(bench.shape, bench.layers), Workload()
    bench.scores = Scores({s.name: np.ones(s.units) for s in bench.sites})
    curves = {
        "mha": {n: 0.1 + 0.1 * n for n in range(5)},
        "ffn": {n: 0.1 + 0.001 * n for n in range(0, 257, 32)},
    }
    key = TableKey("ort", "v", "d", "c", 1, "fp32", 1, 128, 64, 4, 16, 256, "post-ln/gelu")
    found = bench.at_target(None, LatencyTable(key, curves, 0.1, 3), 0.7, 0.1)
    assert seeds == [gpu_bench.SEED, gpu_bench.SEED + 1]
    assert found["chosen_ratio"] == 0.68 and found["ratio"] == 0.71 and not found["landed"]


def test_what_failed_or_was_cut_short_is_measured_again():
    assert all(
        gpu_extras.wanted(v)
        for v in (None, "failed: x", "skipped: y", {"a": 1, "out_of_time": "z"})
    )
    assert not gpu_extras.wanted({"a": 1})


def test_pruning_has_no_more_time_than_the_budget(monkeypatch):
    given = []

    def run(command, timeout, **more):
        given.append(timeout)
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(gpu_extras.subprocess, "run", run)
    for left, most in ((50.0, 50.0), (5000.0, 300.0)):
        with pytest.raises(subprocess.TimeoutExpired):
            gpu_extras.pruning_time(time.monotonic() + left)
        assert most - 5 < given[-1] <= most


def test_what_stands_beside_waits_for_the_first_configuration(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(gpu, "run_config", lambda config, *a: order.append(config["batch"]))
    monkeypatch.setattr(gpu_extras, "extras", lambda done, deadline, save: order.append("beside"))
    arguments = [a for a in ORT if a != "--no-extras"]
    arguments[arguments.index("--batches") + 1 : arguments.index("--batches") + 2] = ["1", "8"]
    assert gpu.main(["--out", str(tmp_path), *arguments]) == 0
    assert order == [1, "beside", 8]


def test_the_report_says_what_a_width_is_worth():
    assert half_width({"0": 1.0, "32": 2.9, "64": 3.0})["saved"] == pytest.approx(0.05)
    row = {
        "config": {
            "runtime": "trt",
            "shape": "bert-base",
            "batch": 1,
            "sequence": 128,
            "precision": "fp16",
        },
        "dense_ms": 1.0,
        "work": {"flop": 1e9, "bytes": 1e9},
    }
    roof = {"roofline": {"fp16_tflop_s": 1.0, "copy_gb_s": 100.0}}
    assert roofline_ms(row, roof) == pytest.approx(10.0) and roofline_ms(row, {}) is None
    floor = {"torch_floor": {"bert-base fp16 dense 1x128 ms": 0.777}}
    assert "| 10.000 | 0.777 |" in markdown({"rows": [row], "extras": roof | floor})


def test_without_time_or_a_runtime_it_says_so(tmp_path, capsys):
    assert (
        gpu.main(
            ["--out", str(tmp_path), "--budget-seconds", "-1", "--runtimes", "ort", *SMALL[3:]]
        )
        == 0
    )
    assert "out of time" in (tmp_path / "gpu.md").read_text()
    if not runtime_class("trt").availability().ok:
        assert gpu.main(["--out", str(tmp_path / "none"), "--runtimes", "trt", "--no-extras"]) == 4
        assert "rfx env" in capsys.readouterr().err


def test_the_paper_setting_comes_first(tmp_path):
    args = gpu._arguments(["--out", str(tmp_path)])
    rows = gpu.configurations(args)
    assert rows[0] == {
        "runtime": "trt",
        "shape": "bert-base",
        "batch": 128,
        "sequence": 128,
        "precision": "fp16",
    }
    assert len(rows) == 3 * 2 * 4 * 2 and {
        r["sequence"] for r in rows if r["batch"] == 32 and r["shape"] == "bert-base"
    } == {384}
