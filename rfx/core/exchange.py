"""Two names exchanged in one step, and writes that are on the disk before they are relied upon."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# An old kernel, a file system without it, a container that forbids the call, a folder of an image's
# layer under overlayfs or of another project's quota (EXDEV).
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EXDEV)


def exchange(one: Path, other: Path) -> bool:
    """Exchange what two names stand for, so that no moment is without either of them.

    Returns:
        False where the system cannot: nothing has changed then.

    Raises:
        OSError: the file system refuses.
    """
    call = getattr(_library(), "renameat2", None)
    if call is None:
        return False
    done = call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if done == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


def on_disk(folder: Path) -> None:
    """Wait until a folder and all in it are on the disk, not in the system's memory alone."""
    for where, _, names in os.walk(folder):
        for name in names:
            _sync(Path(where) / name)
        _sync(Path(where))


def names_on_disk(folder: Path) -> None:
    """The same for the names in a folder, after a rename."""
    _sync(folder)


def _sync(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # What cannot be opened or has no such thing (a pipe, some network disks) stays as it is.
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise


def _library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(None, use_errno=True)
    except (OSError, TypeError):
        return None
