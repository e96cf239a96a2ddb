"""stdout is for results alone, stderr for messages; a reader that went away is no error.

While a command works, what libraries print is kept off both, and nothing is read from stdin: a
library that asks a question there gets no answer. Standard library only: the command lines of a
board use it too.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TextIO

SHOW = "RFX_SHOW_LIBRARIES"  # for who looks for a fault: let libraries print, on stderr
# How libraries are told to be silent before they are imported.
SILENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}


class Stream(io.TextIOBase):
    """A text stream over another one. Once its reader has gone, what is written is dropped: that
    changes neither the work nor the exit code."""

    def __init__(self, under: TextIO | None) -> None:
        self._under = under

    def write(self, text: str) -> int:
        if self._under is not None:
            try:
                self._under.write(text)
            except UnicodeEncodeError:
                encoding = getattr(self._under, "encoding", None) or "ascii"
                self._attempt(text.encode(encoding, "backslashreplace").decode(encoding))
            except (BrokenPipeError, ValueError):  # the latter: it was closed
                self._under = None
        return len(text)

    def flush(self) -> None:
        if self._under is not None:
            try:
                self._under.flush()
            except (BrokenPipeError, ValueError):
                self._under = None

    def _attempt(self, text: str) -> None:
        try:
            assert self._under is not None
            self._under.write(text)
        except (BrokenPipeError, ValueError):
            self._under = None

    def isatty(self) -> bool:
        try:
            return self._under is not None and self._under.isatty()
        except ValueError:
            return False

    def fileno(self) -> int:
        if self._under is None:
            raise io.UnsupportedOperation("fileno")
        return self._under.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._under, "encoding", None) or "utf-8"


_results: Stream | None = None  # while a command works
_messages: Stream | None = None


def results() -> Stream:
    """Where results are written: stdout, as it was when the command began."""
    return _results or Stream(sys.stdout)


def messages() -> Stream:
    """Where messages are written: stderr, as it was when the command began."""
    return _messages or Stream(sys.stderr)


def prepare() -> None:
    """At the start of a program: a reader that goes away is no error from now on. A standard stream
    that is closed becomes one that goes nowhere, so that no file of the program's own is opened in
    its place and written to by mistake."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
    sys.stdout, sys.stderr = Stream(sys.stdout), Stream(sys.stderr)


def let_go() -> None:
    """At the end of a program: write what is left. Python would end with a code of its own where a
    reader has gone."""
    for stream, descriptor in ((sys.__stdout__, 1), (sys.__stderr__, 2)):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


@contextlib.contextmanager
def results_only(show: bool = False) -> Iterator[None]:
    """Within it, `results` and `messages` alone reach stdout and stderr.

    Python's own streams, warnings and loggers are silent, and what native code writes to file
    descriptor 1 is dropped. Native code may still write to file descriptor 2: it is the last word
    of a process that dies.

    Args:
        show: let libraries print on stderr.
    """
    global _results, _messages
    if _results is not None:  # within another one
        yield
        return
    for name, value in SILENT.items():
        os.environ.setdefault(name, value)
    show = show or bool(os.environ.get(SHOW))
    out, restore = _kept_stdout(show)
    _results, _messages = Stream(out), Stream(sys.stderr)
    aside = _messages if show else Stream(None)
    quiet = contextlib.nullcontext() if show else _silenced()
    stdin = sys.stdin
    try:
        sys.stdin = io.StringIO()
        with contextlib.redirect_stdout(aside), contextlib.redirect_stderr(aside), quiet:
            yield
        _results.flush()
    finally:
        sys.stdin = stdin
        _results = _messages = None
        restore()


@contextlib.contextmanager
def native_errors_dropped() -> Iterator[None]:
    """Within it, what native code writes to file descriptor 2 is dropped: for one short call of a
    library that raises its errors and prints them too. A process that dies in it has no last word,
    and what this program itself writes to stderr meanwhile is lost.

    With `RFX_SHOW_LIBRARIES` set it does nothing.
    """
    if os.environ.get(SHOW):
        yield
        return
    try:
        sys.stderr.flush()
        kept, nowhere = _turned(2, show=False)
    except (AttributeError, OSError, ValueError):  # it is closed, or no descriptor is left
        yield
        return
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    disabled = logging.root.manager.disable
    with warnings.catch_warnings():
        if not sys.warnoptions:  # -W and PYTHONWARNINGS are a wish of the user's
            warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)


def _turned(number: int, show: bool) -> tuple[int, int]:
    """A copy of a file descriptor, and one that goes elsewhere: to stderr (`show`), or nowhere.
    Where the second cannot be had, the first is closed again."""
    kept = os.dup(number)
    try:
        return kept, os.dup(2) if show else os.open(os.devnull, os.O_WRONLY)
    except OSError:
        os.close(kept)
        raise


def _kept_stdout(show: bool) -> tuple[TextIO | None, Callable[[], None]]:
    """stdout for results, with file descriptor 1 turned away from it; and what turns it back."""
    stdout = sys.stdout
    try:
        stdout.flush()
        kept, elsewhere = _turned(1, show)
    except (AttributeError, OSError, ValueError):  # it is closed, or its reader has gone
        return stdout, lambda: None
    try:
        on_one = stdout.fileno() == 1
    except (OSError, ValueError):  # of a test, or of a notebook
        on_one = False
    out = stdout
    if on_one:
        out = os.fdopen(os.dup(kept), "w", encoding=stdout.encoding, errors="backslashreplace")
    os.dup2(elsewhere, 1)
    os.close(elsewhere)

    def restore() -> None:
        os.dup2(kept, 1)
        os.close(kept)
        if out is not stdout:
            with contextlib.suppress(OSError):  # what could be written is written
                out.close()

    return out, restore
