"""The content-addressed store: results that a repeated or interrupted run finds again.

An entry is a folder `<root>/<kind>/<key>/` with its files and their checksums. It is written beside
and exchanged in one step, so a reader never sees half of one; a corrupt one is removed with a
warning and made again. A reader holds no lock: what looks corrupt to it may only be another one by
now, so it looks again under the lock before it removes anything.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rfx.core.claim import claimed_folder, is_marked, left_behind, release
from rfx.core.files import file_hash, named_errors
from rfx.core.folders import atomic_dir
from rfx.core.kept import remember
from rfx.core.leftovers import settle_all
from rfx.core.workplace import NEW

if TYPE_CHECKING:
    import numpy as np
    from filelock import FileLock

_T = TypeVar("_T")
_CHECKSUMS = "checksums.json"
_LOCKS, _SCRATCH = "locks", "scratch"
_LOCK = re.compile(r"[a-z-]+-[0-9a-f]{24}\.lock")  # the name that rfx gives a lock file
_LOCK_AGE_S = 24 * 3600  # a lock file that nobody took for so long is removed
_claims: dict[Path, int] = {}  # the scratch folders of this process, each with its claim


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
        with named_errors(
            "The cache folder cannot be used.", self.root, "set RFX_CACHE to a folder you can write"
        ):
            self.root.mkdir(parents=True, exist_ok=True)
            if not os.access(self.root, os.W_OK):
                raise PermissionError(13, "Permission denied", str(self.root))

    def telling(self, warn: Callable[[str], None]) -> Store:
        """The same store, whose corrupt entries are told to `warn`."""
        return Store(self.root, warn)

    @staticmethod
    def key(*parts: Any) -> str:
        """Hash of JSON-like parts."""
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[
            :24
        ]

    def get_json(self, kind: str, key: str) -> Any | None:
        """The JSON of an entry; None where there is none or it was corrupt."""

        def read(folder: Path) -> Any:
            return json.loads((folder / "data.json").read_text(encoding="utf-8"))

        return self._read(kind, key, read, (OSError, ValueError))

    def put_json(self, kind: str, key: str, data: Any) -> None:
        """Keep what JSON can hold."""
        text = json.dumps(data)

        def fill(folder: Path) -> None:
            (folder / "data.json").write_text(text, encoding="utf-8")

        self.put_folder(kind, key, fill)

    def get_arrays(self, kind: str, key: str) -> dict[str, np.ndarray] | None:
        """The arrays of an entry by name; None where there is none or it was corrupt."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        def read(folder: Path) -> dict[str, np.ndarray]:
            return load_file(folder / "data.safetensors")

        return self._read(kind, key, read, (OSError, SafetensorError))

    def put_arrays(self, kind: str, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep arrays by name."""
        import numpy as np
        from safetensors.numpy import save_file

        whole = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
        self.put_folder(kind, key, lambda f: save_file(whole, f / "data.safetensors"))

    def get_folder(self, kind: str, key: str) -> Path | None:
        """The entry's folder, its checksums verified; None where there is none or it was
        corrupt."""
        folder = self.root / kind / key
        if not folder.is_dir() and not self._under_exchange(folder) and not folder.is_dir():
            return None  # looked for again: an exchange may have ended in between
        if _intact(folder):
            remember(self.root)
            return folder
        with self._lock(kind, key):
            if not folder.is_dir():
                return None
            if _intact(folder):  # it was under exchange
                remember(self.root)
                return folder
            self._discard(folder, "does not match its checksums")
        return None

    def _read(
        self,
        kind: str,
        key: str,
        read: Callable[[Path], _T],
        errors: tuple[type[Exception], ...],
    ) -> _T | None:
        folder = self.get_folder(kind, key)
        if folder is None:
            return None
        try:
            return read(folder)
        except errors:
            pass
        with self._lock(kind, key):
            if not folder.is_dir():
                return None
            try:
                return read(folder)
            except errors:
                self._discard(folder, "is not readable")
        return None

    def _under_exchange(self, folder: Path) -> bool:
        """Whether an entry that is not there may only be on its way: where a system cannot exchange
        two folders in one step, there is a moment without either."""
        with contextlib.suppress(OSError), os.scandir(folder.parent) as entries:
            return any(e.name.startswith(f".{folder.name}{NEW}") for e in entries)
        return False

    def put_folder(self, kind: str, key: str, fill: Callable[[Path], None]) -> Path:
        """`fill` writes the files of a new entry into the folder it is given; the entry appears
        when it is done."""
        folder = self.root / kind / key
        with atomic_dir(folder, lock=self._lock(kind, key), durable=False) as new:
            fill(new)
            (new / _CHECKSUMS).write_text(json.dumps(_checksums(new)), encoding="utf-8")
        remember(self.root)
        return folder

    def remove(self, kind: str, key: str) -> None:
        """Forget an entry; none is no error."""
        with self._lock(kind, key):
            shutil.rmtree(self.root / kind / key, ignore_errors=True)

    def scratch(self, name: str) -> Path:
        """A new folder for files that are not kept; whoever asked removes it."""
        home = self.root / _SCRATCH
        home.mkdir(parents=True, exist_ok=True)
        for folder, claim in list(_claims.items()):
            if not folder.exists():  # whoever asked for it has removed it
                release(_claims.pop(folder, claim))
        folder, claim = claimed_folder(f"{name}-", home)
        _claims[folder] = claim
        return folder

    def sweep(self) -> int:
        """Remove what processes that were killed have left: scratch folders, half-written entries
        and old lock files. What a living process works on stays. Returns how many were found."""
        found = 0
        for kind in _listed(self.root):
            if kind.name not in (_LOCKS, _SCRATCH) and kind.is_dir():
                found += len(settle_all(kind))
        for folder in _listed(self.root / _SCRATCH):
            found += self._sweep_scratch(folder)
        for file in _listed(self.root / _LOCKS):
            found += self._sweep_lock(file)
        return found

    def _sweep_scratch(self, folder: Path) -> bool:
        if not is_marked(folder):  # it is just being made, or is not ours
            return False
        with left_behind(folder) as free:
            if free:
                shutil.rmtree(folder, ignore_errors=True)
            return free

    def _sweep_lock(self, file: Path) -> bool:
        if not _LOCK.fullmatch(file.name):
            return False
        try:
            if time.time() - file.stat().st_mtime < _LOCK_AGE_S:
                return False
        except OSError:
            return False
        with left_behind(file) as free:
            if free:
                file.unlink(missing_ok=True)
            return free

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

    def _lock(self, kind: str, key: str) -> FileLock | nullcontext[None]:
        try:
            from filelock import FileLock
        except ImportError:  # a board that has only NumPy: one process, no lock
            return nullcontext()
        folder = self.root / _LOCKS
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{kind}-{key}.lock")

    def _discard(self, folder: Path, why: str) -> None:
        """Remove an entry whose lock is held."""
        name = f"{folder.parent.name}/{folder.name}"
        self.warn(f"The cache entry {name} {why}: it is removed and made again.")
        shutil.rmtree(folder, ignore_errors=True)


def _intact(folder: Path) -> bool:
    try:
        sums = json.loads((folder / _CHECKSUMS).read_text(encoding="utf-8"))
        return isinstance(sums, dict) and sums == _checksums(folder)
    except (OSError, ValueError):
        return False


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _checksums(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): file_hash(p)
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != _CHECKSUMS
    }
