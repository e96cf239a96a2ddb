"""Workplaces: where a new folder or file is made, beside the place that it is for.

A workplace is a hidden folder, `.NAME.rfx-new-XXXXXXXX`, which is claimed (`rfx.core.claim`) as
long as its process lives. In it are `new`, what is being made; `old`, where the earlier folder
waits to be removed if the two cannot be exchanged in one step; and `journal.json` from the moment
that the exchange begins. A process that is killed at any moment leaves a workplace from which
`finish` brings everything back.

Some folders cannot be renamed: a mount point, and under overlayfs one of an image's layer. Their
contents are exchanged instead, folder by folder where those cannot be renamed either.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rfx.core import exchange
from rfx.core.claim import OWNER, claimed_file, release

NEW = ".rfx-new-"  # in the name of every workplace
INSIDE = f".rfx{NEW}"  # begins the name of one in a mount point, which has another name elsewhere
RANDOM = 8  # characters of the name that follow, which make it the only one
# What is exchanged. Contents first go (CONTENTS), then come (COMING).
WHOLE, CONTENTS, COMING, FILES = "whole", "contents", "coming", "files"
# The file system refuses to rename a folder, although it takes what lies in it.
_NOT_WHOLE = (errno.EXDEV, errno.EBUSY)


@dataclass(frozen=True)
class Workplace:
    """Where a folder is made, and the place that it is for."""

    root: Path
    target: Path
    durable: bool = True  # wait until it is on the disk before it replaces anything

    @classmethod
    def of(cls, root: Path) -> Workplace:
        """That of a folder that was found: its name says for which place it was."""
        if root.name.startswith(INSIDE):
            return cls(root, root.parent)
        return cls(root, root.parent / root.name[1:].rpartition(NEW)[0])

    @property
    def new(self) -> Path:
        return self.root / "new"

    @property
    def old(self) -> Path:
        return self.root / "old"

    @property
    def journal(self) -> Path:
        return self.root / "journal.json"

    def read(self) -> tuple[str, list[str]]:
        """What the journal says is being exchanged, and the names that come; "" before that."""
        try:
            said = json.loads(self.journal.read_text(encoding="utf-8"))
            return str(said["what"]), [str(name) for name in said["names"]]
        except (OSError, ValueError, KeyError, TypeError):
            return "", []

    def begin(self, what: str, names: Sequence[str] = ()) -> None:
        """From now on the exchange may be half-done."""
        text = json.dumps({"what": what, "names": sorted(names)})
        file = self.root / "journal.tmp"
        file.write_text(text, encoding="utf-8")
        if self.durable and what == FILES:
            exchange.on_disk(self.root)
        file.rename(self.journal)
        self.settled(self.root)

    def settled(self, folder: Path) -> None:
        """Renames in `folder` are on the disk from now on."""
        if self.durable:
            exchange.names_on_disk(folder)


def exchange_whole(place: Workplace) -> None:
    """`new` becomes the target; what was there is in the workplace afterwards."""
    for _ in range(3):  # another process may put one there, or remove it, in the same moment
        if not os.path.lexists(place.target):
            try:
                place.new.rename(place.target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                continue
            break
        place.begin(WHOLE)
        try:
            if exchange.exchange(place.new, place.target):
                break
            place.target.rename(place.old)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in _NOT_WHOLE:
                raise
            exchange_contents(place)
            return
        try:
            place.new.rename(place.target)
        except BaseException:
            place.old.rename(place.target)
            raise
        break
    place.settled(place.target.parent)


def exchange_contents(place: Workplace) -> None:
    """The same for a folder that cannot be renamed: what is in it goes, what is in `new` comes."""
    place.old.mkdir(exist_ok=True)
    mounted = place.root.name.startswith(INSIDE)
    before = [p for p in place.target.iterdir() if not p.name.startswith(INSIDE)]
    before = [p for p in before if not (mounted and is_lost_and_found(p))]
    coming = sorted(place.new.iterdir())
    names = [p.name for p in coming]
    place.begin(CONTENTS, names)
    try:
        for source in before:
            _move(source, place.old / source.name)
        place.begin(COMING, names)
        for source in coming:
            _move(source, place.target / source.name)
    except BaseException:
        _roll_back(place, names)
        raise
    place.settled(place.target)


def is_lost_and_found(path: Path) -> bool:
    """Whether this is the folder that the file system itself keeps at its root, with nothing in it
    that anybody could read."""
    if path.name != "lost+found" or path.is_symlink() or not path.is_dir():
        return False
    try:
        return not any(path.iterdir())
    except PermissionError:
        return True


def _roll_back(place: Workplace, names: Sequence[str]) -> None:
    """A half-done exchange of contents becomes none. It can be done again where it was killed
    too: a name that is still in `new` has not come, or not with all that is in it."""
    what, _ = place.read()
    for name in names:
        came = os.path.lexists(place.target / name)
        if came and (what == COMING or not os.path.lexists(place.new / name)):
            _move(place.target / name, place.new / name)
    for source in list(place.old.iterdir()):
        _move(source, place.target / source.name)
    place.journal.unlink(missing_ok=True)


def _move(source: Path, goal: Path) -> None:
    """Rename, or where the file system refuses that, move what is in a folder and copy a file. A
    folder that is half-moved can be moved on, and back."""
    try:
        source.rename(goal)
        return
    except OSError as error:
        number = error.errno
        if number not in (*_NOT_WHOLE, errno.ENOTEMPTY, errno.EEXIST) or source.is_symlink():
            raise
        if not source.is_dir() and (number != errno.EXDEV or not source.is_file()):
            raise
    if source.is_dir():
        goal.mkdir(exist_ok=True)
        for path in list(source.iterdir()):
            _move(path, goal / path.name)
        shutil.copystat(source, goal)
        exchange.names_on_disk(goal)
        source.rmdir()
        return
    copy, claim = claimed_file(INSIDE, goal.parent)  # if this is killed, it is known for a leftover
    try:
        shutil.copy2(source, copy)
        os.fsync(claim)
        copy.replace(goal)
    except BaseException:
        copy.unlink(missing_ok=True)
        raise
    finally:
        release(claim)
    source.unlink()


def move_files(place: Workplace) -> None:
    """What `atomic_files` made goes to its place; what is there already is no error."""
    for file in sorted(place.new.iterdir()):
        file.replace(place.root.parent / file.name)
    place.settled(place.root.parent)


def finish(
    place: Workplace,
    removable: Callable[[Path], bool] | None = None,
    warn: Callable[[str], None] | None = None,
) -> bool:
    """End a workplace in which nobody works any more, wherever it stopped: an exchange of a folder
    that is half-done is undone, one of files is completed, and the rest is removed. An earlier
    folder in which something lies that must not go is kept under another name.

    Returns:
        Whether the earlier folder had to be brought back to its place.

    Raises:
        OSError: the file system refuses; nothing is removed then.
    """
    what, names = place.read()
    restored = False
    if what == FILES:
        move_files(place)
    elif what in (CONTENTS, COMING) and any(os.path.lexists(place.new / name) for name in names):
        _roll_back(place, names)
        restored = True
    elif what == WHOLE and place.old.is_dir() and not os.path.lexists(place.target):
        place.old.rename(place.target)
        restored = True
    if removable is not None and what in (WHOLE, CONTENTS, COMING) and place.journal.exists():
        for earlier in (place.old, place.new):
            if earlier.is_dir() and any(earlier.iterdir()) and not removable(earlier):
                kept = keep(place, earlier, "earlier")
                if warn is not None:
                    warn(
                        f"Something was added to {place.target} or changed there while the new "
                        f"output was made. Nothing of it is lost: the earlier folder is {kept}."
                    )
    clear(place.root)
    return restored


def clear(root: Path) -> None:
    """Remove a workplace, its claim last: as long as something is in it, it can be told whose it
    was."""
    with contextlib.suppress(OSError):
        for path in root.iterdir():
            if path.name == OWNER:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        (root / OWNER).unlink(missing_ok=True)
        root.rmdir()


def keep(place: Workplace, kept: Path, word: str) -> str:
    """Keep a folder of the workplace beside the place that it was for, or in it where that is a
    mount point; returns its name there, `NAME.WORD-XXXXXXXX`.

    Raises:
        OSError: the file system refuses.
    """
    inside = place.root.name.startswith(INSIDE)
    home = place.target if inside else place.target.parent
    name = f"{word}-" if inside else f"{place.target.name}.{word}-"
    folder = Path(tempfile.mkdtemp(prefix=name, dir=home))
    folder.chmod(kept.stat().st_mode & 0o777)
    try:
        _move(kept, folder)  # over the empty one
    except OSError:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise
    return str(folder)
