"""`rfx gate --files` holds the files of an output against what its evidence and manifest list."""

import hashlib
import json
import shutil

import pytest

from rfx.core import manifest
from rfx.core.errors import ExitCode, UsageError
from rfx.evidence.read import read_evidence
from rfx.evidence.report.write import write_reports
from rfx.pipeline.gate import gate
from tests.commands import run
from tests.evidences import make_evidence


@pytest.fixture
def output(closed, tmp_path):
    """A copy of a finished output."""
    return shutil.copytree(closed.out, tmp_path / "out")


def test_the_files_are_those_that_were_measured(output):
    def judged():
        done = run("gate", output, "--files", output, "--max-drop", 100, "--min-agreement", 0)
        return done.exit_code, done.output

    assert judged()[0] in (0, 1, 7), judged()
    (output / "note.txt").write_text("mine")
    assert judged()[0] == ExitCode.USAGE and "note.txt is not listed" in judged()[1]
    (output / "note.txt").unlink()
    for name in ("plan.json", "README.md"):  # one that the evidence lists, and a report
        kept = (output / name).read_bytes()
        (output / name).write_bytes(kept + b"\n")
        assert judged()[0] == ExitCode.USAGE and f"{name} has been changed" in judged()[1]
        (output / name).write_bytes(kept)
    (output / "plan.json").rename(output.parent / "plan.json")
    assert judged()[0] == ExitCode.USAGE and "plan.json is gone" in judged()[1]
    (output / "plan.json").symlink_to(output.parent / "plan.json")
    assert judged()[0] == ExitCode.USAGE and "plan.json is a link" in judged()[1]
    (output / "plan.json").unlink()
    (output.parent / "plan.json").replace(output / "plan.json")
    assert judged()[0] in (0, 1, 7)


@pytest.fixture
def small_output(tmp_path):
    """An output of one file and its reports, made without a run."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.onnx").write_bytes(b"a graph")
    files = manifest.hashes(out)
    written = write_reports(make_evidence(files=files), out, lambda text: None)
    manifest.seal(out, manifest.OUTPUT, files, [file.name for file in written])
    return out


def test_the_reports_are_held_against_the_manifest(small_output, tmp_path):
    out = small_output

    def said():
        try:
            gate(out, files=out)
        except UsageError as error:
            return error.got
        return ""

    assert said() == ""
    kept = (out / "manifest.json").read_text()
    (out / "manifest.json").unlink()
    (out / "README.md").write_text("# another card")
    assert said() == "manifest.json is gone"
    (out / "manifest.json").write_text("{}")
    assert said() == "manifest.json is damaged"
    (out / "manifest.json").write_text(kept)
    assert said() == "README.md has been changed"
    (out / "README.md").rename(tmp_path / "README.md")
    (out / "README.md").symlink_to(tmp_path / "README.md")
    assert said() == "README.md is a link"
    (out / "README.md").unlink()
    sealed = json.loads(kept)
    del sealed["files"]["summary.md"]
    (out / "manifest.json").write_text(json.dumps(sealed))
    assert said() == "summary.md is not listed"
    (out / "manifest.json").rename(tmp_path / "manifest.json")
    (out / "manifest.json").symlink_to(tmp_path / "manifest.json")
    assert "manifest.json is a link" in said()


def test_an_output_of_an_earlier_version_has_no_manifest(small_output):
    (small_output / "manifest.json").unlink()
    early = {"agreement_interval": None, "chance_agreement": None, "chance": None, "distinct": None}
    evidence = read_evidence(small_output)
    part = evidence.accuracy.model_copy(update=early)
    gates = [g for g in evidence.gates if g.name != "agreement"]
    evidence = evidence.model_copy(update={"accuracy": part, "gates": gates})
    judged = gate(evidence, files=small_output)  # the files are right, and agreement is not known
    assert {g.name for g in judged.gates if g.outcome == "inconclusive"} == {"agreement"}
    assert judged.outcome == "inconclusive"


def test_a_file_of_another_plan_is_told_by_its_metadata(output):
    """Its hash was written into the evidence, but it says itself what plan it is of."""
    file = output / "model.onnx"
    data = json.loads((output / "evidence.json").read_text())
    plan = data["plan"]["hash"].encode()
    assert file.read_bytes().count(plan) >= 1
    file.write_bytes(file.read_bytes().replace(plan, b"0123456789abcdef"))
    data["files"]["model.onnx"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (output / "evidence.json").write_text(json.dumps(data))
    with pytest.raises(UsageError, match=r"model\.onnx was made by another plan"):
        gate(output, files=output)


def test_a_listed_file_outside_the_folder_is_no_file_of_it(tmp_path):
    (tmp_path / "secret").write_text("x")
    (tmp_path / "out").mkdir()
    for name in ("../secret", str(tmp_path / "secret")):
        with pytest.raises(UsageError, match="lies outside the folder"):
            files = {name: "0" * 64, "model.onnx": "0" * 64}
            gate(make_evidence(files=files), files=tmp_path / "out")
    with pytest.raises(UsageError, match="no folder of files"):
        gate(make_evidence(), files=tmp_path / "nowhere")
    with pytest.raises(UsageError, match="lists no (files|exported model)"):
        gate(make_evidence(files={}), files=tmp_path / "out")


def test_verify_refuses_an_output_with_a_damaged_plan_or_without_a_file(output, cache):
    file = output / "plan.json"
    kept = file.read_text()
    for text in ("{", kept.replace('"kept"', '"lost"', 1), json.dumps({"sites": []})):
        file.write_text(text)
        done = run("verify", output)
        assert done.exit_code == ExitCode.USAGE and "plan" in done.output, done.output
    file.unlink()
    done = run("verify", output)
    assert done.exit_code == ExitCode.USAGE and "are gone" in done.output, done.output
