"""Writes that happen whole or not at all, and errors of the file system that name the path."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shlex
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rfx.core import exchange
from rfx.core.claim import claimed_file, release
from rfx.core.errors import UsageError
from rfx.core.home import at_home
from rfx.core.leftovers import settle
from rfx.core.room import note_room
from rfx.core.values import short
from rfx.core.workplace import INSIDE, NEW, RANDOM

_LONGEST_PATH = 4096
_DEEPEST = 200  # characters of the longest path within an output
# Where the system keeps no files. /dev/shm is a disk in memory, and a fine place.
_SYSTEM = ("/proc", "/sys", "/dev")


def file_hash(file: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def as_path(path: object) -> Path:
    """A place that somebody gave, in Python or on the command line, with `~` as a shell reads it.

    Raises:
        UsageError: it is no path that a file system could have.
    """
    try:
        text = os.fspath(path)  # type: ignore[call-overload]
        os.fsencode(text)
    except (TypeError, ValueError):
        text = None
    if not isinstance(text, str) or not text or "\0" in text:
        raise UsageError(
            "This is not a path to write to.",
            got=short(path, 200),
            allowed="a text or a pathlib.Path without the character NUL",
            next_step="give another --out",
        )
    return at_home(text)


@contextmanager
def named_errors(what: str, path: Path, next_step: str) -> Iterator[None]:
    """Errors of the file system that the user can act on become UsageErrors.

    Args:
        what: the sentence that says what could not be done.
        path: what to name where the error does not say it.
        next_step: what the user can do.
    """
    numbers = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOENT)
    more = (errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENOTSUP)
    try:
        yield
    except OSError as error:
        if error.errno not in (*numbers, *more):
            raise
        named = str(error.filename or path)
        if len(named) > 300:
            named = f"{named[:140]}...{named[-140:]} ({len(named)} characters)"
        raise UsageError(what, got=f"{named}: {error.strerror}", next_step=next_step) from None


def require_place(path: str | Path) -> None:
    """Before hours of work: can a folder be made at `path`?

    Raises:
        UsageError: a file stands in the way, or the nearest folder above cannot be written.
    """
    path = as_path(path)
    with named_errors(
        "The output folder cannot be made.", path, "give another --out, or make the folder writable"
    ):
        path = Path(os.path.realpath(path))
        _require_room(path, path if is_mount(path) else path.parent)
        try:  # asked once: another process may be exchanging the folder
            there = path.stat().st_mode
        except FileNotFoundError:
            return
        if stat.S_ISREG(there):
            raise UsageError(
                "The output is a folder, and there is a file at this place.",
                got=str(path),
                allowed="a new folder, or an empty one",
                next_step="give another --out",
            )
        if not stat.S_ISDIR(there):
            raise NotADirectoryError(20, "Not a directory", str(path))


def require_file_place(
    path: str | Path, *, ours: Callable[[Path], bool] | None = None, kind: str = ""
) -> None:
    """Before minutes of work: can a file be written at `path`, and is none there that would be
    lost?

    Args:
        ours: whether a file that is there is of the kind that will be written, so that it may be
            replaced; None: any may.
        kind: what that is, in words.

    Raises:
        UsageError: a folder or a file of another kind stands there, a file that cannot be replaced,
            or the nearest folder above cannot be written.
    """
    path = as_path(path)
    with _writing(path):
        if _special(path):
            return
        path = Path(os.path.realpath(path))
    require_replaceable(path)
    settle(path)
    with _writing(path):
        _require_room(path, path.parent)
        if ours is None or not path.exists() or not path.stat().st_size:
            return
    try:
        replaced = path.is_file() and ours(path)
    except (OSError, ValueError, RecursionError, UsageError):
        replaced = False
    if not replaced:
        raise UsageError(
            "The file that is there is of another kind than the one to be written, and would be "
            "lost.",
            got=str(path),
            allowed=f"a new file, or {kind}, which is replaced",
            next_step="give another --out, or move the file away",
        )


def is_mount(path: Path) -> bool:
    """Whether a folder is a mount point, also of a part of the same disk."""
    try:
        return path.is_dir() and (path.is_mount() or _is_mounted(path))
    except FileNotFoundError:  # another process is exchanging it
        return False


def is_working_folder(path: Path) -> bool:
    """Whether this process works in a folder, as does the shell that started it."""
    try:
        return path.samefile(Path.cwd())
    except OSError:  # one of the two is gone
        return False


def require_outside(path: Path) -> None:
    """Raises UsageError where this process works in a folder somewhere in `path`, which would go
    with what is replaced there."""
    try:
        here, path = Path.cwd(), Path(os.path.realpath(path))
    except FileNotFoundError:
        return
    if path in here.parents:
        raise UsageError(
            "This command runs in a folder within the output folder, which would be removed when "
            "the output is replaced.",
            got=f"{here}, which lies in {path}",
            allowed="to run it in the output folder itself, or outside it",
            next_step=f"run `cd {shlex.quote(str(path))}`, then the same command again with "
            "--out .",
        )


def require_replaceable(path: Path) -> None:
    """Raises UsageError where a single file is mounted at `path`, as a container may have it: the
    system lets nobody put another one in its place."""
    if path.is_file() and _is_mounted(path):
        raise UsageError(
            "This file is mounted by itself, so that no other file can be put in its place.",
            got=str(path),
            allowed="a file in a folder that can be written",
            next_step=f"mount a folder instead of {path.name} alone, or give another path",
        )


def _is_mounted(path: Path) -> bool:
    """Whether the kernel's list of mounts has this path."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return False
    written = str(path).replace("\\", "\\134").replace(" ", "\\040")
    return any(line.split(" ")[4:5] == [written] for line in lines.splitlines())


