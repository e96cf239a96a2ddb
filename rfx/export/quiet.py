"""Exporters and quantizers log and warn about every model, to no use for our users."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def quiet() -> Iterator[None]:
    """While open, nothing is logged up to a warning, and nothing is warned of."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


@contextmanager
def silent() -> Iterator[None]:
    """As `quiet`, and nothing that Python code writes reaches stdout or stderr: of libraries that
    print and draw bars."""
    nowhere = io.StringIO()
    with quiet(), redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
