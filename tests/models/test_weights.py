"""A model that is loaded is the one in the file: nothing is left out, made up, or no number."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from rfx.core.errors import ExitCode
from rfx.models.load import as_subject
from tests.conftest import tokenizer
from tests.families import make
from tests.models.checkpoints import checkpoint, edit, load, refusal


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("weights") / "good")


@pytest.fixture
def folder(good, tmp_path):
    return shutil.copytree(good, tmp_path / "model")


def change(folder, made):
    """Write the weights that `made` makes of them."""
    file = folder / "model.safetensors"
    save_file(made(load_file(file)), file, {"format": "pt"})
    return folder


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("pickled", [False, True])
def test_a_prefix_of_a_wrapper_is_named_and_the_advice_strips_it(
    folder, prefix, pickled, monkeypatch
):
    change(folder, lambda weights: {prefix + k: v for k, v in weights.items()})
    if pickled:
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    error = refusal(folder)
    assert error.exit_code == ExitCode.USAGE and repr(prefix) in str(error)
    assert ("weights_only=True" in str(error)) is pickled
    monkeypatch.chdir(folder)
    code = error.next_step.partition("\n")[2]
    exec("\n".join(line.strip() for line in code.splitlines()), {})
    assert load(folder).sites


def test_a_prefix_in_weights_of_several_files_has_advice_without_their_names(folder):
    change(folder, lambda weights: {"module." + k: v for k, v in weights.items()})
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    table = dict.fromkeys(load_file(folder / "part.safetensors"), "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    error = refusal(folder)
    assert "save_pretrained" in error.next_step and "load_file" not in error.next_step


def test_tensors_that_are_left_out_are_refused(folder):
    name = "bert.encoder.layer.{}.attention.self.distance_embedding.weight"
    change(folder, lambda w: {**w, **{name.format(i): torch.zeros(5, 8) for i in range(4)}})
    error = refusal(folder)
    assert error.exit_code == ExitCode.USAGE and name.format(0) in str(error)
    assert "4 left out" in str(error) and "1 more" in str(error)
    assert "relative positions" in str(error)


def test_tensors_of_another_head_may_be_left_out(folder):
    unused = (
        "bert.embeddings.position_ids",
        "cls.predictions.bias",
        "cls.seq_relationship.weight",
        "lm_head.dense.weight",
    )
    change(folder, lambda w: {**w, **{name: torch.zeros(3) for name in unused}})
    assert load(folder).sites


def test_tensors_that_are_missing_are_refused(folder):
    change(folder, lambda w: {k: v for k, v in w.items() if not k.startswith("classifier")})
    error = refusal(folder)
    assert "no text-classification head" in str(error) and "classifier.bias" in str(error)
    change(folder, lambda w: {k: v for k, v in w.items() if "layer.1.output" not in k})
    error = refusal(folder)
    assert "lack 4 tensors" in str(error) and "layer.1.output.LayerNorm.bias" in str(error)
    (folder / "modules.json").write_text("[]")


def test_embeddings_of_sentence_transformers_have_no_head(folder):
    change(folder, lambda w: {k: v for k, v in w.items() if not k.startswith("classifier")})
    (folder / "modules.json").write_text("[]")
    assert "sentence-transformers" in str(refusal(folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_name_their_tensor(folder, value):
    name = "bert.encoder.layer.1.output.dense.weight"

    def spoil(weights):
        weights[name][3, 5] = value
        return weights

    error = refusal(change(folder, spoil))
    assert error.exit_code == ExitCode.USAGE and name in str(error) and "1 of 1536" in str(error)


def test_a_head_of_zeros_is_a_constant(folder):
    zero = ("classifier.weight", "classifier.bias")
    change(folder, lambda w: {k: torch.zeros_like(v) if k in zero else v for k, v in w.items()})
    error = refusal(folder)
    assert error.exit_code == ExitCode.USAGE and "constant" in str(error) and "zero" in str(error)


@pytest.mark.parametrize("task", ["token-classification", "question-answering"])
def test_a_constant_is_seen_in_every_task(task, tmp_path):
    model = make("bert", task)
    as_subject(model, tokenizer(tmp_path), "a model")
    head = model.classifier if task == "token-classification" else model.qa_outputs
    torch.nn.init.zeros_(head.weight)
    with pytest.raises(Exception, match="constant"):
        as_subject(model, tokenizer(tmp_path), "a model")


def test_a_tokenizer_with_more_tokens_than_embeddings(folder):
    import transformers

    words = transformers.AutoTokenizer.from_pretrained(folder)
    words.add_tokens([f"new{i}" for i in range(120)])
    words.save_pretrained(folder)
    error = refusal(folder)
    assert error.exit_code == ExitCode.USAGE and "resize_token_embeddings" in str(error)
    assert "120 embeddings" in str(error) and "id 120" in str(error)


def test_the_source_of_a_local_model_is_the_name_of_its_folder(folder, monkeypatch):
    assert load(folder).describe()["source"] == "model"
    monkeypatch.chdir(folder)
    facts = load(".").describe()
    assert facts["source"] == "model" and facts["local"] is True
    edit(folder, _name_or_path="/somewhere/private")
    subject = load(folder)
    subject.model.save_pretrained(folder / "again")
    assert "/" not in (folder / "again" / "config.json").read_text()
