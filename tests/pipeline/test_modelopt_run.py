"""Whole jobs in INT8 and FP8 for TensorRT, where modelopt quantizes: what is refused before any
work, and the way through a board's table on a machine without a GPU.

The latter needs modelopt: `pip install 'rfx-exporter[modelopt]'`, without the extra `cpu`.
"""

import importlib.util
import json
import shutil

import onnx
import pytest

from rfx.evidence.read import read_evidence
from rfx.evidence.sound import contradictions
from rfx.export.quantizers import modelopt
from rfx.export.quantizers.modelopt import PACKAGES, Modelopt
from rfx.pipeline.choose import candidates
from rfx.recipe.spec import Recipe
from rfx.runtimes.find import runtime_class
from tests.commands import STANDARD, given, run
from tests.conftest import made_once

ASKED = STANDARD | {"target": "trt", "precision": "int8"}
ORIN, ADA = "NVIDIA Orin (sm87)", "NVIDIA L4 (sm89)"
needs_modelopt = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in PACKAGES),
    reason="nvidia-modelopt is not installed (extra modelopt, without the extra cpu)",
)
no_gpu = pytest.mark.skipif(runtime_class("trt").availability().ok, reason="TensorRT runs here")
both = pytest.mark.parametrize("precision", ["int8", "fp8"])


@pytest.fixture(scope="module")
def table(trained, closed, tmp_path_factory, short_measurements):
    """A table measured here with ONNX Runtime, under any other key."""
    folder = tmp_path_factory.mktemp("table")
    shutil.copytree(closed.store, folder / "cache")
    arguments = ("profile", trained["model"], "--target", "ort", "--sequence", 16, "--quiet")
    made = run(*arguments, "--out", folder / "t.json", RFX_CACHE=str(folder / "cache"))
    assert made.exit_code == 0, made.output
    data = json.loads((folder / "t.json").read_text())

    def of(precision: str, device: str = ADA, **key):
        board = {"runtime": "trt", "version": "tensorrt 11.4.0.106", "clock": "GPU compute time"}
        board["quantizer"] = Modelopt(precision).table_method()
        new = {**data["key"], **board, "device": device, "precision": precision, **key}
        file = folder / f"{len(list(folder.iterdir()))}.json"
        file.write_text(json.dumps({**data, "key": new}))
        return file

    return of


def refused(done, code: int, *says: str) -> dict:
    assert done.exit_code == code, done.output
    error = json.loads(done.stdout)["error"]
    said = " ".join(str(part) for part in error.values())
    assert all(text in said for text in says), (says, error)
    assert "stage" not in done.stderr.lower(), "there was work before it was said"
    return error


def commands(trained, table, out):
    """Each job that makes quantized files, with the word that tells whether it needs the runtime
    itself."""
    asked = given(trained, **ASKED, out=out)
    model = [str(trained["model"]), "--target", "trt", "--precision", "int8"]
    return {
        "prune-export": [*asked, "--latency", "0.7", "--table", str(table)],
        "sweep": [*asked, "--latency", "0.7,0.5", "--table", str(table)],
        "plan": [*given(trained, **ASKED), "--latency", "0.7", "--table", str(table)],
        "shapes": [*model, "--task", "text-classification", "--out", str(out)],
        "profile": [*model, "--task", "text-classification", "--out", str(out)],
    }


@no_gpu
@pytest.mark.parametrize("command", ["prune-export", "sweep", "plan", "shapes", "profile"])
def test_without_modelopt_every_job_says_so_before_any_work(
    trained, table, cache, tmp_path, monkeypatch, command
):
    arguments = commands(trained, table("int8"), tmp_path / "out")[command]
    if command == "profile":  # which otherwise says that there is no GPU
        monkeypatch.setattr(runtime_class("trt"), "availability", runtime_class("ort").availability)
    monkeypatch.setattr(modelopt.importlib.util, "find_spec", lambda name: None)
    done = run(command, *arguments, "--json")
    refused(done, 4, "nvidia-modelopt", "rfx-exporter[modelopt]", "no modelopt", "fp16")
    assert not (tmp_path / "out").exists()


