"""What a command does with the files and values of a user: said before any model is loaded, and no
word too many with -q."""

import subprocess
import sys

import pytest

from rfx.core.errors import UsageError
from rfx.pipeline.build import build
from rfx.pipeline.gate import gate
from rfx.pipeline.resolve import open_session, resolve
from rfx.recipe.read import make_recipe
from rfx.tasks.columns import column
from tests.commands import STANDARD, given, run


@pytest.mark.parametrize("command", ["shapes", "profile"])
def test_what_measures_a_model_asks_for_one(command, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(command)
    assert result.exit_code == 2 and "There is no model." in result.stderr
    assert "path/to/model" in result.stderr and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("x.csv", b"a fine film,1\nbad,0\n", "has no header"),
        ("x.csv", b"text,label\n\x81,1\n", "UTF-8"),
        ("x.jsonl", b'{"text": ', "Line 1"),
        ("x.csv.gz", b"\x1f\x8b\x09" + b"text" * 4, "no sound gzip file"),
        (None, b"", "does not exist"),
    ],
)
def test_files_of_examples_are_read_before_the_model_is_loaded(tmp_path, name, data, said):
    file = tmp_path / (name or "nowhere.jsonl")
    if name:
        file.write_bytes(data)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text('{"model_type": "bert"}')
    recipe = make_recipe(
        {
            "model": str(tmp_path / "m"),  # it has no weights: it would not load
            "task": "text-classification",
            "target": "ort",
            "data": {"train": str(file), "eval": str(file)},
        }
    )
    session = open_session(recipe)
    with pytest.raises(UsageError, match=said):
        resolve(session, recipe)


def test_quiet_leaves_the_result_of_a_plan_and_nothing_else(trained, warm):
    arguments = [*given(trained, **STANDARD, flops=0.6), "--quiet"]
    command = [sys.executable, "-m", "rfx", "plan", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stderr == ""
    assert "heads" in done.stdout and "Next: run `rfx prune-export`" in done.stdout
    # A plan of a model that is at chance is a plan like any other: it says what it has not seen.
    assert "whether the dense model is accurate at all, which a plan does not" in done.stdout


def test_a_model_beside_the_quickstart_is_taken_and_said(tmp_path, cache):
    """And where it is gone, the quickstart's own is not pruned in its place."""
    for there in (True, False):
        model = tmp_path / f"model-{there}"
        if there:
            model.mkdir()
        recipe = make_recipe(
            {
                "quickstart": True,
                "model": str(model),
                "task": "text-classification",
                "target": "ort",
                "data": {"train": "nowhere.jsonl", "eval": "nowhere.jsonl"},
            }
        )
        said = []
        session = open_session(recipe)
        session.progress.note = said.append
        with pytest.raises(UsageError):
            resolve(session, recipe)
        assert any("names the model" in text for text in said)
        assert not (cache / "quickstart").exists()


@pytest.mark.parametrize("path", [None, 7, "", ["x"], b"x"])
def test_what_is_no_path_is_said_from_python(path):
    for call in (lambda: build(path), lambda: gate(path)):
        with pytest.raises(UsageError, match="needs a path") as error:
            call()
        assert error.value.next_step and "Type" not in error.value.render()


@pytest.mark.parametrize("size", [0, -1, 10**20, 1.5, "8", True])
def test_sizes_of_a_build_are_looked_at_before_its_file(size):
    for name in ("batch", "sequence"):
        with pytest.raises(UsageError, match=f"--{name} is not a size"):
            build("nowhere.onnx", **{name: size})


def test_columns_are_found_in_any_case_and_with_blanks():
    rows = [{"ID": 1, " Sentence ": "good", "LABEL": 1, "Text-Pair": "bad"}]
    assert column(rows, "text", {}) == " Sentence "
    assert column(rows, "label", {}) == "LABEL"
    assert column(rows, "text_pair", {}) == "Text-Pair"
    assert column(rows, "text", {"text": "sentence"}) == " Sentence "
    both = [{"Text": "a", "TEXT": "b", "review": "c"}]  # which of the two nobody can tell
    assert column(both, "text", {}) == "review"
    with pytest.raises(UsageError) as error:
        column([{"x" * 10**6: 1}] * 2, "text", {"text": "y" * 10**6})
    assert len(error.value.render()) < 1000
