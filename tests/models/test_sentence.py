"""Sentence encoders: read as sentence-transformers reads them, and written so that it can."""

import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch

from rfx.core.errors import UnsupportedModelError, UsageError
from rfx.core.plan import Plan
from rfx.models import checkpoint
from rfx.models.load import gives_vectors, load_subject, own_length
from rfx.models.sentence import POOLINGS, Pooling
from rfx.models.sentence_files import KEYS
from rfx.models.shrink import shrink
from tests.sentence import TEXTS, encoder, sentence_folder

st = pytest.importorskip("sentence_transformers")


def load(folder, **more):
    return load_subject(
        str(folder), task="embeddings", auto_class="AutoModel", sentence=True, **more
    )


def embedded(subject, texts=TEXTS):
    words = subject.preprocessor(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return subject.model(**{n: words[n] for n in subject.inputs.names}).sentence_embedding


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling_is_that_of_sentence_transformers(tmp_path, pooling):
    folder = sentence_folder(tmp_path, pooling)
    wanted = st.SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    subject = load(folder)
    assert np.abs(embedded(subject).numpy() - wanted).max() < 1e-6
    assert len(subject.sites) == 4 and subject.describe()["class"] == "BertModel"


def test_dense_layers_several_poolings_and_left_padding(tmp_path):
    folder = sentence_folder(tmp_path, "lasttoken", "mean", dense=True, padding="left")
    wanted = st.SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    subject = load(folder)
    found = embedded(subject)
    assert found.shape == (len(TEXTS), 24)
    assert np.abs(found.numpy() - wanted).max() < 1e-6
    assert torch.allclose(found.norm(dim=1), torch.ones(len(TEXTS)))
    assert own_length(subject.model.config) == 40
    assert gives_vectors(str(folder)) and not gives_vectors(str(tmp_path))


def test_a_pruned_encoder_is_written_so_that_it_is_read_back(tmp_path):
    """Its own folder has what sentence-transformers reads beside the weights, which have other
    sizes in every layer."""
    subject = load(sentence_folder(tmp_path, "mean", dense=True))
    kept = {s.name: range(s.units // (2 + i)) for i, s in enumerate(subject.sites)}
    plan = Plan.of(subject.sites, kept)
    small = shrink(subject.model, subject.sites, plan)
    out = tmp_path / "out"
    checkpoint.save(small, subject.sites, plan, out, subject.preprocessor)
    again = checkpoint.load(out)
    words = subject.preprocessor(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        one, two = (
            m(input_ids=words["input_ids"], attention_mask=words["attention_mask"])
            for m in (small, again)
        )
        three = again(words["input_ids"], words["attention_mask"])  # as transformers allows it
    assert torch.equal(two.sentence_embedding, three.sentence_embedding)
    assert torch.allclose(one.sentence_embedding, two.sentence_embedding, atol=1e-6)
    source = [json.loads((f / "modules.json").read_text()) for f in (tmp_path / "model", out)]
    assert [[m["path"] for m in part] for part in source] == [
        ["", "1_Pooling", "2_Dense", "3_Normalize"]
    ] * 2
    said = json.loads((out / "1_Pooling" / "config.json").read_text())
    assert [name for name, key in KEYS.items() if said[key]] == ["mean"]
    # sentence-transformers reads the modules after the encoder.
    dense = st.sentence_transformer.modules.Dense.load(str(out / "2_Dense"))
    assert torch.equal(dense.linear.weight, subject.model.sentence.steps[0].linear.weight)
    keys = safetensors.torch.load_file(out / "model.safetensors")
    assert keys and not any(name.startswith("sentence.") for name in keys)


def test_older_models_have_the_encoder_in_a_folder_of_its_own(tmp_path):
    folder = sentence_folder(tmp_path, "mean")
    wanted = embedded(load(folder))
    inner = folder / "0_Transformer"
    inner.mkdir()
    for file in folder.iterdir():
        if file.is_file() and file.name not in (
            "modules.json",
            "config_sentence_transformers.json",
        ):
            shutil.move(file, inner)
    listed = json.loads((folder / "modules.json").read_text())
    listed[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(listed))
    assert torch.equal(embedded(load(folder)), wanted)


def test_a_plain_encoder_needs_a_pooling(tmp_path):
    encoder(tmp_path / "plain")
    with pytest.raises(UsageError, match="Nothing says") as refused:
        load(tmp_path / "plain")
    assert "--pooling" in refused.value.next_step and "weightedmean" in refused.value.allowed
    subject = load(tmp_path / "plain", pooling="cls")
    assert embedded(subject).shape == (len(TEXTS), 32)
    # The pooler of its own is not in the file of one that was trained without it.
    assert len({load(tmp_path / "plain", pooling="cls").hash, subject.hash}) == 1


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (
            lambda f: _edit(f / "modules.json", lambda m: m[:1]),
            UnsupportedModelError,
            "Transformer",
        ),
        (
            lambda f: _edit(f / "modules.json", lambda m: [*m, {**m[1], "type": "x.LSTM"}]),
            UnsupportedModelError,
            "LSTM",
        ),
        (lambda f: (f / "modules.json").write_text("["), UsageError, "modules.json"),
        (lambda f: (f / "modules.json").write_text("[]"), UsageError, "it is empty"),
        (
            lambda f: _edit(f / "modules.json", lambda m: [m[0], {**m[1], "path": "../1"}]),
            UsageError,
            "leads out of the folder",
        ),
        (lambda f: (f / "1_Pooling" / "config.json").unlink(), UsageError, "is damaged"),
        (
            lambda f: _edit(f / "1_Pooling" / "config.json", lambda c: {"pooling_mode": 5}),
            UnsupportedModelError,
            "this pooling",
        ),
        (
            lambda f: _edit(f / "modules.json", lambda m: [m[0], {**m[1], "path": ""}, *m[2:]]),
            UnsupportedModelError,
            "this pooling",
        ),
        (lambda f: _weights(f, weight=torch.zeros(24, 8)), UsageError, "does not fit"),
        (lambda f: _weights(f, weight=torch.zeros(24, 32, 1)), UsageError, "is damaged"),
        (lambda f: _weights(f, bias=torch.zeros(3)), UsageError, "is damaged"),
        (
            lambda f: _edit(
                f / "config_sentence_transformers.json", _with("default_prompt_name", ["a"])
            ),
            UsageError,
            "no prompt",
        ),
        (
            lambda f: _edit(f / "1_Pooling" / "config.json", lambda c: {"pooling_mode": "fancy"}),
            UnsupportedModelError,
            "this pooling",
        ),
        (
            lambda f: _edit(
                f / "1_Pooling" / "config.json", lambda c: {**c, "include_prompt": False}
            ),
            UnsupportedModelError,
            "leaves its prompts out",
        ),
        (
            lambda f: _edit(
                f / "config_sentence_transformers.json", _with("similarity", "manhattan")
            ),
            UnsupportedModelError,
            "cosine",
        ),
        (
            lambda f: _edit(f / "config_sentence_transformers.json", _with("prompts", {"a": 1})),
            UsageError,
            "prompts",
        ),
        (
            lambda f: _edit(
                f / "config_sentence_transformers.json", _with("default_prompt_name", "a")
            ),
            UsageError,
            "no prompt 'a'",
        ),
        (
            lambda f: (f / "2_Dense" / "model.safetensors").write_bytes(b"no tensors"),
            UsageError,
            "2_Dense/model.safetensors",
        ),
        (lambda f: (f / "2_Dense" / "model.safetensors").unlink(), UsageError, "no weights"),
        (
            lambda f: _edit(
                f / "2_Dense" / "config.json", lambda c: {**c, "activation_function": "os.system"}
            ),
            UnsupportedModelError,
            "activation",
        ),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, change, error, said):
    folder = sentence_folder(tmp_path, "mean", dense=True)
    change(folder)
    with pytest.raises(error) as refused:
        load(folder)
    assert said in str(refused.value) and refused.value.next_step


def _weights(folder, **tensors):
    file = folder / "2_Dense" / "model.safetensors"
    old = safetensors.torch.load_file(file)
    safetensors.torch.save_file({**old, **{f"linear.{n}": t for n, t in tensors.items()}}, file)
    config = file.with_name("config.json")
    said = json.loads(config.read_text())
    config.write_text(json.dumps({k: v for k, v in said.items() if k != "in_features"}))


def _edit(file, change):
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def _with(key, value):
    name = "similarity_fn_name" if key == "similarity" else key
    return lambda said: {**said, name: value}


def test_another_pooling_than_the_models_is_refused(tmp_path):
    folder = sentence_folder(tmp_path, "mean")
    load(folder, pooling="mean")
    with pytest.raises(UsageError, match="another way"):
        load(folder, pooling="cls")


@pytest.mark.parametrize("name", POOLINGS)
def test_padding_changes_nothing(name):
    torch.manual_seed(0)
    tokens, mask = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.int64)
    pool = Pooling([name])
    longer = torch.cat([tokens, torch.randn(2, 3, 8)], 1)
    padded = torch.cat([mask, torch.zeros(2, 3, dtype=torch.int64)], 1)
    assert torch.allclose(pool(tokens, mask), pool(longer, padded), atol=1e-6)
