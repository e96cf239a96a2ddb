"""What an error says, and the exit code that a class of errors has."""

import pytest

from rfx.core import errors
from rfx.core.errors import ExitCode, UsageError, first_line, is_interrupt


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


def test_the_first_line_of_another_librarys_error_has_no_colours_and_an_end():
    assert first_line(ValueError("\x1b[31mred\x1b[0m\nmore")) == "red"
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 1000))) == 300


def test_an_interrupt_is_known_however_it_is_wrapped():
    wrapped = RuntimeError("in a library")
    wrapped.__cause__ = KeyboardInterrupt()
    assert is_interrupt(KeyboardInterrupt()) and is_interrupt(wrapped)
    assert is_interrupt(RuntimeError("C++: KeyboardInterrupt: <EMPTY MESSAGE>"))
    assert not is_interrupt(RuntimeError("of its own")) and ExitCode.INTERRUPT == 130
