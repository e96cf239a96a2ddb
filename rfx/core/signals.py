"""Being told to end is an interrupt, after which a job cleans up."""

from __future__ import annotations

import signal

_ENDS = ("SIGTERM", "SIGHUP")  # a cancelled job of a CI; a terminal or a connection that was closed


def interrupt_on_end() -> None:
    """Signals that ask the process to end interrupt it, as Ctrl-C does. One that somebody has it
    ignore (`nohup`) stays ignored."""
    for name in _ENDS:
        number = getattr(signal, name, None)  # not every system has both
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
