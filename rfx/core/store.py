"""The content-addressed store, and writes that happen whole or not at all.

An entry is a folder `<root>/<kind>/<key>/` with its files and their checksums. It is written beside
and renamed, so a reader never sees half of one; a corrupt one is removed with a warning and made
again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfx.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

_CHECKSUMS = "checksums.json"
_SCRATCH_AGE_S = 24 * 3600  # scratch folders of killed runs are cleared after a day


def default_root() -> Path:
    """$RFX_CACHE, else $XDG_CACHE_HOME/rfx, else ~/.cache/rfx."""
    if os.environ.get("RFX_CACHE"):
        return Path(os.environ["RFX_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rfx"


class Store:
    """Results by content: the same inputs give the same key, so a repeated or interrupted run finds
    them again.

    Args:
        root: where to keep them; default `default_root()`.
        warn: told of corrupt entries; default `warnings.warn`.

    Raises:
        UsageError: the folder cannot be made or written.
    """

    def __init__(self, root: str | Path | None = None, warn: Callable[[str], None] = warnings.warn):
        self.root = (Path(root) if root is not None else default_root()).absolute()
        self.warn = warn
        with _named_errors(
            "The cache folder cannot be used.", self.root, "set RFX_CACHE to a folder you can write"
        ):
            self.root.mkdir(parents=True, exist_ok=True)
            if not os.access(self.root, os.W_OK):
                raise PermissionError(13, "Permission denied", str(self.root))

    @staticmethod
    def key(*parts: Any) -> str:
        """Hash of JSON-like parts."""
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[
            :24
        ]

    def get_json(self, kind: str, key: str) -> Any | None:
        folder = self.get_folder(kind, key)
        try:
            return (
                None
                if folder is None
                else json.loads((folder / "data.json").read_text(encoding="utf-8"))
            )
        except (OSError, ValueError):
            return self._discard(kind, key, "is not readable")

    def put_json(self, kind: str, key: str, data: Any) -> None:
        text = json.dumps(data)
        self.put_folder(
            kind, key, lambda f: (f / "data.json").write_text(text, encoding="utf-8") and None
        )

    def get_arrays(self, kind: str, key: str) -> dict[str, np.ndarray] | None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        folder = self.get_folder(kind, key)
        try:
            return None if folder is None else load_file(folder / "data.safetensors")
        except (OSError, SafetensorError):
            return self._discard(kind, key, "is not readable")

    def put_arrays(self, kind: str, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        import numpy as np
        from safetensors.numpy import save_file

        whole = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
        self.put_folder(kind, key, lambda f: save_file(whole, f / "data.safetensors"))

    def get_folder(self, kind: str, key: str) -> Path | None:
        """The entry's folder, its checksums verified; None where there is none or it was
        corrupt."""
        folder = self.root / kind / key
        if not folder.is_dir():
            return None
        try:
            sums = json.loads((folder / _CHECKSUMS).read_text(encoding="utf-8"))
            intact = isinstance(sums, dict) and sums == _checksums(folder)
        except (OSError, ValueError):
            intact = False
        return folder if intact else self._discard(kind, key, "does not match its checksums")

    def put_folder(self, kind: str, key: str, fill: Callable[[Path], None]) -> Path:
        """`fill` writes the files of a new entry into the folder it is given; the entry appears
        when it is done."""
        folder = self.root / kind / key
        with atomic_dir(folder, lock=self._lock(kind, key)) as new:
            fill(new)
            (new / _CHECKSUMS).write_text(json.dumps(_checksums(new)), encoding="utf-8")
        return folder

    def remove(self, kind: str, key: str) -> None:
        with self._lock(kind, key):
            shutil.rmtree(self.root / kind / key, ignore_errors=True)

    def scratch(self, name: str) -> Path:
        """A new folder for files that are not kept; whoever asked removes it."""
        home = self.root / "scratch"
        home.mkdir(parents=True, exist_ok=True)
        for old in home.iterdir():
            try:
                if time.time() - old.stat().st_mtime > _SCRATCH_AGE_S:
                    shutil.rmtree(old, ignore_errors=True)
            except OSError:
                continue
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=home))

    @contextmanager
    def work(self, kind: str, key: str, waiting: Callable[[], None]) -> Iterator[None]:
        """A lock around minutes of work whose result several processes want; another than that of
        the result itself.

        Args:
            waiting: called where another process has it, before this one waits.
        """
        lock = self._lock(f"work-{kind}", key)
        if isinstance(lock, nullcontext):
            yield
            return
        from filelock import Timeout

        try:
            held = lock.acquire(timeout=1)
        except Timeout:
            waiting()
            held = lock.acquire()
        with held:
            yield

    def _lock(self, kind: str, key: str):
        try:
            from filelock import FileLock
        except ImportError:  # a board that has only NumPy: one process, no lock
            return nullcontext()
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{kind}-{key}.lock")

    def _discard(self, kind: str, key: str, why: str) -> None:
        self.warn(f"The cache entry {kind}/{key} {why}: it is removed and made again.")
        self.remove(kind, key)


def _checksums(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): file_hash(p)
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != _CHECKSUMS
    }


def file_hash(file: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _named_errors(what: str, path: Path, next_step: str) -> Iterator[None]:
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
def atomic_dir(path: str | Path, *, lock: Any = None) -> Iterator[Path]:
    """A new folder to write into; it becomes `path` when the block ends well, and is removed when
    it does not.

    A folder that was at `path` stays until then. Parents are made, and removed again if nothing
    came of it. Where `path` is a mount point, which cannot be renamed, its contents are exchanged
    instead.

    Raises:
        UsageError: the place cannot be written.
    """
    path = Path(os.path.realpath(path))  # a link stays, and what it names is written
    next_step = "give another --out, or make the folder writable"
    with _named_errors("The output folder cannot be made.", path, next_step):
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(20, "Not a directory", str(path))
        mounted = path.is_dir() and path.is_mount()
        home = path if mounted else path.parent
        made = _make_parents(home)
        new = Path(tempfile.mkdtemp(prefix=f".{path.name}.new-", dir=home))
        new.chmod(0o777 & ~_umask())
    try:
        yield new
        with _named_errors("The output folder cannot be put in place.", path, next_step):
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
    with _named_errors(
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
    with _named_errors(
        "The file cannot be written.", path, "give another path, or make the folder writable"
    ):
        if path.is_dir():
            raise IsADirectoryError(21, "Is a directory", str(path))
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
            _named_errors("The file cannot be written.", Path(path), "give another path"),
            open(path, "ab") as stream,
        ):
            stream.write(data)
        return
    path = Path(os.path.realpath(path))
    with _named_errors(
        "The file cannot be written.", path, "give another path, or make the folder writable"
    ):
        if path.is_dir():
            raise IsADirectoryError(21, "Is a directory", str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _special(path: str | Path) -> bool:
    """Whether `path` is there and neither a file nor a folder, or is the process's own stream:
    never to be replaced."""
    path = Path(os.path.abspath(path))
    return (
        path.exists()
        and not path.is_dir()
        and (not path.is_file() or path.parts[1] in ("dev", "proc"))
    )


def atomic_write_text(path: str | Path, text: str) -> None:
    """As `atomic_write_bytes`, UTF-8."""
    atomic_write_bytes(path, text.encode("utf-8"))
