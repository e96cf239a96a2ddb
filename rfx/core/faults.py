"""What an exception of Python or of another library means for the person who ran a command."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from rfx.core.errors import EnvironmentMissingError, UsageError, UserError, first_line
from rfx.core.kept import anything
from rfx.core.room import room_of
from rfx.core.values import short

# What a file system refuses for reasons of its own: a full disk, a folder without permission.
_DISK = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EIO,
    errno.EACCES,
    errno.EPERM,
    errno.EMFILE,
    errno.ENFILE,
)
_DISK_WORDS = (
    "No space left on device",
    "File too large",
    "Disk quota exceeded",
    "Read-only file system",
)
# What no file system could open.
_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO)
# How libraries that are written in other languages say that there is no memory left.
_MEMORY_WORDS = (
    "std::bad_alloc",
    "can't allocate memory",
    "not enough memory",
    "Failed to allocate memory",
    "CUDA out of memory",
    "Cannot allocate memory",
)
_KEPT = "; the stages that were finished are kept"


def explained(error: BaseException) -> UserError | None:
    """The error that the user can act on; None where the exception is a bug of rfx."""
    if isinstance(error, ModuleNotFoundError):  # a board that has a runtime and little else
        return _missing(error)
    for seen in _chain(error):
        if isinstance(seen, UserError):
            return seen
        if isinstance(seen, RecursionError):
            return UsageError(
                "An input is nested too deep to be read.",
                allowed="lists, mappings and modules some dozens deep in one another",
                next_step="check the model's files, the recipe and the data",
            )
        if isinstance(seen, MemoryError) or any(w in str(seen) for w in _MEMORY_WORDS):
            return EnvironmentMissingError(
                "The memory of this machine does not suffice.",
                got=first_line(seen),
                next_step="use a smaller --calibration-batch, --batch or model, or a machine with "
                "more memory" + _KEPT * anything(),
            )
        found = _of_the_file_system(seen)
        if found is not None:
            return found
    return None


def _of_the_file_system(error: BaseException) -> UserError | None:
    if isinstance(error, OSError) and error.errno in _PATH:
        return UsageError(
            f"This path cannot be used: {os.strerror(error.errno)}.",
            got=None if error.filename is None else short(error.filename, 200, bare=True),
            allowed="the path of a file or folder",
            next_step="correct the path",
        )
    message = None
    if isinstance(error, OSError) and error.errno in _DISK:
        name = "" if error.filename is None else f": {short(error.filename, 300, bare=True)}"
        message = os.strerror(error.errno) + name
    else:
        message = next((words for words in _DISK_WORDS if words in str(error)), None)
    if message is not None:
        return EnvironmentMissingError(
            message,
            got=room_of(error),
            next_step="free space or permissions there, then run again" + _KEPT * anything(),
        )
    if isinstance(error, ValueError) and str(error).startswith("embedded null"):
        return UsageError(
            "A path holds a NUL character.",
            allowed="the path of a file or folder",
            next_step="correct the path",
        )
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return UsageError(
            "A text holds half of a character that takes two (a lone surrogate), or a name is not "
            "in the encoding of this system.",
            got=short(error.object[max(error.start - 20, 0) : error.end + 20], 200, bare=True),
            allowed="text in UTF-8",
            next_step="correct the text or the name",
        )
    return None


def _missing(error: ModuleNotFoundError) -> UserError | None:
    name = (error.name or "").partition(".")[0]
    if not name or name == "rfx":
        return None
    return EnvironmentMissingError(
        f"This command needs {name}, which is not installed.",
        next_step="install rfx with its dependencies here (pip install rfx-exporter), or run this "
        "on the server",
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it was raised from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__
