"""The frame of the command lines that run where typer and rich are not: `python -m rfx.board`,
`python -m rfx.quantize`.

Standard library only. `rfx` itself has the same rules in rfx/cli/session.py, with colours and
--json.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from rfx.core.errors import ExitCode, first_line, is_interrupt
from rfx.core.faults import explained
from rfx.core.kept import forget
from rfx.core.limits import require_limits
from rfx.core.signals import interrupt_on_end
from rfx.core.streams import let_go, messages, prepare, results, results_only
from rfx.core.text import one_line, printable


def say(text: str) -> None:
    """A line for the person who watches, on stderr."""
    messages().write(f"{printable(text)}\n")
    messages().flush()


def result(facts: Mapping[str, Any]) -> None:
    """The one line of JSON that a command gives, on stdout."""
    results().write(f"{json.dumps(facts)}\n")
    results().flush()


def run_command(
    command: Callable[[], int], *, interrupted: Callable[[], str], show: bool = False
) -> int:
    """The command's exit code; what it raises is said on stderr and becomes that of
    `rfx.core.errors.ExitCode`.

    Args:
        interrupted: says what is left after Ctrl-C, in a sentence.
        show: let libraries print, on stderr.
    """
    forget()
    try:
        with results_only(show):
            require_limits()
            return command()
    except (Exception, KeyboardInterrupt) as error:
        if is_interrupt(error):
            say(f"Interrupted. {interrupted()}")
            return int(ExitCode.INTERRUPT)
        known = explained(error)
        if known is not None:
            say(f"error: {known.render()}")
            return int(known.exit_code)
        # A bug: said in full, and never with the exit code of a failed gate.
        say(traceback.format_exc().rstrip())
        say(
            f"error: this is a bug of rfx ({type(error).__name__}: {first_line(error)}). Please "
            "report it with the lines above."
        )
        return int(ExitCode.INTERNAL_CHECK)


class Parser(argparse.ArgumentParser):
    """A parser whose messages show the arguments of others safely, as all messages do."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(messages())
        say(f"{self.prog}: error: {one_line(message, 1000)}")
        sys.exit(int(ExitCode.USAGE))


def start(main: Callable[[], int]) -> NoReturn:
    """Run as a process: being told to end is an interrupt, and cleans up."""
    interrupt_on_end()
    prepare()
    code = main()
    let_go()
    sys.exit(code)
