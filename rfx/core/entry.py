"""The frame of the command lines that run where typer and rich are not: `python -m rfx.board`,
`python -m rfx.quantize`.

Standard library only. `rfx` itself has the same rules in rfx/cli/session.py, with colours and
--json.
"""

from __future__ import annotations

import json
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from rfx.core.errors import ExitCode, UserError, is_interrupt


def say(text: str) -> None:
    """A line for the person who watches, on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def result(facts: Mapping[str, Any]) -> None:
    """The one line of JSON that a command gives, on stdout."""
    sys.stdout.write(f"{json.dumps(facts)}\n")
    sys.stdout.flush()


def run_command(command: Callable[[], int], *, interrupted: str) -> int:
    """The command's exit code; what it raises is said on stderr and becomes that of
    `rfx.core.errors.ExitCode`.

    Args:
        interrupted: what is left after Ctrl-C, in a sentence.
    """
    try:
        return command()
    except UserError as error:
        say(f"error: {error.render()}")
        return int(error.exit_code)
    except OSError as error:
        what = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        say(f"error: {what}\n  next:    free space or permissions there, then run again")
        return int(ExitCode.ENVIRONMENT)
    except KeyboardInterrupt:
        say(f"Interrupted. {interrupted}")
        return int(ExitCode.INTERRUPT)
    except Exception as error:  # a bug: said in full, and never with the exit code of a failed gate
        if is_interrupt(error):
            say(f"Interrupted. {interrupted}")
            return int(ExitCode.INTERRUPT)
        traceback.print_exc()
        say("error: this is a bug of rfx. Please report it with the lines above.")
        return int(ExitCode.INTERNAL_CHECK)


def start(main: Callable[[], int]) -> NoReturn:
    """Run as a process: being told to end is an interrupt, and cleans up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
