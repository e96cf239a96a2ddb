"""What `~` stands for in a path that a user gave: no shell reads one in quotes, in a file or in
Python."""

from __future__ import annotations

import os
from pathlib import Path


def at_home(text: str) -> Path:
    """A path with `~` and `~user` as a shell reads them: at the beginning, and only where there is
    such a user. `./~` is a name like any other."""
    path = Path(os.path.expanduser(text))  # noqa: PTH111 - pathlib fails where there is no such user
    # Said whole, so that whoever reads the path next does not take the name for a home.
    return path.absolute() if str(path).startswith("~") else path
