"""A command that fails says why, also with -q: a step of a CI must not fail without a word."""

import json

import pytest

from rfx.core.errors import ExitCode
from rfx.evidence.report.terminal import verdict_line
from rfx.export.onnx import export_onnx
from rfx.pipeline.gate import gate as judge
from tests.commands import run
from tests.evidences import make_evidence
from tests.families import make, text_inputs


@pytest.fixture
def document(tmp_path):
    file = tmp_path / "evidence.json"
    file.write_text(make_evidence().model_dump_json())
    return file


@pytest.mark.parametrize("quiet", ["-q", "--quiet"])
def test_a_gate_that_fails_is_named_in_one_line(document, quiet):
    done = run("gate", document, "--min-speedup", 5, "--max-drop", 0.01, quiet)
    assert done.exit_code == ExitCode.GATE_FAILED and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("gates: fail: ") and "latency failed (" in line and "at most" in line
    assert "95 % interval" in line


def test_what_is_inconclusive_is_said_and_a_pass_is_not(document):
    judged = run("gate", document, "--json", "--max-drop", 0.6)
    gate = next(g for g in json.loads(judged.stdout)["gates"] if g["name"] == "accuracy")
    limit = gate["interval"][1] - 1e-6  # within the interval, which ends above it
    done = run("gate", document, "--max-drop", limit, "-q")
    assert done.exit_code == ExitCode.INCONCLUSIVE and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("gates: inconclusive: accuracy is inconclusive (")
    allowed = run("gate", document, "--max-drop", limit, "-q", "--allow-inconclusive")
    assert (allowed.exit_code, allowed.output) == (0, "")
    passed = run("gate", document, "-q")
    assert (passed.exit_code, passed.output) == (0, "")


def test_json_stays_one_object_and_the_line_stands_beside_it(document):
    done = run("gate", document, "--min-speedup", 5, "--json")
    assert done.exit_code == ExitCode.GATE_FAILED
    assert json.loads(done.stdout)["outcome"] == "fail"
    assert done.stderr.splitlines() == [f"{verdict(document)}"]


def test_build_prints_the_engine_and_nothing_else(tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (extra rtx)")
    onnx = export_onnx(
        make("bert"),
        tmp_path / "model.onnx",
        output_names=("logits",),
        inputs=text_inputs(("input_ids", "attention_mask")),
    )
    engine = tmp_path / "model.engine"
    ahead = ("--compute-capability", "8.9", "--builder-level", 0, "--sequence", 16, "--out", engine)
    said = run("build", onnx, *ahead)
    assert said.exit_code == 0 and "building the engine" in said.stderr
    quiet = run("build", onnx, *ahead, "-q")
    assert (quiet.exit_code, quiet.stderr) == (0, "")
    assert str(engine) in quiet.stdout and engine.stat().st_size
    both = run("build", onnx, *ahead, "-q", "--json")
    assert both.stderr == "" and json.loads(both.stdout)["written"] == str(engine)


def test_a_build_that_fails_says_why_with_q_too(tmp_path):
    done = run("build", tmp_path / "none.onnx", "-q")
    assert done.exit_code == ExitCode.USAGE and done.stdout == ""
    assert done.stderr.startswith("error: The ONNX file does not exist.")
    assert "next:" in done.stderr and "building" not in done.stderr


def verdict(document):
    return verdict_line(judge(document, min_speedup=5))


def test_the_names_of_gates_are_safe_to_show():
    evidence = make_evidence()
    gate = evidence.gates[0].model_copy(
        update={"name": "x\n::error::forged\x1b[2J", "outcome": "fail"}
    )
    line = verdict_line(evidence.model_copy(update={"gates": [gate]}))
    assert "\n" not in line and "\x1b" not in line and line.startswith("gates: fail: x")
