"""What processes that were killed have left behind: brought in order when the next one starts."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rfx.core.claim import is_marked, left_behind
from rfx.core.workplace import INSIDE, NEW, RANDOM, Workplace, finish

OLD, HALF = ".old-", ".new-"  # in the names of earlier versions of rfx
_WORKPLACE = re.compile(rf"\..+{re.escape(NEW)}[a-z0-9_]{{{RANDOM}}}")
_AGE_S = 24 * 3600  # earlier versions claimed nothing: what is younger may still be in use


def settle(
    path: Path,
    removable: Callable[[Path], bool] | None = None,
    warn: Callable[[str], None] | None = None,
) -> list[str]:
    """Bring in order what lies beside a place, or in it where it is a mount point: an earlier
    output that a killed process has left under another name comes back, and half-written ones are
    removed. What a living process works on stays.

    Args:
        removable: whether an earlier folder may go; None: it may.
        warn: told of what came back, and of what is kept.

    Returns:
        The names of what was found and brought in order.
    """
    path = Path(os.path.realpath(path))
    found = []
    for root in [*_named(path.parent, f".{path.name}{NEW}"), *_named(path, INSIDE)]:
        if _end(root, removable, warn):
            found.append(root.name)
    for root in _named(path.parent, f".{path.name}{OLD}"):
        if _end_old(root, path, removable, warn):
            found.append(root.name)
    if warn is not None:
        for root in _named(path.parent, f".{path.name}{HALF}"):
            # It has no mark of rfx, so that it may be somebody's own: it is named and stays.
            warn(
                f"{root} is most likely what an earlier version of rfx left half-written when it "
                "was killed. rfx does not use it; remove it if you do not know it."
            )
    return found


def settle_all(folder: Path) -> list[str]:
    """The same for all that was being made in a folder, not in those within it."""
    names = [entry.name for entry in os.scandir(folder) if _is_workplace(entry.name)]
    return [name for name in sorted(names) if _end(folder / name, None, None)]


def settle_within(folder: Path) -> list[str]:
    """The same for everything that was being made anywhere in a folder, which is rfx's own."""
    found = []
    for where, names, files in os.walk(folder):
        for name in [n for n in (*names, *files) if _is_workplace(n)]:
            if _end(Path(where) / name, None, None):
                found.append(name)
        names[:] = [n for n in names if not _is_workplace(n)]
    return found


def is_leftover(path: Path, folder: Path) -> bool:
    """Whether a path in a folder is a workplace, or lies in one that lies in the folder, by the
    names and the claims."""
    below = [p for p in (path, *path.parents) if folder in p.parents]
    return any(_is_workplace(p.name) and (p.is_file() or is_marked(p)) for p in below)


def _is_workplace(name: str) -> bool:
    return _WORKPLACE.fullmatch(name) is not None


def _named(folder: Path, start: str) -> Iterator[Path]:
    """What lies in a folder and has a name that begins so."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.startswith(start))
    except OSError:
        return
    for name in names:
        if len(name) == len(start) + RANDOM:
            yield folder / name


def _end(
    root: Path, removable: Callable[[Path], bool] | None, warn: Callable[[str], None] | None
) -> bool:
    """Whether something was left behind here, and is in order now."""
    if root.is_symlink():
        return False
    if root.is_dir() and not is_marked(root):
        with contextlib.suppress(OSError):  # it is just being made; what is not empty is not ours
            root.rmdir()
            return True
        return False
    with left_behind(root) as free:
        if not free:
            return False
        if not root.is_dir():
            return _remove(root)
        place = Workplace.of(root)
        try:
            restored = finish(place, removable, warn)
        except OSError:
            return False
    if restored and warn is not None:
        warn(
            f"An earlier run was killed while it put its output in place. The output before it is "
            f"back: {place.target}."
        )
    return True


def _end_old(
    root: Path,
    path: Path,
    removable: Callable[[Path], bool] | None,
    warn: Callable[[str], None] | None,
) -> bool:
    """The same for what versions before had: `.NAME.old-XXXXXXXX/was`."""
    was = root / "was"
    if root.is_symlink() or not was.is_dir():
        return False
    if not os.path.lexists(path):
        was.rename(path)
        with contextlib.suppress(OSError):  # something of somebody lies there too, and stays
            root.rmdir()
        if warn is not None:
            warn(f"An earlier run was killed. The output before it is back: {path}.")
        return True
    return _aged(root) and removable is not None and removable(was) and _remove(root)


def _aged(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > _AGE_S
    except OSError:
        return False


def _remove(path: Path) -> bool:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    return not os.path.lexists(path)
