"""Writes that happen whole or not at all, and errors of the file system that name the path."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from rfx.core.errors import UsageError


def file_hash(file: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def named_errors(what: str, path: Path, next_step: str) -> Iterator[None]:
    """Errors of the file system that the user can act on become UsageErrors.

    Args:
        what: the sentence that says what could not be done.
        path: what to name where the error does not say it.
        next_step: what the user can do.
    """
    try:
        yield
    except (
        PermissionError,
        NotADirectoryError,
        FileExistsError,
        IsADirectoryError,
        FileNotFoundError,
    ) as error:
        raise UsageError(
            what, got=f"{error.filename or path}: {error.strerror}", next_step=next_step
        ) from None
    except OSError as error:
        if error.errno != 30:  # a read-only file system
            raise
        raise UsageError(
            what, got=f"{error.filename or path}: {error.strerror}", next_step=next_step
        ) from None


@contextmanager
def atomic_dir(
    path: str | Path, *, lock: AbstractContextManager[object] | None = None
) -> Iterator[Path]:
    """A new folder to write into; it becomes `path` when the block ends well, and is removed when
    it does not.

    A folder that was at `path` stays until then. Parents are made, and removed again if nothing
    came of it. Where `path` is a mount point, which cannot be renamed, its contents are exchanged
    instead.

    Args:
        lock: held while the new folder is put in place.

    Raises:
        UsageError: the place cannot be written.
    """
    path = Path(os.path.realpath(path))  # a link stays, and what it names is written
    next_step = "give another --out, or make the folder writable"
    with named_errors("The output folder cannot be made.", path, next_step):
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(20, "Not a directory", str(path))
        mounted = path.is_dir() and path.is_mount()
        home = path if mounted else path.parent
        made = _make_parents(home)
        new = Path(tempfile.mkdtemp(prefix=f".{path.name}.new-", dir=home))
        new.chmod(0o777 & ~_umask())
    try:
        yield new
        with named_errors("The output folder cannot be put in place.", path, next_step):
            if lock is None:
                (_exchange_contents if mounted else _exchange)(new, path)
            else:
                with lock:
                    _exchange(new, path)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        for folder in reversed(made):
            try:
                folder.rmdir()
            except OSError:
                break
        raise


def require_place(path: str | Path) -> None:
    """Before hours of work: can a folder be made at `path`?

    Raises:
        UsageError: a file stands in the way, or the nearest folder above cannot be written.
    """
    path = Path(os.path.realpath(path))
    with named_errors(
        "The output folder cannot be made.", path, "give another --out, or make the folder writable"
    ):
        above = next(p for p in (path, *path.parents) if p.exists())
        if not above.is_dir():
            raise NotADirectoryError(20, "Not a directory", str(above))
        above = above if above != path or path.is_mount() else path.parent
        if not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied", str(above))


def require_file_place(path: str | Path) -> None:
    """Before minutes of work: can a file be written at `path`?

    Raises:
        UsageError: a folder stands there, or the nearest folder above cannot be written.
    """
    if _special(path):
        return
    path = Path(os.path.realpath(path))
    with _writing(path):
        pass
    require_place(path.parent / f".{path.name}.new")


def _make_parents(folder: Path) -> list[Path]:
    """Make `folder` and what is missing above it; returns what was made, outermost first."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _exchange(new: Path, path: Path) -> None:
    """`new` becomes `path`; what was there goes only afterwards."""
    if not path.exists():
        new.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old-", dir=path.parent))
    try:
        path.rename(old / "was")
    except BaseException:
        old.rmdir()
        raise
    try:
        new.rename(path)
    except BaseException:
        (old / "was").rename(path)
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange_contents(new: Path, path: Path) -> None:
    old = Path(tempfile.mkdtemp(prefix=".old-", dir=path))
    before = [p for p in path.iterdir() if p not in (new, old)]
    moved: list[tuple[Path, Path]] = []
    try:
        for source in before:
            moved.append((source, old / source.name))
            source.rename(old / source.name)
        for source in list(new.iterdir()):
            moved.append((source, path / source.name))
            source.rename(path / source.name)
    except BaseException:
        for source, target in reversed(moved):
            if target.exists() and not source.exists():
                target.rename(source)
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)
    new.rmdir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file beside and rename it: `path` holds the old contents or the new, never half.
    Parents are made. A link stays a link; a device or a pipe (/dev/stdout) is written to.

    Raises:
        UsageError: the place cannot be written.
    """
    if _special(path):
        # "a": a file that the shell has sent our stream to keeps what it has.
        with (
            named_errors("The file cannot be written.", Path(path), "give another path"),
            Path(path).open("ab") as stream,
        ):
            stream.write(data)
        return
    path = Path(os.path.realpath(path))
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            Path(name).chmod(0o666 & ~_umask())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


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
