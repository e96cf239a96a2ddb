"""The content-addressed store: results that a repeated or interrupted run finds again.

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

from rfx.core.files import atomic_dir, file_hash, named_errors

if TYPE_CHECKING:
    import numpy as np
    from filelock import FileLock

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
        folder = self.get_folder(kind, key)
        if folder is None:
            return None
        try:
            return json.loads((folder / "data.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._discard(kind, key, "is not readable")
            return None

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

        folder = self.get_folder(kind, key)
        if folder is None:
            return None
        try:
            return load_file(folder / "data.safetensors")
        except (OSError, SafetensorError):
            self._discard(kind, key, "is not readable")
            return None

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
        if not folder.is_dir():
            return None
        try:
            sums = json.loads((folder / _CHECKSUMS).read_text(encoding="utf-8"))
            intact = isinstance(sums, dict) and sums == _checksums(folder)
        except (OSError, ValueError):
            intact = False
        if not intact:
            self._discard(kind, key, "does not match its checksums")
            return None
        return folder

    def put_folder(self, kind: str, key: str, fill: Callable[[Path], None]) -> Path:
        """`fill` writes the files of a new entry into the folder it is given; the entry appears
        when it is done."""
        folder = self.root / kind / key
        with atomic_dir(folder, lock=self._lock(kind, key)) as new:
            fill(new)
            (new / _CHECKSUMS).write_text(json.dumps(_checksums(new)), encoding="utf-8")
        return folder

    def remove(self, kind: str, key: str) -> None:
        """Forget an entry; none is no error."""
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

    def _lock(self, kind: str, key: str) -> FileLock | nullcontext[None]:
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
