"""One model as different exporters write it, measured for real on a tiny random BERT."""

import json

import numpy as np
import onnx
import pytest

from benchmarks import exports, exports_files, results_file
from tests.conftest import tokenizer
from tests.families import make

PLAIN = ("rfx", "rfx-all", "rfx-add", "torchscript")
QUANTIZED = tuple(form + "-int8" for form in PLAIN)
DENSE = (*PLAIN, *exports_files.DENSE_ONLY, *QUANTIZED)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    words = tokenizer(folder)
    model = make("bert", vocab_size=len(words), pad_token_id=0)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dense(checkpoint, tmp_path_factory):
    """The files of the dense model, by form."""
    subject = exports.load_model(checkpoint, task=exports.TASK)
    folder = tmp_path_factory.mktemp("files")
    made = exports_files.write_files(subject.model, subject.inputs, folder, dense=True)
    assert not made.failed
    return made.written


@pytest.fixture
def out(tmp_path):
    return tmp_path / "exports.json"


def run(checkpoint, out, *more):
    arguments = ["--model", checkpoint, "--out", out, "--rounds", "4", *more]
    exports.main([str(a) for a in arguments])
    return json.loads(out.read_text())


def test_every_file_is_timed_and_held_against_that_of_rfx(checkpoint, out, capsys):
    kept = run(checkpoint, out, "--conditions", "1x16", "2x8", "--name", "tiny")
    said = capsys.readouterr().out
    found = kept["models"]["tiny"]
    names = {f"dense/{f}" for f in DENSE} | {f"pruned/{f}" for f in (*PLAIN, *QUANTIZED)}
    assert kept["benchmark"] == "exports" and set(kept["forms"]) == set(exports_files.FORMS)
    assert found["files"].keys() == names and found["environment"]["cpu"]
    assert found["threads"] == 1 and found["model"]["layers"] == 3
    for name, facts in found["files"].items():
        assert facts["bytes"] > 0 and facts["scale"] > 0 and name in said
        if "int8" in name:
            assert 0 < facts["difference"] < facts["scale"]
        else:
            assert facts["difference"] <= 1e-4 * facts["scale"]
    assert list(found["conditions"]) == ["1x16", "2x8"]
    for condition in found["conditions"].values():
        assert condition["rows"].keys() == names and condition["rounds"] == 4
        reference = condition["rows"]["dense/rfx"]
        assert reference["ratio"] == 1 and reference["interval"] == [1, 1]
        for row in condition["rows"].values():
            assert row["ms"] > 0 and row["interval"][0] <= row["ratio"] <= row["interval"][1]
            assert row["ratio"] == pytest.approx(row["ms"] / reference["ms"])
        pairs = [(row["of"], row["to"]) for row in condition["compared"]]
        assert ("dense/rfx", "dense/optimized") in pairs and len(pairs) == 12 + 10 + 2
        assert ("pruned/rfx-int8", "pruned/torchscript-int8") in pairs
        assert ("pruned/rfx", "dense/rfx") in pairs


def test_the_forms_differ_in_what_they_are_named_for(dense):
    def count(form, *kinds):
        nodes = onnx.load(str(dense[form])).graph.node
        return [sum(n.op_type == kind for n in nodes) for kind in kinds]

    (sums, adds), (no_sums, more_adds) = (
        count(form, "Sum", "Add") for form in ("rfx-all", "rfx-add")
    )
    # The last layer's input, its queries and its mask are cut to the position that is read.
    assert count("rfx", "Sum", "Add") == [sums, adds]
    assert count("rfx", "Gather")[0] == count("rfx-all", "Gather")[0] + 2
    assert sums == 7 and no_sums == 0 and more_adds == adds + sums
    assert exports_files.operators(dense["optimized"])["SkipLayerNormalization"] > 0
    unskipped = exports_files.operators(dense["optimized-unskipped"])
    assert unskipped and "SkipLayerNormalization" not in unskipped
    assert exports_files.operators(dense["rfx"]) == {}
    for form in QUANTIZED:
        assert count(form, "MatMulInteger")[0] > 0


def test_a_file_that_computes_something_else_ends_the_benchmark(checkpoint, out, monkeypatch):
    real = exports_files._with_add

    def wrong(source, out):
        real(source, out)
        model = onnx.load(str(out))
        weight = next(i for i in model.graph.initializer if i.name.endswith("classifier.bias"))
        array = onnx.numpy_helper.to_array(weight) + np.float32(0.1)
        weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
        onnx.save(model, str(out))

    monkeypatch.setattr(exports_files, "_with_add", wrong)
    with pytest.raises(SystemExit, match="dense/rfx-add computes something else than dense/rfx"):
        run(checkpoint, out, "--conditions", "1x8")
    assert not out.exists()


def test_a_form_that_cannot_be_written_is_told_and_another_model_stays_in_the_file(
    checkpoint, out, monkeypatch, capsys
):
    def fails(*_):
        raise RuntimeError("no such fusion")

    monkeypatch.setattr(exports_files, "_optimized", fails)
    results_file.write_results(out, {"models": {"tiny": {"it": "stays"}}})
    kept = run(checkpoint, out, "--conditions", "1x8", "--name", "another")
    found = kept["models"].pop("another")
    assert kept["models"] == {"tiny": {"it": "stays"}}
    assert found["files"]["dense/optimized"] == {"failed": "RuntimeError: no such fusion"}
    assert "dense/optimized" not in found["conditions"]["1x8"]["rows"]
    assert "| dense/optimized | not written | not written |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--conditions", "8"), "is no condition"),
        (("--conditions", "0x8"), "is no condition"),
        (("--rounds", "0"), "is no number of rounds"),
        (("--conditions", "1x500"), "the model takes"),
        (("--model", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_measured_is_said_before_the_work(checkpoint, out, capsys, arguments, said):
    with pytest.raises(SystemExit) as ended:
        run(checkpoint, out, *arguments)
    assert said in f"{ended.value} {capsys.readouterr().err}"
    assert not out.exists()
