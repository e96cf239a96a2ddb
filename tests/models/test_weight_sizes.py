"""What a configuration asks for is held against the weights before memory goes into it."""

import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rfx.core.errors import ExitCode
from tests.models.checkpoints import checkpoint, edit, load, refusal


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = checkpoint(tmp_path_factory.mktemp("sizes") / "good")
    load(folder)  # whatever is imported once is imported
    return folder


@pytest.fixture
def folder(good, tmp_path):
    return shutil.copytree(good, tmp_path / "model")


@pytest.mark.parametrize(
    "change",
    [
        {"num_labels": 10**8, "id2label": None, "label2id": None},
        {"num_hidden_layers": 10**6},
        {"vocab_size": 10**9},
        {"hidden_size": 10**6},
        {"intermediate_size": 10**9},
        {"max_position_embeddings": 10**9},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_giant_is_refused_in_no_time(folder, change):
    name, size = next(iter(change.items()))
    edit(folder, **change)
    start = time.process_time()
    error = refusal(folder)
    assert time.process_time() - start < 1
    assert error.exit_code == ExitCode.USAGE
    assert f"{name} is {size:,}" in str(error) and "57 tensors of" in str(error)
    assert ("3 layers" in str(error)) is (name == "num_hidden_layers")


@pytest.mark.parametrize(
    "change, shapes",
    [
        ({"vocab_size": 119}, ("[120, 32]", "[119, 32]")),
        ({"hidden_size": 64}, ("[120, 32]", "[120, 64]")),
        ({"max_position_embeddings": 64}, ("[66, 32]", "[64, 32]")),
        ({"intermediate_size": 24}, ("[48, 32]", "[24, 32]")),
    ],
)
def test_shapes_that_differ_are_both_named(folder, change, shapes):
    error = refusal(edit(folder, **change))
    assert error.exit_code == ExitCode.USAGE and all(s in str(error) for s in shapes)


def test_a_head_with_more_outputs_than_labels(tmp_path):
    folder = checkpoint(tmp_path / "model", num_labels=3)
    edit(folder, id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    error = refusal(folder)
    assert "3 outputs" in str(error) and "2 labels" in str(error) and "id2label" in str(error)


def test_layers_that_the_weights_do_not_have_or_that_are_left_over(folder):
    for asked in (5, 2):  # more in tests/models/test_misfit.py
        error = refusal(edit(folder, num_hidden_layers=asked))
        assert f"num_hidden_layers in config.json is {asked}" in str(error)
        assert "the weights have 3 layers" in str(error) and "layer.0 to" in str(error)


def test_quantized_weights_without_a_word_of_it(folder):
    weights = load_file(folder / "model.safetensors")
    name = "bert.encoder.layer.0.output.dense.weight"
    weights[name] = weights[name].to(torch.int8)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    error = refusal(folder)
    assert (
        error.exit_code == ExitCode.UNSUPPORTED_MODEL and name in str(error) and "I8" in str(error)
    )


def test_weights_in_parts(folder):
    whole = load_file(folder / "model.safetensors")
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    parts = sorted(folder.glob("model-*.safetensors"))
    assert len(parts) > 2
    loaded = load(folder).model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in whole.items())
    kept = parts[0].read_bytes()
    parts[0].unlink()
    assert parts[0].name in str(refusal(folder))
    parts[0].write_bytes(kept)
    index = "model.safetensors.index.json"
    for table in ({}, [], {"a": "../../elsewhere"}, {"a": 3}):
        assert "damaged" in str(refusal(edit(folder, index, weight_map=table)))


class Code:
    """Unpickled, it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def test_pickled_weights(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    configuration = (folder / "config.json").read_text()
    (folder / "model.safetensors").unlink()
    file, marker = folder / "pytorch_model.bin", str(tmp_path / "it_ran")
    for zipped in (True, False):
        torch.save(weights, file, _use_new_zipfile_serialization=zipped)
        loaded = load(folder).model.state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())
    assert "num_hidden_layers" in str(refusal(edit(folder, num_hidden_layers=10**6)))
    edit(folder, num_hidden_layers=3)
    labels = {"id2label": None, "label2id": None}
    size = file.stat().st_size // 32
    start = time.process_time()
    for many in (size, 10**6, 10**8):
        assert f"num_labels is {many:,}" in str(refusal(edit(folder, num_labels=many, **labels)))
    assert time.process_time() - start < 1
    (folder / "config.json").write_text(configuration)
    for zipped in (True, False):
        torch.save({**weights, "x": Code(marker)}, file, _use_new_zipfile_serialization=zipped)
        error = refusal(folder)
        assert "holds more than tensors" in str(error) and "weights_only" not in str(error)
        assert error.exit_code == ExitCode.USAGE and not Path(marker).exists()
    whole = file.read_bytes()
    for damaged in (whole[:5000], b"", b"\x80\x04."):
        file.write_bytes(damaged)
        error = refusal(folder)
        assert error.exit_code == ExitCode.USAGE and "weights_only" not in str(error)
