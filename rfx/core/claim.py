"""Whether somebody still works on a folder or a file: a lock that the system lets go when the
process that held it ends, however it ends.

A process that is killed cannot clean up. What it leaves is told from the work of a living process
by this lock, which no number of a process could do: containers that share a disk have the same
numbers.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rfx.core.errors import UsageError

try:
    import fcntl
except ImportError:  # a system without such locks: nothing can be told to be left behind
    fcntl = None  # type: ignore[assignment]

OWNER = ".owner"  # the file in a folder whose lock says that somebody works there
MARK = b"rfx works here\n"  # what is in it: nothing without it is ever removed
_TRIES = 100


def claimed_folder(prefix: str, home: Path) -> tuple[Path, int]:
    """A new folder in `home` that is claimed until the descriptor is closed or the process ends."""
    for _ in range(_TRIES):
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=home))
        descriptor = _hold(folder / OWNER)
        if descriptor is not None:
            return folder, descriptor
    raise _crowded(home)


def claimed_file(prefix: str, home: Path) -> tuple[Path, int]:
    """A new file in `home`, the same way."""
    for _ in range(_TRIES):
        descriptor, name = tempfile.mkstemp(prefix=prefix, dir=home)
        if _ours(descriptor):
            return Path(name), descriptor
        os.close(descriptor)
    raise _crowded(home)


@contextmanager
def left_behind(path: Path) -> Iterator[bool]:
    """Whether nobody works on a folder or a file that was made claimed. Nobody can begin to while
    the block runs."""
    file = path / OWNER if path.is_dir() else path
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        yield False
        return
    try:
        yield _locked(descriptor) is True
    finally:
        os.close(descriptor)


def release(descriptor: int) -> None:
    """Give a claim up. It may have gone already."""
    with contextlib.suppress(OSError):
        os.close(descriptor)


def is_there(descriptor: int, path: Path) -> bool:
    """Whether the claimed file is still at `path`: nobody has removed or replaced it."""
    try:
        held, found = os.fstat(descriptor), path.stat()
    except OSError:
        return False
    return (held.st_dev, held.st_ino) == (found.st_dev, found.st_ino)


def _hold(file: Path) -> int | None:
    """A lock on a new file; None where another process has cleared it away in the same moment."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:
        return None
    if _ours(descriptor):
        os.write(descriptor, MARK)
        return descriptor
    os.close(descriptor)
    return None


def is_marked(folder: Path) -> bool:
    """Whether a folder is one that `claimed_folder` made, living or left behind. A process may have
    been killed before it wrote the mark: nothing else is in the folder then."""
    file = folder / OWNER
    try:
        if folder.is_symlink() or file.is_symlink() or not file.is_file():
            return False
        with file.open("rb") as stream:
            said = stream.read(len(MARK))
        return said == MARK or (said == b"" and [p.name for p in folder.iterdir()] == [OWNER])
    except OSError:
        return False


def _ours(descriptor: int) -> bool:
    # Where the file system has no locks, a file is as good as claimed: nobody clears it away.
    return _locked(descriptor) is not False and os.fstat(descriptor).st_nlink > 0


def _locked(descriptor: int) -> bool | None:
    """True: locked now; False: another process holds it; None: the file system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _crowded(home: Path) -> UsageError:
    return UsageError(
        "A temporary folder is cleared away as soon as it is made.",
        got=str(home),
        next_step="end what clears this place, or give another --out",
    )
