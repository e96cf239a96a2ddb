"""A file of weights whose names are not the model's says why: a module around the model, or the
weights of another family."""

import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from rfx.core.errors import ExitCode
from tests.models.checkpoints import checkpoint, edit, load, refusal

FILE = "model.safetensors"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("names") / "good")


@pytest.fixture
def folder(good, tmp_path):
    return shutil.copytree(good, tmp_path / "model")


def renamed(folder, name):
    """Write the weights under other names."""
    weights = {name(k): v for k, v in load_file(folder / FILE).items()}
    save_file(weights, folder / FILE, {"format": "pt"})
    return folder


def pickled(folder):
    torch.save(load_file(folder / FILE), folder / "pytorch_model.bin")
    (folder / FILE).unlink()
    return folder


def follow(error, folder, monkeypatch):
    """Run the lines of Python that an error advises."""
    monkeypatch.chdir(folder)
    code = error.next_step.partition("\n")[2]
    exec("\n".join(line.strip() for line in code.splitlines()), {})


@pytest.mark.parametrize("prefix", ["model.", "student.", "encoder.", "net.0.auto_model."])
@pytest.mark.parametrize("as_pickle", [False, True])
def test_any_prefix_is_named_and_the_advice_strips_it(folder, prefix, as_pickle, monkeypatch):
    renamed(folder, lambda name: prefix + name)
    if as_pickle:
        pickled(folder)
    error = refusal(folder)
    assert error.exit_code == ExitCode.USAGE
    assert f"begin with {prefix!r}" in error.what and "a module of its own" in error.what
    assert f"{prefix}bert.embeddings" in error.got
    follow(error, folder, monkeypatch)
    assert load(folder).sites


def test_a_model_under_another_name_beside_its_head(folder, monkeypatch):
    """`self.encoder = AutoModel...; self.classifier = Linear...`, as many a training has it."""
    renamed(folder, lambda name: name.replace("bert.", "encoder."))
    error = refusal(folder)
    assert "begin with 'encoder.' in place of 'bert.'" in error.what
    follow(error, folder, monkeypatch)
    assert load(folder).sites


@pytest.mark.parametrize(
    "family, said",
    [("roberta", "bert"), ("distilbert", "bert"), ("bert", "roberta"), ("bert", "distilbert")],
)
def test_the_weights_of_another_family_are_called_so(family, said, tmp_path):
    folder = edit(checkpoint(tmp_path / "model", family), model_type=said)
    error = refusal(folder)
    assert error.exit_code == ExitCode.USAGE
    assert error.what == f"The weights look like those of {family}, and config.json says {said}."
    assert f"{family}.embeddings" in error.got and "classifier" not in error.got
    assert "model_type" in error.next_step and family in error.next_step
    if family != "distilbert":  # it has other keys for its sizes, and of a pickle nothing is known
        assert refusal(pickled(folder)).what == error.what


def test_of_families_that_share_their_names_the_class_says_which(tmp_path):
    folder = edit(checkpoint(tmp_path / "model", "xlm-roberta"), model_type="bert")
    assert "those of xlm-roberta, and" in refusal(folder).what
    edit(folder, architectures=None)
    assert "those of roberta, and" in refusal(folder).what


def test_a_module_that_is_called_as_a_family_is_one_around_the_model(folder):
    assert "begin with 'roberta.': the code" in refusal(renamed(folder, "roberta.{}".format)).what


def test_a_few_strange_names_are_said_as_such(folder):
    weights = load_file(folder / FILE)
    weights |= {f"teacher.layer.{i}.weight": torch.zeros(2) for i in range(9)}
    save_file(weights, folder / FILE, {"format": "pt"})
    error = refusal(folder)
    assert "9 left out" in error.got and "begin with" not in error.what


def test_long_names_full_of_dots_are_answered_soon(folder):
    """Names are the file's, and nothing keeps them short: these took minutes."""
    weights = {k: v for k, v in load_file(folder / FILE).items() if "embeddings" in k}
    weights |= {f"{i}{'.x' * 8000}": torch.zeros(1) for i in range(60)}
    save_file(weights, folder / FILE, {"format": "pt"})
    code = "import sys; from tests.models.checkpoints import refusal; print(refusal(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout) < 5000
