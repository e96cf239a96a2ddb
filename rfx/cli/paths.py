"""How the command line reads a path."""

from __future__ import annotations

import os
import re
from pathlib import Path

from rfx.core.errors import UsageError
from rfx.core.home import at_home
from rfx.core.values import short


def given_path(text: str | Path) -> Path:
    """The path that an option or an argument names. An empty text, as a variable that is not set
    leaves it, would be the current folder.

    Raises:
        UsageError: it is empty, or the address of something elsewhere.
    """
    if not os.fspath(text):
        raise UsageError(
            "An option or an argument that takes a path has an empty one.",
            got="an empty text",
            allowed="the path of a file or folder; . is the current folder",
            next_step="write the path, and check that a variable that holds it is set",
        )
    if re.match(r"[a-z][a-z0-9+.-]*://", os.fspath(text)):
        raise UsageError(
            "This is an address, where a path is needed.",
            got=short(os.fspath(text), 300, bare=True),
            allowed="the path of a file or folder here",
            next_step="download it first, or mount it, and give its path",
        )
    return at_home(os.fspath(text))


given_path.__name__ = "PATH"  # what `--help` shows in place of the value