@no_gpu
def test_auto_asks_for_modelopt_before_it_makes_anything(
    trained, table, cache, tmp_path, monkeypatch
):
    asked = given(trained, **ASKED | {"precision": "auto"}, out=tmp_path / "out")
    monkeypatch.setattr(runtime_class("trt"), "availability", runtime_class("ort").availability)
    monkeypatch.setattr(modelopt.importlib.util, "find_spec", lambda name: None)
    refused(run("prune-export", *asked, "--latency", "0.7", "--json"), 4, "nvidia-modelopt")


def test_auto_leaves_out_what_the_gpu_does_not_have(monkeypatch):
    trt = runtime_class("trt")
    monkeypatch.setattr(modelopt.importlib.util, "find_spec", lambda name: object())
    found = {}
    for device in (ORIN, ADA, "NVIDIA H200 (sm90)", "no GPU"):
        monkeypatch.setattr(trt, "device", lambda self, device=device: device)
        found[device] = candidates(Recipe(model="m", target="trt"), trt())
    every = ("fp32", "int8", "fp8")
    assert list(found.values()) == [("fp32", "int8"), every, every, every]


@pytest.mark.parametrize("target", ["ort", "openvino"])
def test_fp8_is_for_tensorrt_alone(trained, cache, tmp_path, target):
    if not runtime_class(target).availability().ok:
        pytest.skip(f"{target} is not installed")
    asked = ASKED | {"target": target, "precision": "fp8", "latency": 0.7}
    done = run("prune-export", *given(trained, **asked, out=tmp_path / "out"), "--json")
    error = refused(done, 2, f"'{target}' does not run at this precision", "fp32", "int8")
    assert error["got"] == "fp8" and "--target trt" in error["next_step"]


@no_gpu
def test_fp8_is_refused_for_gpus_that_do_not_have_it(trained, table, cache, tmp_path):
    asked = given(trained, **ASKED | {"precision": "fp8", "latency": 0.7}, out=tmp_path / "out")
    at = ["prune-export", *asked, "--json", "--table"]
    refused(run(*at, table("fp8", ORIN)), 2, "Orin (sm87): 8.7", "8.9 or more for fp8")
    if importlib.util.find_spec("tensorrt_rtx") is not None:
        more = ["--compute-capability", "8.6", "--compute-capability", "12.0"]
        error = refused(run(*at, table("fp8"), *more), 2, "8.9 or more")
        assert "8.6" in error["got"] and "12.0" not in error["got"]


def test_a_board_refuses_fp8_that_its_gpu_does_not_have(tmp_path, monkeypatch):
    from rfx import board
    from rfx.core.errors import UsageError
    from rfx.core.store import Store
    from rfx.core.workload import Workload

    trt = runtime_class("trt")
    monkeypatch.setattr(trt, "availability", runtime_class("ort").availability)
    monkeypatch.setattr(trt, "device", lambda self: ORIN)
    bundle = type("Shapes", (), {"max_sequence": 32})()
    with pytest.raises(UsageError, match="cannot compute in fp8"):
        board.profile(
            bundle,
            target="trt",
            workload=Workload.of_text(precision="fp8"),
            store=Store(tmp_path / "cache"),
            progress=board._Lines(quiet=True),
        )


