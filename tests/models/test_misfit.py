"""Weights that do not fit their configuration name the key of config.json that says otherwise."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from rfx.core.errors import ExitCode, UsageError
from rfx.core.plan import Plan
from rfx.models import checkpoint as pruned
from rfx.models.families.find import find_sites
from rfx.models.shrink import shrink
from tests.families import make
from tests.models.checkpoints import checkpoint, edit, load, refusal

SIZES = [
    ("bert", "num_hidden_layers", 3, 2),
    ("bert", "num_hidden_layers", 3, 5),
    ("bert", "num_hidden_layers", 3, 50),
    ("bert", "vocab_size", 120, 119),
    ("bert", "hidden_size", 32, 64),
    ("bert", "intermediate_size", 48, 24),
    ("bert", "type_vocab_size", 2, 1),
    ("bert", "max_position_embeddings", 66, 64),
    ("roberta", "max_position_embeddings", 66, 64),
    ("distilbert", "n_layers", 3, 2),
    ("distilbert", "hidden_dim", 48, 24),
    ("distilbert", "dim", 32, 64),
]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    root = tmp_path_factory.mktemp("misfit")
    return {name: checkpoint(root / name, name) for name in ("bert", "roberta", "distilbert")}


@pytest.mark.parametrize("family, key, has, asked", SIZES)
def test_the_key_is_named_with_both_sizes_and_setting_it_mends_it(
    good, family, key, has, asked, tmp_path
):
    folder = edit(shutil.copytree(good[family], tmp_path / "model"), **{key: asked})
    error = refusal(folder)
    assert error.exit_code == ExitCode.USAGE
    assert error.what.startswith(f"{key} in config.json is {asked}, and the weights have {has}")
    assert error.allowed.startswith(f"{key} {has}")
    assert f"set {key} in config.json to {has}" in error.next_step
    assert load(edit(folder, **{key: has})).sites


@pytest.mark.parametrize("family, key, has, asked", [SIZES[0], SIZES[1], SIZES[3]])
def test_pickled_weights_name_it_too(good, family, key, has, asked, tmp_path):
    folder = edit(shutil.copytree(good[family], tmp_path / "model"), **{key: asked})
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert f"{key} in config.json is {asked}, and the weights have {has}" in refusal(folder).what


def test_two_sizes_of_one_tensor(good, tmp_path):
    folder = edit(shutil.copytree(good["bert"], tmp_path / "m"), vocab_size=119, hidden_size=64)
    error = refusal(folder)
    assert error.allowed == "vocab_size 120, hidden_size 32"


def test_a_size_that_another_key_has_too_is_not_mistaken_for_it(tmp_path):
    """Both are 48 in the configuration, and one of them alone shapes the tensor."""
    folder = checkpoint(tmp_path / "model", vocab_size=130)
    error = refusal(edit(folder, vocab_size=48))
    assert error.allowed == "vocab_size 130"


@pytest.mark.parametrize("key, has, asked", [("num_hidden_layers", 3, 2), ("vocab_size", 120, 119)])
def test_a_pruned_checkpoint_names_it_too(key, has, asked, tmp_path):
    model = make("bert")
    sites = find_sites(model)
    plan = Plan.of(sites, {s.name: range(s.units // 2) for s in sites})
    pruned.save(shrink(model, sites, plan), sites, plan, tmp_path / "small")
    assert pruned.load(tmp_path / "small")
    edit(tmp_path / "small", **{key: asked})
    with pytest.raises(UsageError) as error:
        pruned.load(tmp_path / "small")
    assert f"{key} in config.json is {asked}, and the weights have {has}" in error.value.what


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize(
    "family, key, has, asked",
    [("bert", "type_vocab_size", 1, 2), ("bert", "hidden_size", 32, 64)],
)
def test_a_size_that_equals_the_number_of_labels_is_not_taken_for_the_head(
    family, key, has, asked, pickled, tmp_path
):
    folder = checkpoint(tmp_path / "model", family, num_labels=asked, **{key: has})
    if pickled:
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    error = refusal(edit(folder, **{key: asked}))
    assert error.what == f"{key} in config.json is {asked}, and the weights have {has}."
    assert "id2label" not in error.render() and "head" not in error.render()
    assert load(edit(folder, **{key: has})).sites


def test_a_head_of_another_size_is_known_where_another_key_has_its_size(tmp_path):
    """type_vocab_size is 2, as the number of labels in the configuration is."""
    for has, outputs, names in (
        (3, "3 outputs", "the names of all 3 labels"),
        (1, "1 output", "the name of its one label"),
    ):
        folder = checkpoint(tmp_path / str(has), num_labels=has)
        labels = {"bad": 0, "good": 1}
        edit(folder, id2label={str(i): n for n, i in labels.items()}, label2id=labels)
        error = refusal(folder)
        assert error.what == f"The head has {outputs}, and the configuration has 2 labels."
        assert f"write {names} into id2label" in error.next_step
