"""YAML of users: bombs, depth, doubled keys and tags are refused before anything is made of them;
mistakes are named with the line of their file."""

import os
import time

import pytest

from rfx.cli.app import main
from rfx.core.errors import UsageError
from rfx.recipe.document import parse_yaml
from rfx.recipe.read import make_recipe, read_recipe
from rfx.recipe.spec import Recipe
from tests.commands import run


def refused(tmp_path, text, *words):
    file = tmp_path / "r.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    start = time.process_time()
    with pytest.raises(UsageError) as error:
        read_recipe(file)
    assert time.process_time() - start < 5
    said = error.value.render()
    assert "r.yaml" in said and error.value.next_step and len(said) < 2500
    assert all(word in said for word in words), said
    return said


def bomb(levels):
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (bomb(10), ("aliases", "line 4")),
        ("a: " + "[" * 100_000, ("nested more than 30 deep", "line 1")),
        ("a: &a\n  b: *a\n", ("within what it names",)),
        ("seed: " + "9" * 5000, ("thousands of digits",)),
        ("seed: 2023-99-99", ("cannot be read",)),
        ("model: m\nseed: 1\nmodel: n\n", ("the key model", "line 1", "line 3")),
        ("budget: {flops: 0.5, flops: 0.6}", ("the key flops", "line 1")),
        ("model: !!python/object/apply:os.abort []", ("python/object/apply:os.abort", "line 1")),
        ("- 1", ("a list", "a mapping of keys")),
        ("7", ("a number",)),
        ("", ("nothing",)),
        (bytes(range(256)), ("UTF-8",)),
        ("1: 2", ("a key is not a text", "a number: 1")),
        ("name: " + "x" * 300_000, ("too large",)),
        ("x" * 1000 + ": 1", ("no such key",)),
        ("a: [b", ("line 1",)),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_documents_that_are_no_recipe_are_refused_quickly(tmp_path, text, words):
    refused(tmp_path, text, *words)


def test_a_few_aliases_and_merged_keys_are_yaml():
    text = "a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\n"
    assert parse_yaml(text, "r.yaml").data == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}


def test_a_mistake_in_a_file_is_named_with_its_line_and_not_with_an_option(tmp_path):
    text = "model: m\nbudget:\n  latency: 70%\ndata:\n  labels: [a, 3]\nworkload: {batch: 0}\n"
    said = refused(
        tmp_path,
        text,
        "budget.latency (line 3)",
        "did you mean 0.7?",
        "data.labels.1 (line 5)",
        "workload.batch (line 6)",
    )
    assert "--" not in said.partition("next:")[0]
    refused(tmp_path, "conditions:\n  batch: 0\nmax_drop: -1\n", "batch (line 2)", "drop (line 3)")
    with pytest.raises(UsageError, match="--batch"):  # an option on top of a sound file
        (tmp_path / "r.yaml").write_text("model: m\n")
        read_recipe(tmp_path / "r.yaml").changed({"workload.batch": 0})


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("70%", "0.7"),
        ("70", "0.7"),
        (70, "0.7"),
        ("0,7", "0.7"),
        ("7 %", "0.07"),
        (700, ""),
        (1.5, ""),
    ],
)
def test_a_percentage_is_answered_with_the_share_that_it_means(given, meant):
    with pytest.raises(UsageError) as error:
        Recipe(budget={"latency": given})
    assert (
        (f"did you mean {meant}?" in error.value.what)
        if meant
        else "mean" not in (error.value.what)
    )


def test_a_bad_number_on_the_command_line_says_what_is_allowed(monkeypatch, capsys):
    for option, value, words in (
        ("--latency", "70%", ("got:     70%", "between 0 and 1", "write --latency 0.7")),
        ("--examples", "many", ("got:     many", "8 to 1000000000", "correct --examples")),
    ):
        monkeypatch.setattr("sys.argv", ["rfx", "plan", option, value])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr().err
        assert end.value.code == 2 and all(word in said for word in words), said
    result = run("plan", "--latency", "70")
    assert result.exit_code == 2 and "did you mean 0.7?" in result.stderr


def test_values_of_any_size_and_depth_are_cut_in_what_is_said():
    value: list = ["x"]
    for _ in range(25):
        value = [value] * 10  # written out, it would fill the disk
    for given in (value, "x" * 10**6, {"y" * 10**6: 1}, 10**5000):
        for key in ("seed", "model", "method", "data", "x" * 10**5):
            with pytest.raises(UsageError) as error:
                make_recipe({key: given if key != "model" else [given]})
            assert len(error.value.render()) < 2500
    loop: dict = {}
    loop["data"] = loop
    for wrong, words in ((loop, "too deep"), (None, "nothing"), ([1], "a list"), ({1: 2}, "text")):
        with pytest.raises(UsageError, match=words):
            make_recipe(wrong)


def test_what_is_no_path_of_a_recipe_is_said_to_be_none(tmp_path):
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    for path, words in (
        (None, "needs a path"),
        (7, "needs a path"),
        (tmp_path, "a folder"),
        (tmp_path / "zero.yaml", "a device"),
        ("n" * 5000 + ".yaml", "does not exist"),
    ):
        with pytest.raises(UsageError, match=words) as error:
            read_recipe(path)
        assert error.value.next_step and len(str(error.value)) < 1500
    assert os.listdir(tmp_path) == ["zero.yaml"]  # noqa: PTH208