@no_gpu
@pytest.mark.parametrize("target", ["ort", "openvino", "trt"])
def test_a_table_of_files_that_something_else_quantized_is_refused(
    trained, table, cache, tmp_path, target
):
    its = runtime_class(target)
    if target != "trt" and not its.availability().ok:
        pytest.skip(f"{target} is not installed")
    if target == "trt" and any(importlib.util.find_spec(n) is None for n in PACKAGES):
        pytest.skip("nvidia-modelopt is not installed")
    key = {"runtime": target, "quantizer": "a tool 1.0, by hand"}
    if target != "trt":
        key |= {"version": its().version(), "device": its().device(), "clock": its.clock}
    asked = given(trained, **ASKED | {"target": target, "latency": 0.7}, out=tmp_path / "out")
    done = run("prune-export", *asked, "--json", "--table", table("int8", **key))
    error = refused(done, 2, "quantized in another way", f"--target {target} --precision int8")
    own = {"ort": "the runtime itself", "openvino": "nncf", "trt": "nvidia-modelopt"}[target]
    assert "a tool 1.0, by hand" in error["got"] and f"here: {own}" in error["got"]
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def built(trained, table, tmp_path_factory):
    """prune-export by a board's table, at a precision."""

    def of(precision: str):
        def make(folder):
            asked = given(
                trained,
                **ASKED | {"precision": precision, "latency": 0.7},
                max_drop=20,
                table=table(precision),
                out=folder / "out",
            )
            ahead = ["--compute-capability", "8.9"] if _has_rtx() else []
            done = run("prune-export", *asked, *ahead, "--json", RFX_CACHE=str(folder / "store"))
            assert done.exit_code == 7, done.output
            json.loads(done.stdout)  # and not a line of modelopt's

        return made_once(tmp_path_factory, f"modelopt-{precision}-run", make) / "out"

    return of


def _has_rtx() -> bool:
    return importlib.util.find_spec("tensorrt_rtx") is not None


@needs_modelopt
@no_gpu
@both
def test_a_boards_table_goes_through_and_accuracy_is_that_of_the_quantized_file(
    built, tmp_path, precision
):
    out = built(precision)
    evidence = json.loads((out / "evidence.json").read_text(encoding="utf-8"))
    assert {g["name"]: g["outcome"] for g in evidence["gates"]} == {
        "shrunk": "pass",
        "same": "pass",
        "quantized": "inconclusive",
        "accuracy": "pass",
        "agreement": "pass",
        "latency": "inconclusive",
    }
    assert list(contradictions(read_evidence(out))) == []
    part, rival = evidence["quantization"], evidence["rival"]
    assert part["mismatches"] == [] and part["ratio"] is None and part["quantization"] > 0
    assert "nvidia-modelopt" in part["method"] and f", {precision}, " in part["method"]
    assert part["bytes"] < part["fp32_bytes"]
    assert rival["precision"] == precision and rival["latency"] is None
    assert evidence["latency"] is None and "rfx verify" in evidence["warnings"][0]
    plain, made = (onnx.load(out / n) for n in ("model.fp32.onnx", "model.onnx"))
    assert Modelopt(precision).compare(plain, made) == (part["products"], [])
    assert (out / "model.rtx.engine").is_file() == _has_rtx()
    assert list(out.glob("triton/*/1/model.onnx"))
    assert run("gate", out).exit_code == 7
    assert run("gate", out, "--allow-inconclusive").exit_code == 0


@needs_modelopt
@no_gpu
def test_shapes_of_quantized_models_are_packed(trained, cache, tmp_path, short_measurements):
    from rfx.cost.bundle import Bundle
    from rfx.export.quantizers.qdq import weak_scales

    asked = ["--task", "text-classification", "--target", "trt", "--precision", "int8"]
    sizes = ["--sequence", 16, "--max-length", 32]
    done = run("shapes", trained["model"], *asked, *sizes, "--out", tmp_path / "s.json", "--json")
    assert done.exit_code == 0, done.output
    bundle = Bundle(tmp_path / "s.json")
    assert bundle.quantizer == Modelopt("int8").table_method()
    assert (tmp_path / "s.json").stat().st_size < 1_500_000
    for name in ("dense", "plan/0"):
        model = onnx.load(bundle.model(name, tmp_path), load_external_data=False)
        assert weak_scales(model) == []
        assert sum(n.op_type == "DequantizeLinear" for n in model.graph.node) > 5
