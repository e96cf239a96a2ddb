"""The GPU benchmark, run for real on the CPU's runtime at a tiny size: it writes, resumes and says what it skipped."""

import json

import pytest

import benchmarks.gpu as gpu
import rfx.cost.latency as latency
from rfx.runtimes import runtime_class

SMALL = ["--runtimes", "ort", "trt", "--shapes", "tiny", "--batches", "1", "--precisions", "fp32", "--sequence", "16", "--seconds", "0.2",
         "--targets", "0.7", "--no-extras"]  # fmt: skip


def test_it_measures_writes_and_resumes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(latency, "SECONDS", (0.3, 1.0))
    monkeypatch.setattr(latency, "MIN_ROUNDS", 8)
    assert gpu.main(["--out", str(tmp_path), *SMALL]) == 0
    result = json.loads((tmp_path / "gpu.json").read_text())
    row = next(r for r in result["rows"] if r["config"]["runtime"] == "ort")
    assert row["done"] and row["dense_ms"] > 0 and 0 < row["targets"][0]["ratio"] < 1 and row["flops_half"]["flops"] <= 0.5
    assert "0.7" in (tmp_path / "gpu.md").read_text() and "| ort | tiny | 1 x 16 |" in capsys.readouterr().out
    if not runtime_class("trt").availability().ok:
        assert "NVIDIA driver" in result["skipped"]["trt"]
    monkeypatch.setattr(gpu, "run_config", lambda *a, **k: pytest.fail("measured twice"))
    assert gpu.main(["--out", str(tmp_path), "--runtimes", "ort", *SMALL[3:]]) == 0


def test_without_time_or_a_runtime_it_says_so(tmp_path, capsys):
    assert gpu.main(["--out", str(tmp_path), "--budget-seconds", "-1", "--runtimes", "ort", *SMALL[3:]]) == 0
    assert "out of time" in (tmp_path / "gpu.md").read_text()
    if not runtime_class("trt").availability().ok:
        assert gpu.main(["--out", str(tmp_path / "none"), "--runtimes", "trt", "--no-extras"]) == 4
        assert "rfx env" in capsys.readouterr().err


def test_the_paper_setting_comes_first(tmp_path):
    args = gpu._arguments(["--out", str(tmp_path)])
    rows = gpu.configurations(args)
    assert rows[0] == {"runtime": "trt", "shape": "bert-base", "batch": 128, "sequence": 128, "precision": "fp16"}
    assert len(rows) == 3 * 2 * 4 * 2 and {r["sequence"] for r in rows if r["batch"] == 32 and r["shape"] == "bert-base"} == {384}
