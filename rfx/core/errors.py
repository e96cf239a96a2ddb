"""User errors: what was wrong, what was got, what is allowed, and the next step; each with its exit
code.

A `UserError` is expected and never shows a traceback. Anything else is a bug in rfx and does.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from enum import IntEnum

from rfx.core.text import one_line, printable
from rfx.core.values import short

# The longest of each part of a message, in characters: a value of a data file may be of any length.
LONGEST_WHAT, LONGEST_GOT, LONGEST_ALLOWED, LONGEST_STEP = 1500, 500, 2000, 2000

# Messages name options as the command line has them. In Python, these are arguments of functions;
# all others are keys of a recipe (`_keys`).
ARGUMENTS = {
    "--out": "out= (reports= of rfx.verify)",
    "--table": "table=",
    "--sign": "sign=",
    "--seeds": "seeds=",
    "--onnx": "onnx=",
    "--files": "files=",
    "--verify-key": "verify_key=",
    "--baseline": "baseline=",
    "--max-regression": "max_regression=",
}
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]")
_COMMAND = re.compile(r"`[^`]*`")  # a line for a shell, in which options are what they are


class ExitCode(IntEnum):
    PASS = 0
    GATE_FAILED = 1
    USAGE = 2
    INFEASIBLE = 3
    ENVIRONMENT = 4
    UNSUPPORTED_MODEL = 5
    INTERNAL_CHECK = 6
    INCONCLUSIVE = 7
    INTERRUPT = 130


def first_line(error: BaseException, limit: int = 300) -> str:
    """What an exception of another library says first; its type where it says nothing."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    return one_line(lines[0] if lines else type(error).__name__, limit)


def in_words(error: Exception) -> str:
    """What is wrong with a document, by the exception that the reading of its parts ended in. What
    Python says of its own types would tell nobody anything."""
    if isinstance(error, KeyError) and error.args:
        return f"{short(error.args[0], bare=True)} is missing"
    if isinstance(error, (TypeError, AttributeError, LookupError)):
        return "a part of it is of another kind than it should be"
    return first_line(error)


def is_interrupt(error: BaseException) -> bool:
    """Whether an exception is what became of an interrupt: Python wraps one that arrives while a
    class is being made, libraries wrap what they catch, and PyTorch's C++ keeps no more of it than
    its name in a text. A user's own data may hold this word, so it counts in errors of PyTorch's
    kinds alone, and never where the error is one that rfx itself has worded."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, KeyboardInterrupt):
            return True
        by_name = isinstance(seen, (RuntimeError, TypeError)) and "KeyboardInterrupt" in str(seen)
        if by_name and not isinstance(error, UserError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


class UserError(Exception):
    """An error the user can act on.

    Args:
        what: one sentence saying what is wrong.
        got: what was found, where that helps.
        allowed: what would have been accepted.
        next_step: what to do now.
    """

    exit_code: ExitCode = ExitCode.USAGE

    def __init__(
        self, what: str, *, got: object = None, allowed: object = None, next_step: str | None = None
    ):
        self.what, self.got, self.allowed, self.next_step = what, got, allowed, next_step
        super().__init__(self.render())

    def said(self) -> dict[str, str | None]:
        """Its parts as text that is safe to show, by name."""
        return {
            "what": one_line(self.what, LONGEST_WHAT),
            "got": None if self.got is None else short(self.got, LONGEST_GOT, bare=True),
            "allowed": None
            if self.allowed is None
            else short(self.allowed, LONGEST_ALLOWED, bare=True),
            "next_step": printable(self.next_step[:LONGEST_STEP]) if self.next_step else None,
        }

    def render(self) -> str:
        said = self.said()
        lines = [str(said["what"])]
        if said["got"] is not None:
            lines.append(f"  got:     {said['got']}")
        if said["allowed"] is not None:
            lines.append(f"  allowed: {said['allowed']}")
        if said["next_step"]:
            lines.append(f"  next:    {said['next_step']}")
        return "\n".join(lines)

    def __str__(self) -> str:
        """As `render`, and what the options in it are called in Python: the command line renders,
        and what Python itself shows is read by who called a function."""
        text = self.render()
        said = in_python(text)
        return f"{text}\n  python:  {said}" if said else text


def in_python(text: str) -> str:
    """What the options in a text are called in Python; those that stand beside their key there,
    "data.labels (--labels)", are left out."""
    options = dict.fromkeys(_OPTION.findall(_COMMAND.sub("", text)))
    found = [o for o in options if f"({o})" not in text]
    arguments = [f"{ARGUMENTS[o]} for {o}" for o in found if o in ARGUMENTS]
    known = _keys() if len(arguments) < len(found) else {}
    keys = [f"{known[o]} for {o}" for o in found if o in known and o not in ARGUMENTS]
    said = [", ".join(arguments)] if arguments else []
    if keys:
        kind = "keys" if len(keys) > 1 else "a key"
        last = "an argument is called as the last part of its key"
        said.append(f"{', '.join(keys)} ({kind} of a recipe; {last})")
    return "; ".join(said)


def _keys() -> Mapping[str, str]:
    """The keys of a recipe by their options. They are named as a registered part is, and read when
    a message needs them: this room imports none above it, and what an error says does not hang on
    what has been imported before."""
    try:
        found: Mapping[str, str] = importlib.import_module("rfx.recipe.spec").keys_by_option()
    except (ImportError, AttributeError):  # a board has no pydantic, or recipes are just being made
        return {}
    return found


class UsageError(UserError):
    """Wrong option, file, column or value (exit 2)."""


class InfeasibleError(UserError):
    """No plan meets the budget (exit 3); the message names the fastest reachable point."""

    exit_code = ExitCode.INFEASIBLE


class FixedPartError(InfeasibleError):
    """What cannot be pruned exceeds the budget by itself, so that no plan of this model can meet it
    (exit 5)."""

    exit_code = ExitCode.UNSUPPORTED_MODEL


class EnvironmentMissingError(UserError):
    """A runtime, device or package is missing or does not fit (exit 4)."""

    exit_code = ExitCode.ENVIRONMENT


class UnsupportedModelError(UserError):
    """rfx cannot prove that this model can be pruned (exit 5)."""

    exit_code = ExitCode.UNSUPPORTED_MODEL


class InternalCheckError(UserError):
    """One of rfx's own proofs failed: shrunk differs from masked, say (exit 6)."""

    exit_code = ExitCode.INTERNAL_CHECK
