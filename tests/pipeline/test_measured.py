"""New evidence vouches for the files that were measured, as they are now, and for no others."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from rfx.core import manifest
from rfx.core.artefact import Artefact
from rfx.core.errors import EnvironmentMissingError, UsageError
from rfx.core.files import file_hash
from rfx.core.inputs import InputSpec
from rfx.evidence.files import differences
from rfx.pipeline.measured import Measured
from tests.evidences import make_evidence


def write_onnx(file, value, outside=None):
    weight = helper.make_tensor(
        "w", TensorProto.FLOAT, [1], np.float32([value]).tobytes(), raw=True
    )
    value_info = helper.make_tensor_value_info("w", TensorProto.FLOAT, [1])
    graph = helper.make_graph([], "g", [], [value_info], initializer=[weight])
    more = {}
    if outside:
        more = {"save_as_external_data": True, "location": outside, "size_threshold": 0}
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph), str(file), **more)
    return file


@pytest.fixture
def out(tmp_path):
    """An output with its manifest, and the evidence of it."""
    folder = tmp_path / "out"
    model = write_onnx(folder / "model.onnx", 1.0)
    (folder / "model").mkdir()
    (folder / "triton" / "m" / "1").mkdir(parents=True)
    (folder / "triton" / "m" / "1" / "model.onnx").write_bytes(model.read_bytes())
    for name in ("plan.json", "model/config.json", "model/model.safetensors", "model/vocab.txt"):
        (folder / name).write_text(name)
    (folder / "triton" / "m" / "config.pbtxt").write_text("# Written by rfx")
    evidence = make_evidence(files=manifest.hashes(folder))
    manifest.seal(folder, manifest.OUTPUT, evidence.files)
    return folder, evidence


def measure(folder, other=None):
    return Measured(
        folder, Artefact.of_model(folder / "model.onnx", InputSpec(()), ("logits",)), other
    )


def listed(out, other=None):
    folder, evidence = out
    files, left_out = measure(folder, other).listed(evidence)
    return evidence.model_copy(update={"files": files}), left_out


def test_an_output_that_has_not_changed_lists_what_it_listed(out):
    folder, evidence = out
    found, left_out = listed(out)
    assert found.files == evidence.files and not left_out
    assert not list(differences(found, folder))


def test_a_file_that_was_measured_has_its_hash_of_today(out):
    """Its old hash would vouch for a file that was never measured."""
    folder, evidence = out
    write_onnx(folder / "model.onnx", 2.0)
    (folder / "model" / "model.safetensors").write_text("other")
    found, left_out = listed(out)
    for name in ("model.onnx", "model/model.safetensors"):
        assert found.files[name] == file_hash(folder / name) != evidence.files[name]
    # The copy for Triton is the file that was measured once.
    assert not left_out and not list(differences(found, folder))


def test_a_file_that_changed_and_was_not_measured_is_left_out(out):
    folder, _ = out
    served = folder / "triton" / "m" / "1" / "model.onnx"
    write_onnx(served, 3.0)
    (folder / "model" / "vocab.txt").write_text("other words")
    (folder / "model.engine").write_text("added by somebody")
    found, left_out = listed(out)
    assert left_out == ["model/vocab.txt", "triton/m/1/model.onnx"]
    assert len(list(differences(found, folder))) == 3  # none of them is listed


def test_what_a_build_makes_of_the_output_is_known(out):
    """The engine that was timed, its copy for Triton, and the configuration of the build."""
    folder, evidence = out
    new = {
        "model.engine": "engine",
        "model.engine.json": "{}",
        "triton/m/1/model.plan": "engine",
        "triton/m/config.pbtxt": "# Written by rfx, for an engine",
    }
    (folder / "triton" / "m" / "1" / "model.onnx").unlink()
    for name, text in new.items():
        (folder / name).write_text(text)
    manifest.record(folder, [folder / name for name in new], without=["triton"])
    measured = measure(folder)
    timed = folder / "model.engine"
    assert "model.engine" in measured.listed(evidence)[1]  # on a machine where it cannot run
    measured.also(timed, folder / "model.engine.json")
    files, left_out = measured.listed(evidence)
    assert not left_out and set(new) <= set(files)
    assert not list(differences(evidence.model_copy(update={"files": files}), folder))


def test_another_file_is_listed_wherever_it_lies(out, tmp_path):
    folder, _ = out
    inside = write_onnx(folder / "model.int8.onnx", 4.0)
    found, _ = listed(out, inside)
    assert found.files["model.int8.onnx"] == file_hash(inside)
    assert not list(differences(found, folder))
    inside.unlink()
    other = write_onnx(tmp_path / "q" / "q.onnx", 5.0, outside="q.weights")
    found, _ = listed(out, other)
    assert found.files["q.weights"] == file_hash(tmp_path / "q" / "q.weights")
    assert sorted(differences(found, folder)) == ["q.onnx is gone", "q.weights is gone"]
    for file in (tmp_path / "q").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    assert not list(differences(found, folder))
    # Of the same name as one of the output: the numbers are not of that one.
    found, _ = listed(out, write_onnx(tmp_path / "model.onnx", 6.0))
    assert "model.onnx has been changed" in list(differences(found, folder))


def test_a_file_that_changes_while_it_is_measured_is_seen(out, tmp_path):
    folder, _ = out
    other = write_onnx(tmp_path / "q.onnx", 5.0)
    measured = measure(folder, other)
    measured.require_unchanged()
    for file in (other, folder / "model.onnx"):
        kept = file.read_bytes()
        write_onnx(file, 7.0)
        with pytest.raises(EnvironmentMissingError, match="while they were measured") as found:
            measured.require_unchanged()
        assert str(file) in str(found.value.got)
        file.write_bytes(kept)
    measured.require_unchanged()


INVALID = "This is not a valid ONNX file."
POINTER = "it is a pointer of Git LFS, not the file itself."


@pytest.mark.parametrize(
    ("damaged", "own", "others"),
    [
        (lambda whole: whole[:-3], INVALID, INVALID),
        (lambda whole: whole + b"\0", INVALID, INVALID),
        (lambda whole: b"", INVALID, INVALID),
        (
            lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            POINTER,
            POINTER,
        ),
        # Under the name of a table it is taken for one.
        (
            lambda whole: b"text,label\nfine,1\n",
            INVALID,
            "This is a file of examples, not an ONNX file.",
        ),
    ],
    ids=["cut", "longer", "empty", "lfs", "csv"],
)
@pytest.mark.parametrize("other", [False, True], ids=["own", "other"])
def test_a_file_that_is_no_sound_onnx_file_is_refused(out, tmp_path, damaged, own, others, other):
    folder, _ = out
    model = folder / "model.onnx"
    file = tmp_path / "other.csv" if other else model
    file.write_bytes(damaged(model.read_bytes()))
    with pytest.raises(UsageError) as error:
        measure(folder, file if other else None)
    assert error.value.exit_code == 2 and (others if other else own) in str(error.value)
    assert str(file) in str(error.value)