def _require_room(path: Path, home: Path) -> None:
    """Something can be made at `path`, and before that beside it in `home`.

    Raises:
        OSError: it cannot.
    """
    for root in map(Path, _SYSTEM):
        if root in (path, *path.parents) and Path("/dev/shm") not in path.parents:
            raise PermissionError(1, "this is the system's own, and no place for files", str(path))
    if len(os.fsencode(path)) + _DEEPEST > _LONGEST_PATH:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(path))
    above = next(p for p in (home, *home.parents) if p.exists())
    if not above.is_dir():
        raise NotADirectoryError(20, "Not a directory", str(above))
    if not os.access(above, os.W_OK | os.X_OK):
        if os.statvfs(above).f_flag & os.ST_RDONLY:  # permissions have nothing to do with it
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(above))
        raise PermissionError(13, "Permission denied", str(above))
    longest = os.pathconf(above, "PC_NAME_MAX")
    for name in (f".{path.name}{NEW}" + RANDOM * "x", *path.parts):
        if len(os.fsencode(name)) > longest:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), name)
    # Only trying tells: disks that are read-only, or that take no new folders.
    prefix = INSIDE if above == path else f".{path.name}{NEW}"
    probe = Path(tempfile.mkdtemp(prefix=prefix, dir=above))
    with contextlib.suppress(FileNotFoundError):  # another process took it for left behind
        probe.rmdir()


def umask() -> int:
    """The permissions that new files do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file beside and rename it: `path` holds the old contents or the new, never half.
    Parents are made. A link stays a link; a device or a pipe (/dev/stdout) is written to.

    Raises:
        UsageError: the place cannot be written.
    """
    path = as_path(path)
    with _writing(path):
        special = _special(path)
    if special:
        # "a": a file that the shell has sent our stream to keeps what it has.
        with (
            named_errors("The file cannot be written.", path, "give another path"),
            path.open("ab") as stream,
        ):
            stream.write(data)
        return
    with _writing(path):
        path = Path(os.path.realpath(path))
        require_replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        settle(path)
        file, claim = claimed_file(f".{path.name}{NEW}", path.parent)
        try:
            with open(claim, "wb", closefd=False) as stream:
                stream.write(data)
            os.fsync(claim)
            file.chmod(0o666 & ~umask())
            file.replace(path)
        except BaseException as error:
            note_room(error, path.parent)
            file.unlink(missing_ok=True)
            raise
        finally:
            release(claim)
        exchange.names_on_disk(path.parent)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """A file is being written at `path`, where no folder may stand."""
    step = "give another path, or make the folder writable"
    with named_errors("The file cannot be written.", path, step):
        if path.is_dir():
            raise IsADirectoryError(21, "Is a directory", str(path))
        yield


def _special(path: str | Path) -> bool:
    """Whether `path` is there and neither a file nor a folder, or is the process's own stream:
    never to be replaced."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - a link is not followed
    return (
        path.exists()
        and not path.is_dir()
        and (not path.is_file() or path.parts[1] in ("dev", "proc"))
    )


def atomic_write_text(path: str | Path, text: str) -> None:
    """As `atomic_write_bytes`, UTF-8."""
    atomic_write_bytes(path, text.encode("utf-8"))
