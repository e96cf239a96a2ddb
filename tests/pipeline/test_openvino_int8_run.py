"""A whole prune-export in INT8 for OpenVINO, where NNCF quantizes."""

import importlib.util
import json

import numpy as np
import onnx
import pytest

from rfx.evidence.read import read_evidence
from rfx.evidence.sound import contradictions
from rfx.export.quantizers import nncf
from rfx.export.quantizers.nncf import Nncf
from rfx.pipeline import quantizing
from rfx.runtimes.find import runtime_class
from tests.commands import STANDARD, given, run
from tests.conftest import made_once

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nncf") is None or not runtime_class("openvino").availability().ok,
    reason="NNCF or OpenVINO is not installed (extra openvino)",
)
ASKED = STANDARD | {"target": "openvino", "precision": "int8", "flops": 0.5}
TIMED = ("latency", "quantized")  # a tiny model is no faster in integers


@pytest.fixture(scope="module")
def built(trained, tmp_path_factory, short_measurements):
    def make(folder):
        asked = given(trained, **ASKED, max_drop=20, out=folder / "out")
        done = run("prune-export", *asked, "--json", RFX_CACHE=str(folder / "store"))
        assert done.exit_code in (0, 1, 6, 7), done.output + str(done.exception)
        json.loads(done.stdout)  # and not a line of NNCF's

    return made_once(tmp_path_factory, "openvino-int8-run", make)


def evidence_of(folder) -> dict:
    return json.loads((folder / "evidence.json").read_text(encoding="utf-8"))


def test_gates_rival_and_method_are_there(built):
    folder, evidence = built / "out", evidence_of(built / "out")
    found = {g["name"]: g["outcome"] for g in evidence["gates"]}
    assert list(found) == ["shrunk", "same", "quantized", "accuracy", "agreement", "latency"]
    assert {o for name, o in found.items() if name not in TIMED} == {"pass"}, evidence["gates"]
    assert list(contradictions(read_evidence(folder))) == []
    part, rival = evidence["quantization"], evidence["rival"]
    assert part["mismatches"] == [] and part["quantization"] > 0
    assert "nncf" in part["method"] and "64 examples" in part["method"]
    assert rival["method"] == part["method"] and rival["latency"]["ratio"] > 0
    assert rival["agreement"] > 0.9
    plain, made = (onnx.load(folder / n) for n in ("model.fp32.onnx", "model.onnx"))
    assert Nncf().compare(plain, made) == (part["products"], [])


def test_verify_repeats_it(built, tmp_path, monkeypatch):
    monkeypatch.setenv("RFX_CACHE", str(built / "store"))
    done = run("verify", built / "out", "--out", tmp_path / "again", "--json")
    assert done.exit_code in (0, 1, 6, 7), done.output
    first, second = evidence_of(built / "out"), evidence_of(tmp_path / "again")
    for name in ("products", "method", "bytes", "mismatches"):
        assert second["quantization"][name] == first["quantization"][name]
    assert second["accuracy"]["predictions_hash"] == first["accuracy"]["predictions_hash"]
    assert second["rival"]["metric"] == pytest.approx(first["rival"]["metric"], abs=1e-9)


def refused(trained, tmp_path, code: int, **more) -> str:
    done = run("prune-export", *given(trained, **ASKED | more, out=tmp_path / "out"))
    assert done.exit_code == code, done.output
    assert not (tmp_path / "out").exists()
    return " ".join(done.output.split())


def test_too_few_calibration_examples_are_refused(trained, cache, tmp_path):
    said = refused(trained, tmp_path, 2, examples=31)
    assert "too few calibration examples" in said and "got: 31 that are more than padding" in said
    assert "32 or more" in said


def test_examples_that_are_all_padding_are_no_calibration(trained, cache, tmp_path, monkeypatch):
    def collate(self, features, pad_to=None):
        return {name: np.zeros((1, 4), np.int64) for name in features[0].ids}

    real = quantizing.for_serving

    def padded(session, recipe, subject, examples, precision):
        with monkeypatch.context() as patch:
            patch.setattr(type(examples.task), "collate", collate)
            return real(session, recipe, subject, examples, precision)

    monkeypatch.setattr("rfx.pipeline.prune_export.for_serving", padded)
    assert "got: 0 that are more than padding" in refused(trained, tmp_path, 2)


def test_a_missing_library_is_named_before_any_work(trained, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(nncf.importlib.util, "find_spec", lambda name: None)
    with monkeypatch.context() as patch:
        patch.setattr(runtime_class("openvino"), "availability", runtime_class("ort").availability)
        said = refused(trained, tmp_path, 4)
    assert "rfx-exporter[openvino]" in said and "Stage 2" not in said


def test_the_number_of_examples_has_limits(trained, cache, tmp_path):
    for wrong in (31, 301):
        said = refused(trained, tmp_path, 2, quantization_examples=wrong)
        assert "quantization-examples" in said or "quantization.examples" in said
