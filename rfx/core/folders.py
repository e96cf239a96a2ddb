"""A new folder, or files that belong together: made beside their place, put there in one step."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from rfx.core import exchange
from rfx.core.claim import OWNER, claimed_folder, is_there, release
from rfx.core.errors import EnvironmentMissingError, UserError
from rfx.core.files import (
    as_path,
    is_mount,
    is_working_folder,
    named_errors,
    require_place,
    require_replaceable,
    umask,
)
from rfx.core.leftovers import settle
from rfx.core.room import note_room
from rfx.core.workplace import (
    COMING,
    CONTENTS,
    FILES,
    INSIDE,
    NEW,
    Workplace,
    clear,
    exchange_contents,
    exchange_whole,
    finish,
    keep,
    move_files,
)

NEXT_STEP = "give another --out, or make the folder writable"


@contextmanager
def atomic_dir(
    path: str | Path,
    *,
    lock: AbstractContextManager[object] | None = None,
    removable: Callable[[Path], bool] | None = None,
    warn: Callable[[str], None] | None = None,
    durable: bool = True,
) -> Iterator[Path]:
    """A new folder to write into; it becomes `path` when the block ends well, and is removed when
    it does not.

    A folder that was at `path` stays until then. Parents are made, and removed again if nothing
    came of it. Where `path` is a mount point, which cannot be renamed, or the folder that this
    process works in, its contents are exchanged instead.

    Args:
        lock: held while the new folder is put in place.
        removable: whether the earlier folder may go, asked when the new one is in its place.
            Otherwise it is kept under another name. None: it may.
        warn: told where the earlier folder is kept. None: the new folder is nobody's output, and
            goes where it cannot be put in place.
        durable: wait until the files are on the disk before they replace others.

    Raises:
        UsageError: the place cannot be written.
        EnvironmentMissingError: somebody cleared the new folder away while it was filled, or it
            cannot be put in place; the error says where it is kept then.
    """
    require_place(path)
    path = Path(os.path.realpath(as_path(path)))  # a link stays, and what it names is written
    settle(path, removable, warn)
    with named_errors("The output folder cannot be made.", path, NEXT_STEP):
        mounted = is_mount(path)
        home = path if mounted else path.parent
        made = _make_parents(home)
        root, claim = claimed_folder(INSIDE if mounted else f".{path.name}{NEW}", home)
        place = Workplace(root, path, durable)
        place.new.mkdir()
        place.new.chmod(0o777 & ~umask())
    stays = False
    try:
        yield place.new
        _require_there(place, claim)
        if durable:
            exchange.on_disk(place.new)
        with (
            named_errors("The output folder cannot be put in place.", path, NEXT_STEP),
            lock or nullcontext(),
        ):
            try:
                # A shell would be left in a folder that is gone, were its own exchanged whole.
                in_place = mounted or is_working_folder(path)
                exchange_contents(place) if in_place else exchange_whole(place)
            except OSError as error:
                if warn is None or not place.new.is_dir():
                    raise
                kept = _keep(place)
                stays = kept == place.new
                raise _unplaced(place, kept, error) from error
        finish(place, removable, warn)
    except BaseException as error:
        note_room(error, path if path.is_dir() else path.parent)
        gone = isinstance(error, Exception) and not isinstance(error, UserError)
        gone = gone and not is_there(claim, place.root / OWNER)
        with contextlib.suppress(OSError):  # the next job brings it in order then
            if not stays:
                finish(place, removable, warn)
        for folder in reversed(made):
            try:
                folder.rmdir()
            except OSError:
                break
        if gone:
            raise _vanished(place) from error
        raise
    finally:
        release(claim)


@contextmanager
def atomic_files(*paths: Path) -> Iterator[list[Path]]:
    """New files that belong together; they become `paths` when the block ends well. Each is
    replaced whole, and a link stays a link. If the process is killed after the first of those in
    one folder, the next one (`rfx.core.leftovers.settle`) puts the rest in place."""
    real = [Path(os.path.realpath(path)) for path in paths]
    for path in real:
        require_replaceable(path)
    with contextlib.ExitStack() as stack:
        new: dict[Path, Path] = {}
        for folder in dict.fromkeys(path.parent for path in real):
            these = [path for path in real if path.parent == folder]
            new.update(zip(these, stack.enter_context(_in_one_folder(these)), strict=True))
        yield [new[path] for path in real]


@contextmanager
def _in_one_folder(paths: Sequence[Path]) -> Iterator[list[Path]]:
    first = paths[0]
    with named_errors("The file cannot be written.", first, "give another path"):
        made = _make_parents(first.parent)
        root, claim = claimed_folder(f".{first.name}{NEW}", first.parent)
        place = Workplace(root, first)
        place.new.mkdir()
    try:
        new = [place.new / path.name for path in paths]
        yield new
        _require_there(place, claim)
        for file in new:
            file.chmod(0o666 & ~umask())
        place.begin(FILES, [path.name for path in paths])
        with named_errors("The file cannot be written.", first, "give another path"):
            move_files(place)
        clear(root)
    except BaseException as error:
        note_room(error, first.parent)
        if not place.journal.exists():  # else the next process puts the rest in place
            clear(root)
            for folder in reversed(made):
                with contextlib.suppress(OSError):
                    folder.rmdir()
        raise
    finally:
        release(claim)


def _make_parents(folder: Path) -> list[Path]:
    """Make `folder` and what is missing above it; returns what was made, outermost first."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _keep(place: Workplace) -> Path:
    """Where a finished folder is kept that cannot be put in its place: under a name of its own, or
    where it is now if that cannot be either, or if the earlier folder is not back yet."""
    if place.read()[0] in (CONTENTS, COMING):
        return place.new
    try:
        return Path(keep(place, place.new, "finished"))
    except OSError:
        return place.new


def _unplaced(place: Workplace, kept: Path, error: OSError) -> EnvironmentMissingError:
    once = ", before another command with this --out removes it" if kept == place.new else ""
    return EnvironmentMissingError(
        f"The output is finished, but cannot be put in its place. Nothing of it is lost: it is "
        f"kept as {kept}.",
        got=f"{error.filename or place.target}: {error.strerror}",
        allowed="a folder that can be replaced",
        next_step=f"move the finished output from {kept} to where you want it{once}",
    )


def _require_there(place: Workplace, claim: int) -> None:
    if not place.new.is_dir() or not is_there(claim, place.root / OWNER):
        raise _vanished(place)


def _vanished(place: Workplace) -> EnvironmentMissingError:
    return EnvironmentMissingError(
        "The folder in which the output was being made has been removed by something else.",
        got=str(place.new),
        allowed="a place that nothing clears while a job runs",
        next_step="find out what clears it, or give another --out, then run the same command again",
    )
