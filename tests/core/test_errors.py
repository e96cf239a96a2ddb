"""What an error says, and the exit code that a class of errors has."""

import functools
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rfx
from rfx.core import errors
from rfx.core.errors import ExitCode, UsageError, first_line, in_words, is_interrupt
from rfx.recipe.spec import Recipe

# The options of each command, as they are on the command line.
OPTIONS = json.loads((Path(__file__).parents[1] / "golden" / "options.json").read_text())


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("UsageError", 2),
        ("InfeasibleError", 3),
        ("EnvironmentMissingError", 4),
        ("UnsupportedModelError", 5),
        ("InternalCheckError", 6),
    ],
)
def test_every_kind_has_the_documented_exit_code(kind, code):
    assert getattr(errors, kind)("what").exit_code == code


def test_only_what_is_there_is_said():
    whole = UsageError("It is wrong.", got=0, allowed="1 or 2", next_step="give 1")
    assert whole.render().splitlines() == [
        "It is wrong.",
        "  got:     0",
        "  allowed: 1 or 2",
        "  next:    give 1",
    ]
    assert str(UsageError("It is wrong.")) == "It is wrong."


def test_python_shows_what_an_option_is_called_there():
    """And what the command line renders does not."""
    error = UsageError(
        "It is too long: data.labels (--labels).",
        got="--batch 9 of --no-such-option",
        next_step="lower --batch or --max-length",
    )
    assert str(error).splitlines() == [
        *error.render().splitlines(),
        "  python:  workload.batch for --batch, max_length for --max-length (keys of a recipe; an "
        "argument is called as the last part of its key)",
    ]
    assert "python:" not in error.render() and list(error.said()) == [
        "what",
        "got",
        "allowed",
        "next_step",
    ]
    assert str(UsageError("a", next_step="add --table")).endswith("python:  table= for --table")
    for command in ("a file of `rfx profile --out`", "`rfx build M.onnx --batch 2`"):
        assert str(UsageError(command)) == command
    assert "keys of" not in str(UsageError("give another --out"))
    assert str(UsageError("run-time--batch")) == "run-time--batch"


def test_arguments_and_keys_are_told_apart():
    error = UsageError("a", next_step="give another --out, or --max-drop, or --table")
    assert str(error).splitlines()[-1] == (
        "  python:  out= (reports= of rfx.verify) for --out, table= for --table; limits.max_drop "
        "for --max-drop (a key of a recipe; an argument is called as the last part of its key)"
    )


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("", "limits.max_drop for --max-drop"),
        ("import rfx.recipe.spec", "limits.max_drop for --max-drop"),
        ("import sys; sys.modules['pydantic'] = None", "table= for --table"),  # as on a board
    ],
    ids=["alone", "with recipes", "without pydantic"],
)
def test_what_an_error_says_does_not_hang_on_what_was_imported(before, said):
    code = f"{before}\nfrom rfx.core.errors import UsageError\n"
    code += 'print(UsageError("a", next_step="--table or --max-drop"))'
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    line = done.stdout.splitlines()[-1]
    assert line.startswith("  python:  table= for --table") and said in line
    assert ("max_drop" in line) == ("max_drop" in said)


# What the terminal and a CI alone have, and what is no option but a value.
OF_A_TERMINAL = {"--json", "--quiet", "--allow-inconclusive", "--junit", "-q", "-o"}


@pytest.mark.parametrize("command", sorted(c for c in OPTIONS if c not in ("", "env")))
def test_every_option_of_the_command_line_has_its_name_in_python(command):
    """And the function takes what it is called there: an argument, or a recipe with this key."""
    function = getattr(rfx, command.replace("-", "_"))
    takes = inspect.signature(function).parameters
    recipe = Recipe()
    for option in OPTIONS[command]:
        if option in OF_A_TERMINAL or not option.startswith("-"):
            continue
        said = errors.in_python(option)
        if (command, option) == ("profile", "--out"):  # it gives the table back
            assert said and "out" not in takes
        elif "key of a recipe" in said:
            key = said.split()[0]
            if "recipe" in takes:
                functools.reduce(getattr, key.split("."), recipe)
            else:
                assert key.split(".")[-1] in takes, option
        else:
            other = re.search(rf"(\w+)= of rfx\.{function.__name__}\b", said)
            assert (other[1] if other else said.partition("=")[0]) in takes, option


def test_the_first_line_of_another_librarys_error_has_no_colours_and_an_end():
    assert first_line(ValueError("\x1b[31mred\x1b[0m\nmore")) == "red"
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 1000))) == 300


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("sites"), "sites is missing"),
        (KeyError("\x1b[31m" + "x" * 999), None),
        (TypeError("'int' object is not iterable"), "a part of it is of another kind"),
        (AttributeError("'list' object has no attribute 'get'"), "a part of it is of another kind"),
        (IndexError("list index out of range"), "a part of it is of another kind"),
        (ValueError("count of 'layer.0.ffn' is -1"), "count of 'layer.0.ffn' is -1"),
    ],
)
def test_what_is_wrong_with_a_document_is_said_without_names_of_python(error, said):
    words = in_words(error)
    assert words.startswith(said) if said else "\x1b" not in words and len(words) < 120
    assert not re.search(r"Error\b|object|attribute|index", words)


def test_an_interrupt_is_known_however_it_is_wrapped():
    wrapped = RuntimeError("in a library")
    wrapped.__cause__ = KeyboardInterrupt()
    assert is_interrupt(KeyboardInterrupt()) and is_interrupt(wrapped)
    assert is_interrupt(RuntimeError("C++: KeyboardInterrupt: <EMPTY MESSAGE>"))
    assert not is_interrupt(RuntimeError("of its own")) and ExitCode.INTERRUPT == 130


def test_the_word_in_a_users_data_is_no_interrupt():
    from rfx.core.errors import is_interrupt

    for error in (
        UsageError("The label is not one of the model's.", got="'KeyboardInterrupt'"),
        ValueError("could not convert string to float: 'KeyboardInterrupt'"),
        FileNotFoundError(2, "No such file", "KeyboardInterrupt/model"),
    ):
        assert not is_interrupt(error)
    assert is_interrupt(TypeError('must be int, not "KeyboardInterrupt: <EMPTY MESSAGE>"'))
    assert is_interrupt(KeyboardInterrupt())
