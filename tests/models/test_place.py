"""What is no checkpoint of transformers is refused by what it is, before anything is loaded."""

import shutil

import pytest

from rfx.core.errors import UnsupportedModelError, UsageError
from tests.models.checkpoints import checkpoint, edit, load, refusal


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("place") / "good")


@pytest.fixture
def folder(good, tmp_path):
    """A copy of the good checkpoint, to be spoiled."""
    return shutil.copytree(good, tmp_path / "model")


def test_the_good_checkpoint_is_loaded(good):
    assert len(load(good).sites) == 6


@pytest.mark.parametrize(
    "files, said",
    [
        (["adapter_config.json", "config.json", "model.safetensors"], "merge_and_unload"),
        (["adapter_config.json"], "PEFT"),
        (["config.json", "tf_model.h5"], "TensorFlow only"),
        (["config.json", "flax_model.msgpack"], "Flax only"),
        (["config.json", "model.onnx"], "ONNX graph only"),
        (["config.json", "onnx/model.onnx"], "ONNX graph only"),
        (["openvino_model.xml", "config.json"], "OpenVINO only"),
        (["model-q4.gguf"], "llama.cpp"),
        (["modules.json", "0_Transformer/config.json"], "sentence-transformers"),
        (["notes.txt"], "no Hugging Face checkpoint"),
    ],
)
def test_other_formats_are_named(tmp_path, files, said):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    error = refusal(tmp_path)
    assert isinstance(error, UsageError) and said in str(error) and error.next_step


def test_a_file_is_no_folder(tmp_path):
    for name, said in (("model.gguf", "llama.cpp"), ("train.jsonl", "--train")):
        (tmp_path / name).write_text("x")
        assert said in str(refusal(tmp_path / name))


def test_a_path_that_cannot_be_one(tmp_path):
    for source in (tmp_path / ("x" * 5000), "a\0b", "", " "):
        error = refusal(source)
        assert isinstance(error, UsageError) and "no name of a model" in str(error)
        assert len(str(error)) < 1000


@pytest.mark.parametrize(
    "text, said",
    [
        (b"[1, 2]", "a list"),
        (b'"bert"', "a text"),
        (b"", "not valid JSON"),
        (b"\0\0", "not valid JSON"),
        (b"[" * 100_000, "deep"),
        (b'{"a":' * 5_000, "JSON"),
        (b'{"hidden_size": ' + b"9" * 5_000 + b"}", "digits"),
        ('{"model_type": "bert"}'.encode("utf-16"), "UTF-8"),
        (b'{"x": "' + b"a" * (17 << 20) + b'"}', "too large"),
    ],
    ids=["list", "text", "empty", "zeros", "deep", "open", "digits", "utf-16", "huge"],
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_configuration_that_is_none(folder, name, text, said):
    (folder / name).write_bytes(text)
    error = refusal(folder)
    assert isinstance(error, UsageError) and said in str(error) and name in str(error)


def test_classes_of_the_folder_are_refused_where_transformers_has_none(folder):
    for name, classes in (
        ("config.json", {"AutoConfig": "configuration_x.XConfig"}),
        ("config.json", {"AutoModelForSequenceClassification": "someone/code--modeling_x.X"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["tokenization_x.XTokenizer", None]}),
        ("tokenizer_config.json", ["tokenization_x.XTokenizer", None]),
    ):
        kept = (folder / name).read_bytes()
        error = refusal(edit(folder, name, auto_map=classes))
        assert isinstance(error, UnsupportedModelError) and "does not run" in str(error)
        assert name in str(error.got)
        (folder / name).write_bytes(kept)
    kept = (folder / "config.json").read_bytes()
    known = {"AutoConfig": "configuration_bert.BertConfig", "AutoModel": "modeling_bert.BertModel"}
    assert "not run" in str(refusal(edit(folder, auto_map=known, model_type="xbert")))
    (folder / "config.json").write_bytes(kept)
    assert load(edit(folder, auto_map=known)).sites  # transformers' own classes
