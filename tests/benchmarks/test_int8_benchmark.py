"""INT8 beside what it has to beat, measured for real on a tiny trained model, and the tables that
are made of it."""

import json
import math
from pathlib import Path

import pytest

import benchmarks.int8 as int8
import benchmarks.int8_bench as int8_bench
import benchmarks.int8_report as int8_report
import benchmarks.plot as plot

ROOT = Path(__file__).parents[2]


def row(**values):
    return {"fp32_ratio": 0.5, "to_plan": 1.0, "divergence": 0.01, **values}


@pytest.mark.slow
def test_every_row_is_measured_against_dense_fp32_and_the_rival(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("rfx.cost.effort.SECONDS", (0.5, 4.0))
    monkeypatch.setattr("rfx.cost.effort.MIN_ROUNDS", 6)
    monkeypatch.setattr("rfx.pipeline.loop.ROUNDS", 1)
    monkeypatch.setattr("rfx.pipeline.loop.ROUND_SECONDS", 0.5)
    monkeypatch.setattr("rfx.pipeline.judge.FINAL_SECONDS", 0.5)
    monkeypatch.setattr("rfx.pipeline.quantized.FINAL_SECONDS", 0.5)
    monkeypatch.setattr(int8_bench, "SECONDS", 0.5)
    out = tmp_path / "int8.json"
    arguments = ["--train", trained["train"], "--eval", trained["eval"], "--out", out]
    arguments += ["--model", trained["model"], "--name", "tiny", "--cache", tmp_path / "cache"]
    arguments += ["--conditions", "2x16", "--latencies", "0.9", "--shares", "0.9"]
    arguments += ["--examples", "64", "--tries", "1"]
    int8.main([str(a) for a in arguments])
    found = json.loads(out.read_text())["models"]["tiny"]["2x16"]
    assert [r["kind"] for r in found["rows"]] == ["dense int8", "fp32", "int8"]
    (beside,) = found["sequential"]
    for r in (*found["rows"], *beside["rows"]):
        assert r["interval"][0] <= r["ratio"] <= r["interval"][1]
        assert r["divergence"] > 0 and 0 < r["agreement"] <= 1 and r["bytes"] > 0
    rival, fp32, quantized = found["rows"]
    assert rival["to_rival"] == 1 and rival["dense_metric"] == found["dense"]["metric"]
    assert quantized["asked"] == pytest.approx(0.9 * rival["ratio"])
    assert quantized["gates"]["quantized"] and "quantized" not in fp32["gates"]
    assert quantized["bytes"] < fp32["bytes"] < found["dense"]["bytes"]
    assert found["evaluated"] == 400 and found["batch"] == 2 and found["tokens"] == 16
    made = int8_report.full(json.loads(out.read_text()))
    assert made.count("\n| ") == 1 + 4 + 1  # header, four rows, the sequential one


def test_equal_latency_is_read_between_a_faster_and_a_slower_plan():
    rows = [row(to_plan=0.9, divergence=0.04), row(to_plan=1.1, divergence=0.01)]
    assert int8_bench.at_equal_latency(rows) == pytest.approx(0.02)
    assert int8_bench.at_equal_latency([row(to_plan=1.01, divergence=0.03)]) == 0.03
    assert int8_bench.at_equal_latency([row(to_plan=1.1)]) is None
    assert int8_bench.at_equal_latency([]) is None


def test_the_next_plan_is_asked_for_along_the_line():
    assert int8_bench.next_share([row(to_plan=1.25)]) == pytest.approx(0.4)
    rows = [row(fp32_ratio=0.6, to_plan=1.2), row(fp32_ratio=0.5, to_plan=1.1)]
    assert int8_bench.next_share(rows) == pytest.approx(0.4)
    noise = [row(fp32_ratio=0.5, to_plan=1.2), row(fp32_ratio=0.5001, to_plan=1.1)]
    assert math.isclose(int8_bench.next_share(noise), 0.5001 / 1.1)


@pytest.mark.parametrize("text", ["8", "x32", "0x32", "8x32x1", "axb"])
def test_a_condition_that_is_none_is_refused(text, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        int8.main(["--out", str(tmp_path / "r.json"), "--conditions", text])
    assert error.value.code == 2 and "such as 8x32" in capsys.readouterr().err


def results():
    shared = {
        "interval": [0.39, 0.41],
        "to_rival_interval": [1, 1],
        "drop": 0.1,
        "drop_interval": [-0.2, 0.4],
        "agreement": 0.99,
        "divergence": 0.0025,
        "metric": 0.92,
        "bytes": 59e6,
    }
    rival = {**shared, "kind": "dense int8", "ratio": 0.4, "to_rival": 1.0}
    slow = {**shared, "kind": "fp32", "ratio": 0.7, "to_rival": 1.75, "asked": 0.7}
    fast = {**shared, "kind": "fp32", "ratio": 0.5, "to_rival": 1.25, "asked": 0.5}
    pruned = {**shared, "kind": "int8", "ratio": 0.2, "to_rival": 0.5, "asked": 0.2, "share": 0.5}
    other = {**shared, "kind": "sequential", "ratio": 0.21, "to_rival": 0.52, "to_plan": 1.05}
    condition = {
        "batch": 1,
        "tokens": 128,
        "threads": 1,
        "version": "onnxruntime 1.32.0",
        "device": "a CPU",
        "examples": 256,
        "evaluated": 4000,
        "metric": "accuracy",
        "dense": {"ms": 30.0, "metric": 0.921, "bytes": 91e6},
        "rows": [rival, slow, fast, {**pruned, "table_error": 0.007}],
        "sequential": [
            {"share": 0.5, "rows": [other], "divergence": 0.003, "divergence_ratio": 0.83}
        ],
    }
    return {"models": {"other": {"1x128": condition}, "quickstart": {"1x128": condition}}}


def test_the_table_has_the_dense_model_the_rival_and_what_beats_it():
    made = int8_report.full(results())
    assert "| dense fp32 | 1 | 2.50 | 0 | 100% | 92.10 | 0 | 91.0 |" in made
    assert "| dense INT8, the rival | 0.400 (0.390 to 0.410) | 1 | 0.0025 |" in made
    assert "| **pruned, INT8**, `--latency 0.2` | 0.200 (0.390 to 0.410) | **0.50** |" in made
    assert "| searched for fp32, quantized afterwards | 0.210" in made
    assert "has 0.83 of the KL" in made and "at most 0.7 %" in made
    assert "**other**" in made and "**quickstart**" in made


def test_readme_shows_the_quickstart_and_only_the_fastest_of_fp32():
    made = int8_report.short(results())
    assert made.count("\n| ") == 4 and "afterwards" not in made
    assert "`--latency 0.5`" in made and "`--latency 0.7`" not in made
    assert int8_report.short({"models": {}}) == int8_report.full({"models": {}}) == ""


def test_the_plot_of_the_quickstart_takes_the_points_of_int8(tmp_path):
    found, plain = results(), ROOT / "benchmarks" / "results" / "quickstart.json"
    for r in found["models"]["quickstart"]["1x128"]["rows"]:
        r["dense_metric"] = 0.921
    file = tmp_path / "int8.json"
    file.write_text(json.dumps(found))
    for out, more in (("plain.svg", []), ("int8.svg", ["--int8", str(file)])):
        plot.main([str(plain), str(tmp_path / out), *more])
    colours = plot.INT8_COLOURS.values()
    assert all(c in (tmp_path / "int8.svg").read_text() for c in colours)
    assert not any(c in (tmp_path / "plain.svg").read_text() for c in colours)


def test_a_page_is_written_between_its_marks():
    page = "before\n<!-- int8-table -->\nold\n<!-- /int8-table -->\nafter\n"
    once = int8_report.with_table(page, "| new |")
    assert once == "before\n<!-- int8-table -->\n\n| new |\n\n<!-- /int8-table -->\nafter\n"
    assert int8_report.with_table(once, "| new |") == once
    assert int8_report.with_table(once, "") == page.replace("old\n", "")
    with pytest.raises(ValueError, match="int8-table"):
        int8_report.with_table("no marks", "")
