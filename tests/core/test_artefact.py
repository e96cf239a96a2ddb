"""What an exporter has written, by roles, written down and read again."""

import pytest

from rfx.core.artefact import INDEX, Artefact, Graph
from rfx.core.errors import UsageError
from rfx.core.inputs import InputSpec

INPUTS = InputSpec.of_text(("input_ids", "attention_mask"), vocabulary=50, positions=16)


def two(folder):
    """An encoder and a decoder that reads one input alone; the files hold nothing."""
    graphs = {}
    for role, names in (("encoder", INPUTS.names), ("decoder", ("input_ids",))):
        file = folder / f"{role}.onnx"
        file.touch()
        inputs = InputSpec.of_text(names, vocabulary=50, positions=16)
        graphs[role] = Graph(file, inputs, ("logits",))
    return Artefact(graphs, {"rfx.plan": "abc"})


def test_several_graphs_are_read_as_they_were_written(tmp_path):
    made = two(tmp_path)
    assert made.save(tmp_path) == tmp_path / INDEX
    assert Artefact.load(tmp_path) == made
    moved = tmp_path.parent / "moved"
    tmp_path.rename(moved)  # files are named relative to the folder
    assert Artefact.load(moved).files == (moved / "encoder.onnx", moved / "decoder.onnx")


def test_one_graph_has_a_file_and_several_have_none_in_particular(tmp_path):
    one = Artefact.of_model(tmp_path / "model.onnx", INPUTS, ("logits",))
    assert one.file == tmp_path / "model.onnx" and one.roles == ("model",)
    with pytest.raises(ValueError, match="encoder, decoder"):
        two(tmp_path).file  # noqa: B018 - reading it is what is refused


def test_its_files_can_be_removed_twice(tmp_path):
    made = two(tmp_path)
    made.remove()
    made.remove()
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (None, "No such file"),
        ("{", "cut off: it ends at byte 1"),
        ("{1}", "Expecting property name"),
        ("[]", "a part of it is of another kind than it should be"),
        ('{"schema_version": 9, "graphs": {}, "metadata": {}}', "schema_version 9"),
        (
            '{"schema_version": 1, "graphs": {"a": {}}, "metadata": {}}',
            "artefact.json: file is missing",
        ),
        (
            '{"graphs": {"a": {"file": "../x.onnx", "inputs": {"inputs": []}, "outputs": []}}}',
            "not in the folder",
        ),
    ],
)
def test_an_index_that_is_none_is_named(tmp_path, index, said):
    if index is not None:
        (tmp_path / INDEX).write_text(index)
    with pytest.raises(UsageError) as error:
        Artefact.load(tmp_path)
    assert said in str(error.value.got)
    assert "Error" not in str(error.value.got)  # no name of a Python type
