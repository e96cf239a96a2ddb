"""Where a disk was full, and how much room it had: said while it is, as what was half-written is
removed before anybody reads the error."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
_WORDS = ("No space left on device", "Disk quota exceeded")  # of libraries in other languages
_SAID = "_rfx_room"


def is_full(error: BaseException) -> bool:
    """Whether an exception says that a disk is full."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    return any(words in str(error) for words in _WORDS)


def note_room(error: BaseException, folder: Path) -> None:
    """Remember with an error of a full disk the folder that was written to, and what is free."""
    if is_full(error) and not hasattr(error, _SAID):
        with contextlib.suppress(AttributeError):
            setattr(error, _SAID, room(folder))


def room_of(error: BaseException) -> str | None:
    """What was remembered so, or what the file that the error names tells; None where neither is
    known."""
    said = getattr(error, _SAID, None)
    if said is None and isinstance(error, OSError) and error.filename and is_full(error):
        said = room(Path(os.fsdecode(error.filename)).parent)
    return said


def room(folder: Path) -> str:
    """A folder, or what is there of it, and how much may be written to its disk."""
    folder = folder.absolute()
    there = next((p for p in (folder, *folder.parents) if p.is_dir()), folder)
    try:
        free = shutil.disk_usage(there).free / (1 << 20)
    except OSError:
        return str(folder)
    return f"{folder}: {free:,.1f} MB free"
