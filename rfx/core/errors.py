"""User errors: what was wrong, what was got, what is allowed, and the next step; each with its exit
code.

A `UserError` is expected and never shows a traceback. Anything else is a bug in rfx and does.
"""

from __future__ import annotations

import re
from enum import IntEnum


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
    return (lines[0] if lines else type(error).__name__)[:limit]


def is_interrupt(error: BaseException) -> bool:
    """Whether an exception is what became of an interrupt: Python wraps one that arrives while a
    class is being made, libraries wrap what they catch, and PyTorch's C++ keeps no more of it than
    its name in a text."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, KeyboardInterrupt) or "KeyboardInterrupt" in str(seen):
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

    def render(self) -> str:
        lines = [self.what]
        if self.got is not None:
            lines.append(f"  got:     {self.got}")
        if self.allowed is not None:
            lines.append(f"  allowed: {self.allowed}")
        if self.next_step:
            lines.append(f"  next:    {self.next_step}")
        return "\n".join(lines)


class UsageError(UserError):
    """Wrong option, file, column or value (exit 2)."""


class InfeasibleError(UserError):
    """No plan meets the budget (exit 3); the message names the fastest reachable point."""

    exit_code = ExitCode.INFEASIBLE


class EnvironmentMissingError(UserError):
    """A runtime, device or package is missing or does not fit (exit 4)."""

    exit_code = ExitCode.ENVIRONMENT


class UnsupportedModelError(UserError):
    """rfx cannot prove that this model can be pruned (exit 5)."""

    exit_code = ExitCode.UNSUPPORTED_MODEL


class InternalCheckError(UserError):
    """One of rfx's own proofs failed: shrunk differs from masked, say (exit 6)."""

    exit_code = ExitCode.INTERNAL_CHECK
