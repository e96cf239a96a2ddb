"""A configuration is checked before a model is made of it, and set to plain outputs."""

import json
import math
import shutil

import pytest
import torch
import transformers

from rfx.core.errors import ExitCode
from rfx.models.load import as_subject
from tests.conftest import tokenizer
from tests.families import batch, make
from tests.models.checkpoints import checkpoint, edit, load, refusal


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("configuration") / "good")


@pytest.fixture
def folder(good, tmp_path):
    return shutil.copytree(good, tmp_path / "model")


@pytest.mark.parametrize(
    "change, said",
    [
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_attention_heads": 3}, "32 channels evenly"),
        ({"num_attention_heads": -4}, "num_attention_heads"),
        ({"num_hidden_layers": [1, 2]}, "num_hidden_layers"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"hidden_size": "32"}, "hidden_size"),
        ({"hidden_size": 32.5}, "hidden_size"),
        ({"hidden_size": None}, "hidden_size"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps"),
        ({"hidden_dropout_prob": 7}, "dropout"),
        ({"hidden_dropout_prob": math.nan}, "hidden_dropout_prob"),
        ({"classifier_dropout": math.nan}, "classifier_dropout"),
        ({"layer_norm_eps": math.inf}, "layer_norm_eps"),
        ({"pad_token_id": 5000}, "Padding_idx"),
        ({"hidden_act": "swoosh"}, "gelu_new"),
        ({"hidden_act": ["gelu"]}, "gelu_new"),
        ({"layer_types": ["full_attention"] * 5}, "layer"),
        ({"model_type": ["bert"]}, "model_type"),
        ({"model_type": "frob"}, "frob"),
        ({"architectures": 5}, "architectures"),
        ({"architectures": "BertModel"}, "architectures"),
        ({"architectures": [5]}, "architectures"),
        ({"dtype": "float8"}, "float8"),
        ({"pruned_heads": {"0": [1]}}, "prune_heads"),
        ({"id2label": ["bad", "good"]}, "id2label"),
        ({"id2label": {"0": "bad", "5": "good"}}, "without a gap"),
        ({"id2label": {"0": {"a": 1}, "1": "good"}}, "a text for each label"),
        ({"id2label": {"0": "same", "1": "same"}}, "same more than once"),
        ({"position_embedding_type": "relative_key"}, "relative positions"),
        ({"position_embedding_type": "relative_key_query"}, "relative positions"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_value_that_cannot_be_is_named(folder, change, said):
    error = refusal(edit(folder, **change))
    assert error.exit_code == ExitCode.USAGE and said in str(error) and error.next_step


@pytest.mark.parametrize(
    "change, got, allowed",
    [
        ({"layer_norm_eps": "small"}, "'small'", "a number"),
        ({"layer_norm_eps": None}, "null", "a number"),
        ({"hidden_dropout_prob": [1]}, "[1]", "a number"),
        ({"classifier_dropout": "0.1"}, "'0.1'", "a number or null"),
        ({"pad_token_id": "0"}, "'0'", "a whole number or null"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_value_of_another_kind_is_told_in_the_words_of_json(folder, change, got, allowed):
    error = refusal(edit(folder, **change))
    assert error.what == f"{next(iter(change))} in the model's configuration is wrong."
    assert error.got == f"{folder}: {got}" and error.allowed == allowed


def test_a_model_that_cannot_be_made_names_no_kind_of_exception(folder):
    for change in ({"hidden_dropout_prob": 7}, {"pad_token_id": 5000}):
        assert "Error" not in refusal(edit(folder, **change)).render()


@pytest.mark.parametrize(
    "change, said",
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization_config": {"load_in_8bit": True}}, "bitsandbytes"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"is_decoder": True}, "is_decoder"),
        ({"is_decoder": True, "add_cross_attention": True}, "decoder"),
    ],
)
def test_a_model_that_rfx_cannot_prune_is_refused_by_its_configuration(folder, change, said):
    (folder / "model.safetensors").unlink()  # nothing of it is read
    error = refusal(edit(folder, **change))
    assert error.exit_code == ExitCode.UNSUPPORTED_MODEL and said in str(error)


@pytest.mark.parametrize("made", [transformers.T5Config, transformers.BartConfig])
def test_an_encoder_decoder_is_known_without_weights(tmp_path, made):
    made().save_pretrained(tmp_path)
    error = refusal(tmp_path)
    assert error.exit_code == ExitCode.UNSUPPORTED_MODEL and "encoder-decoder" in str(error)


def test_a_faster_attention_that_is_not_installed_is_not_needed(folder):
    assert load(edit(folder, attn_implementation="flash_attention_2")).sites


def test_switches_of_outputs_do_not_matter(good, folder):
    plain = load(good)
    edit(
        folder,
        return_dict=False,
        output_hidden_states=True,
        output_attentions=True,
        chunk_size_feed_forward=3,
        torchscript=True,
    )
    switched = load(folder)
    assert switched.sites == plain.sites
    with torch.no_grad():
        one, other = (s.model(**batch()) for s in (plain, switched))
    assert torch.allclose(one.logits, other.logits, atol=1e-6)
    assert other.hidden_states is None and other.attentions is None


def test_switches_of_a_model_in_memory(tmp_path):
    model = make("bert", return_dict=False, chunk_size_feed_forward=3)
    with torch.no_grad():
        with pytest.raises(ValueError, match="chunk"):
            model(**batch(tokens=11))
        before = model(**batch(tokens=9))[0]
        subject = as_subject(model, tokenizer(tmp_path), "a model")
        assert torch.allclose(subject.model(**batch(tokens=9)).logits, before, atol=1e-6)
        assert subject.model(**batch(tokens=11)).logits.shape == (3, 2)


def test_half_precision_is_loaded_as_it_is_and_computed_in_float32(tmp_path):
    folder = checkpoint(tmp_path / "model")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    model.half().save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"
    loaded = load(folder).model
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert all(torch.equal(p, q.float()) for p, q in zip(loaded.parameters(), model.parameters()))


@pytest.mark.parametrize(
    "names",
    [["attention_mask", "token_type_ids"], "input_ids", [True, "input_ids"], [["a"]], {}, None],
)
def test_a_tokenizer_that_gives_no_ids_is_named(folder, names):
    edit(folder, "tokenizer_config.json", model_input_names=names)
    error = refusal(folder)
    assert error.exit_code == ExitCode.USAGE and error.next_step
    assert "tokenizer" in error.what and "NoneType" not in str(error)
