"""The frame of the command lines that run where typer and rich are not: `python -m rfx.board`, `python -m rfx.quantize`.

Standard library only. `rfx` itself has the same rules in rfx/command_line.py, with colours and --json.
"""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from rfx.errors import ExitCode, UserError, is_interrupt


def run_command(command: Callable[[], int], *, interrupted: str) -> int:
    """The command's exit code; what it raises is said on stderr and becomes that of `rfx.errors.ExitCode`.

    Args:
        interrupted: what is left after Ctrl-C, in a sentence.
    """
    try:
        return command()
    except UserError as error:
        print(f"error: {error.render()}", file=sys.stderr)
        return int(error.exit_code)
    except OSError as error:
        what = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        print(f"error: {what}\n  next:    free space or permissions there, then run again", file=sys.stderr)
        return int(ExitCode.ENVIRONMENT)
    except KeyboardInterrupt:
        print(f"Interrupted. {interrupted}", file=sys.stderr)
        return int(ExitCode.INTERRUPT)
    except Exception as error:  # a bug: said in full, and never with the exit code of a failed gate
        if is_interrupt(error):
            print(f"Interrupted. {interrupted}", file=sys.stderr)
            return int(ExitCode.INTERRUPT)
        traceback.print_exc()
        print("error: this is a bug of rfx. Please report it with the lines above.", file=sys.stderr)
        return int(ExitCode.INTERNAL_CHECK)


def start(main: Callable[[], int]) -> NoReturn:
    """Run as a process: being told to end is an interrupt, and cleans up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
