"""The manifest of an output: every file in the folder with its hash, so that rfx knows again what
it wrote there and nobody has touched since.

It is written last. Evidence cannot hold its own hash, and the reports are made from it: the
manifest holds those of all of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from rfx.core.bounded import read_json
from rfx.core.errors import EnvironmentMissingError, UsageError
from rfx.core.files import atomic_write_text, file_hash, is_mount
from rfx.core.leftovers import is_leftover
from rfx.core.version import __version__
from rfx.core.workplace import is_lost_and_found

FILE = "manifest.json"
SCHEMA = 1
OUTPUT, SWEEP, REPORTS = "rfx output", "rfx sweep", "rfx reports"  # what a folder is
_KINDS = (OUTPUT, SWEEP, REPORTS)


def hashes(folder: Path) -> dict[str, str]:
    """Every file in a folder, however deep, with its hash; the manifest itself is left out."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    found = {
        p.relative_to(folder).as_posix(): file_hash(p) for p in files if not is_leftover(p, folder)
    }
    found.pop(FILE, None)
    return found


def seal(folder: Path, kind: str, expected: Mapping[str, str], names: Iterable[str] = ()) -> None:
    """Check a finished folder and write its manifest, the last thing before it is put in place.

    Args:
        kind: what the folder is, e.g. `OUTPUT`.
        expected: files that were written, with their hashes.
        names: more files that were written.

    Raises:
        EnvironmentMissingError: a file has gone, or is not what was written.
    """
    there = hashes(folder)
    wrong = [f"{name} is missing" for name in {**expected, **dict.fromkeys(names)}]
    wrong = [text for text in wrong if text.removesuffix(" is missing") not in there]
    wrong += [
        f"{name} has other contents than were written"
        for name, digest in expected.items()
        if there.get(name, digest) != digest
    ]
    if wrong:
        raise EnvironmentMissingError(
            "Files of the output were removed or changed by something else while it was made.",
            got=f"{folder}: {some(wrong)}",
            allowed="a place that nothing clears while a job runs",
            next_step="find out what does that, or give another --out, then run the same command "
            "again",
        )
    _write(folder, kind, there)


def read(folder: Path) -> tuple[str, dict[str, str]] | None:
    """What a folder is and the files that rfx wrote there; None where there is no manifest, or one
    that rfx did not write."""
    file = folder / FILE
    try:
        data: Any = None if file.is_symlink() else read_json(file, what="manifest")
    except UsageError:
        return None
    if not isinstance(data, dict) or data.get("schema_version") != SCHEMA:
        return None
    kind, files = data.get("kind"), data.get("files")
    if kind not in _KINDS or not isinstance(files, dict):
        return None
    if not all(_inside(name) and isinstance(digest, str) for name, digest in files.items()):
        return None
    return kind, files


def strangers(folder: Path, files: Mapping[str, str]) -> list[str]:
    """What lies in a folder and is not one of `files` with its hash, each with the reason. Links
    are never followed. The lost+found of a file system that is mounted there is the system's."""
    found = []
    parents = {str(p) for name in files for p in PurePosixPath(name).parents}
    for where, folders, names in os.walk(folder):
        here = Path(where)
        links = [n for n in folders if (here / n).is_symlink()]
        claimed = [n for n in folders if n not in links and is_leftover(here / n, folder)]
        if here == folder and is_lost_and_found(here / "lost+found") and is_mount(here):
            claimed.append("lost+found")
        folders[:] = sorted(n for n in folders if n not in links and n not in claimed)
        for name in folders:
            if (here / name).relative_to(folder).as_posix() not in parents:
                found.append(f"{(here / name).relative_to(folder)}/ (added)")
        for name in sorted([*names, *links]):
            path = here / name
            if path == folder / FILE and not path.is_symlink() and read(folder) is not None:
                continue
            known = files.get(path.relative_to(folder).as_posix())
            if is_leftover(path, folder):
                continue
            if why := _why(path, known):
                found.append(f"{path.relative_to(folder)} ({why})")
    return found


def record(folder: Path, written: Iterable[Path], without: Iterable[str] = ()) -> None:
    """Add files that rfx has written into an output, where it has a manifest.

    Args:
        without: folders of the output that were made anew: what the manifest says of them goes.
    """
    found = read(folder)
    if found is None:
        return
    kind, files = found
    gone = [f"{name}/" for name in without]
    kept = {n: h for n, h in files.items() if not any(n.startswith(g) for g in gone)}
    new = {p.relative_to(folder).as_posix(): file_hash(p) for p in written if p.is_file()}
    _write(folder, kind, {**kept, **new})


def _write(folder: Path, kind: str, files: Mapping[str, str]) -> None:
    data = {
        "schema_version": SCHEMA,
        "kind": kind,
        "tool": f"rfx {__version__}",
        "files": dict(sorted(files.items())),
    }
    atomic_write_text(folder / FILE, json.dumps(data, indent=1) + "\n")


def _why(path: Path, known: str | None) -> str:
    """Why a path is not the file that was written; "" where it is."""
    if path.is_symlink():
        return "a link"
    if known is None:
        return "added"
    try:
        return "" if path.is_file() and file_hash(path) == known else "changed"
    except OSError as error:
        return error.strerror or "cannot be read"


def _inside(name: object) -> bool:
    """Whether a name stays in its folder."""
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def some(texts: list[str], most: int = 10) -> str:
    """The first of many, and how many more there are."""
    more = f", and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def refuse(folder: Path, found: list[str], by: str, allowed: str) -> None:
    """Raises UsageError where something lies in a folder that must not be lost: up to ten of it
    are named."""
    if found:
        raise UsageError(
            f"The output folder holds something that {by} did not write, or that has changed.",
            got=f"{folder}: {some(found)}",
            allowed=allowed,
            next_step="give another --out, or move them away",
        )
