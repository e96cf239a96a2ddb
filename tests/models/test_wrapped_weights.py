"""Weights that are there and cannot be taken as they are: under a name within their file, of
another form than their name says, a page or a pointer in their place, or one folder deeper."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from rfx.core.errors import ExitCode
from tests.models.checkpoints import checkpoint, load, refusal


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("wrapped") / "good")


def pickled(good, folder, content):
    """The checkpoint with pickled weights: what `content` makes of its tensors, or bytes."""
    shutil.copytree(good, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    if callable(content):
        torch.save(content(tensors), file)
    else:
        file.write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("wrap", "name", "keys"),
    [
        (lambda t: {"state_dict": t}, "state_dict", "state_dict"),
        (lambda t: {"epoch": 3, "model": t}, "model", "epoch, model"),
        (
            lambda t: {"model_state_dict": t, "optimizer_state_dict": {"state": {}}},
            "model_state_dict",
            "model_state_dict, optimizer_state_dict",
        ),
        (lambda t: {"something": t}, "something", "something"),
    ],
)
def test_tensors_under_a_name_are_said_to_lie_there(good, tmp_path, wrap, name, keys):
    error = refusal(pickled(good, tmp_path / "model", wrap))
    assert error.exit_code == ExitCode.USAGE and "not at the top" in error.what
    assert repr(name) in error.what and keys in error.got and f"[{name!r}]" in error.next_step


def test_plain_pickled_weights_are_taken(good, tmp_path):
    assert load(pickled(good, tmp_path / "model", lambda t: t)).sites


@pytest.mark.parametrize(
    ("content", "what", "step"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS", "git lfs pull"),
        (b"\n<!doctype HTML><html>", "a page of HTML", "download the file itself"),
        (b"", "is empty", "copy all of its files"),
        (b"hello", "not one that PyTorch writes", "copy all of its files"),
        (b'\x10\0\0\0\0\0\0\0{"a":{}}', "weights of safetensors", "model.safetensors"),
    ],
)
def test_what_lies_in_the_place_of_pickled_weights_is_named(good, tmp_path, content, what, step):
    error = refusal(pickled(good, tmp_path / "model", content))
    assert error.exit_code == ExitCode.USAGE and what in error.what and step in error.next_step
    assert "pytorch_model.bin" in error.got


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]
)
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"<html><head></head></html>", "a page of HTML"),
    ],
)
def test_a_pointer_or_a_page_is_named_in_the_place_of_each_file(
    good, tmp_path, name, content, what
):
    folder = shutil.copytree(good, tmp_path / "model")
    (folder / name).write_bytes(content)
    error = refusal(folder)
    assert what in error.what and name in error.got and error.exit_code == ExitCode.USAGE


def test_pytorchs_form_under_the_name_of_safetensors_is_named(good, tmp_path):
    folder = shutil.copytree(good, tmp_path / "model")
    torch.save({"a": torch.zeros(3)}, folder / "model.safetensors")
    error = refusal(folder)
    assert "weights of PyTorch" in error.what and "pytorch_model.bin" in error.next_step


def test_weights_of_another_name_are_named(good, tmp_path):
    folder = shutil.copytree(good, tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "last.ckpt")
    (folder / "training_args.bin").write_bytes(b"x")
    error = refusal(folder)
    assert "last.ckpt" in error.got and "training_args" not in error.got
    assert "rename it to model.safetensors" in error.next_step


def test_checkpoints_in_folders_of_the_folder_are_named(good, tmp_path):
    for number in (500, 1000, 90):
        shutil.copytree(good, tmp_path / "run" / f"checkpoint-{number}")
    error = refusal(tmp_path / "run")
    assert "folders in it do" in error.what
    names = [f"checkpoint-{n}" for n in (90, 500, 1000)]
    assert sorted(names, key=error.next_step.index) == names
    shutil.copytree(good, tmp_path / "deep" / "of" / "checkpoint-7")
    error = refusal(tmp_path / "deep")
    assert error.next_step == f"give {tmp_path / 'deep' / 'of' / 'checkpoint-7'}"
    (tmp_path / "none" / "within").mkdir(parents=True)
    assert refusal(tmp_path / "none").next_step == "save it with save_pretrained"
