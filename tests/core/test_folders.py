"""A folder is put in place in one step, and nothing that was there is lost, whatever happens."""

import ctypes
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rfx.core import exchange, manifest
from rfx.core.claim import claimed_folder, release
from rfx.core.errors import EnvironmentMissingError
from rfx.core.folders import atomic_dir, atomic_files
from rfx.core.leftovers import is_leftover, settle, settle_within
from rfx.core.workplace import NEW
from tests.kills import killed_at


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


WAYS = ["in one step", "by two renames", "in a mount point", "in a layer", "over a quota"]


@pytest.fixture(params=WAYS)
def way(request, tmp_path, monkeypatch):
    """Each way in which a folder is put in place."""
    if request.param in ("in a layer", "over a quota"):
        refuse_renames(monkeypatch, files=request.param == "over a quota")
    if request.param == "by two renames":
        monkeypatch.setattr(exchange, "exchange", lambda *_: False)
    if request.param == "in a mount point":
        monkeypatch.setattr(Path, "is_mount", lambda self: self == tmp_path / "out")
    return request.param


def refuse_renames(monkeypatch, *, files: bool) -> None:
    """As overlayfs does for folders of an image's layer: none that is there now can be renamed.
    XFS refuses files too, from a folder of one project's quota to that of another."""
    rename = Path.rename

    def refuses(self, goal):
        new = NEW in str(self) and NEW not in str(goal)
        whole = self.is_dir() and self.name in ("out", "both")
        if (whole and not (new and not files)) or (files and self.parent.name == "both"):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(self), None, str(goal))
        return rename(self, goal)

    monkeypatch.setattr(Path, "rename", refuses)
    monkeypatch.setattr(exchange, "_library", lambda: SimpleNamespace(renameat2=no_renameat2))


def no_renameat2(*_) -> int:
    ctypes.set_errno(errno.EXDEV)
    return -1


def write(out: Path, version: str) -> None:
    with atomic_dir(out) as new:
        (new / version).write_text(version)
        (new / "both").mkdir()
        (new / "both" / "deep").write_text(version)


def version_of(out: Path) -> str:
    """Which version is at a place: all of it, or the test fails."""
    version = (out / "both" / "deep").read_text()
    assert names(out / "both") == ["deep"]
    assert names(out) == sorted(["both", version]) and (out / version).read_text() == version
    return version


def test_a_folder_appears_whole(tmp_path):
    with atomic_dir(tmp_path / "a" / "b" / "out") as new:
        (new / "x").write_text("1")
        assert not (tmp_path / "a" / "b" / "out").exists()
    assert names(tmp_path / "a" / "b") == ["out"] and names(tmp_path / "a" / "b" / "out") == ["x"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_folder_that_fails_is_not_there_and_an_old_one_stays(tmp_path, error):
    with pytest.raises(error), atomic_dir(tmp_path / "a" / "b" / "out") as new:
        (new / "x").write_text("1")
        raise error
    assert names(tmp_path) == []
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    with pytest.raises(error), atomic_dir(tmp_path / "out") as new:
        raise error
    assert names(tmp_path) == ["out"] and (tmp_path / "out" / "old").read_text() == "old"
    with atomic_dir(tmp_path / "out") as new:
        (new / "x").write_text("1")
    assert names(tmp_path / "out") == ["x"] and names(tmp_path) == ["out"]


@pytest.mark.parametrize("able", [True, False], ids=["in one step", "by two renames"])
def test_an_exchange_that_fails_puts_the_old_folder_back(tmp_path, monkeypatch, able):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    full = OSError(28, "No space left on device")
    rename = Path.rename

    def fails(self, target):
        if self.name == "new":
            raise full
        return rename(self, target)

    def no_exchange(*_):
        if able:
            raise full
        return False

    monkeypatch.setattr(Path, "rename", fails)
    monkeypatch.setattr("rfx.core.exchange.exchange", no_exchange)
    with pytest.raises(OSError, match="No space"), atomic_dir(tmp_path / "out") as new:
        (new / "x").write_text("1")
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["old"]


def test_a_mount_point_is_filled_in_place(tmp_path, monkeypatch):
    """As the volume of a container: the folder itself cannot be renamed."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")
    inode = out.stat().st_ino
    monkeypatch.setattr(Path, "is_mount", lambda self: self == out)
    with pytest.raises(ValueError), atomic_dir(out) as new:
        raise ValueError
    assert names(out) == ["old"]
    with atomic_dir(out) as new:
        (new / "x").write_text("1")
        (new / "d").mkdir()
        (new / "d" / "y").write_text("2")
    assert names(out) == ["d", "x"] and out.stat().st_ino == inode


def test_two_folders_are_exchanged_in_one_step(tmp_path):
    """As this system can, or the test says so."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not exchange.exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange two names")
    assert names(tmp_path / "a") == ["b"] and names(tmp_path / "b") == ["a"]
    with pytest.raises(FileNotFoundError):
        exchange.exchange(tmp_path / "a", tmp_path / "nowhere")


def test_a_kill_at_any_moment_leaves_a_whole_folder(tmp_path, way):
    """Right after it, with nobody to bring anything in order, only two renames and a mount point
    may leave the place without its folder; the next start brings it back."""
    out = tmp_path / "out"
    moment, seen = 0, set()
    while True:
        shutil.rmtree(out, ignore_errors=True)
        write(out, "old")
        if not killed_at(moment := moment + 1, lambda: write(out, "new")):
            break
        if way == "in one step":
            seen.add(version_of(out))
        told: list[str] = []
        was_whole = (out / "both" / "deep").exists()
        settle(out, warn=told.append)
        settle_within(out)  # as `rfx.pipeline.places` does
        seen.add(version_of(out))
        assert names(tmp_path) == ["out"], (moment, names(tmp_path))
        if way == "by two renames":
            assert bool(told) == (not was_whole), moment
        write(out, "next")
        assert version_of(out) == "next" and names(tmp_path) == ["out"]
    assert moment > 12 and seen == {"old", "new"} and version_of(out) == "new"


def test_a_kill_at_any_moment_leaves_files_that_fit_together(tmp_path):
    """An engine and the facts beside it."""
    one, two = tmp_path / "engine", tmp_path / "engine.json"

    def write_both(version: str) -> None:
        with atomic_files(one, two) as new:
            for file in new:
                file.write_text(version)

    moment, seen = 0, set()
    while True:
        write_both("old")
        if not killed_at(moment := moment + 1, lambda: write_both("new")):
            break
        settle_within(tmp_path)
        assert one.read_text() == two.read_text(), moment
        seen.add(one.read_text())
        assert names(tmp_path) == ["engine", "engine.json"]
    assert moment > 10 and seen == {"old", "new"}
    with pytest.raises(ValueError), atomic_files(one, two):
        raise ValueError
    assert names(tmp_path) == ["engine", "engine.json"] and one.read_text() == "new"


def test_what_a_living_process_makes_is_left_alone(tmp_path):
    with atomic_dir(tmp_path / "out") as new:
        (new / "x").touch()
        assert settle(tmp_path / "out") == [] and settle_within(tmp_path) == []
        assert new.is_dir()
    assert names(tmp_path) == ["out"]


def test_leftovers_of_others_are_left_alone(tmp_path):
    """A name that begins with this one's is another place, and one that only looks so is a file of
    somebody."""
    root, claim = claimed_folder(".out.new-1.rfx-new-", tmp_path)
    release(claim)
    (tmp_path / ".out.rfx-new-mine").write_text("mine")
    (tmp_path / ".out.rfx-new-linked00").symlink_to(tmp_path / ".out.rfx-new-mine")
    assert settle(tmp_path / "out") == []
    assert root.is_dir() and (tmp_path / ".out.rfx-new-mine").read_text() == "mine"
    assert settle(tmp_path / "out.new-1") == [root.name] and not root.exists()


@pytest.mark.parametrize("beside", [[], ["mine"]])
def test_what_earlier_versions_left_comes_back(tmp_path, beside):
    old = tmp_path / ".out.old-abcdefgh"
    (old / "was").mkdir(parents=True)
    (old / "was" / "model").write_text("weeks")
    for name in beside:
        (old / name).touch()
    told: list[str] = []
    assert settle(tmp_path / "out", warn=told.append) == [old.name]
    assert names(tmp_path) == [old.name] * len(beside) + ["out"]
    assert (tmp_path / "out" / "model").read_text() == "weeks"
    assert "back" in told[0] and str(tmp_path / "out") in told[0]


@pytest.mark.parametrize("when", ["while it is filled", "at the end"])
def test_a_folder_that_is_cleared_away_is_an_error_that_says_so(tmp_path, when):
    write(tmp_path / "out", "old")
    error = pytest.raises(EnvironmentMissingError, match="removed by something else")
    with error, atomic_dir(tmp_path / "out") as new:
        shutil.rmtree(new.parent)
        if when == "while it is filled":
            (new / "x").write_text("1")
        else:  # a library makes the folders above its files anew
            new.mkdir(parents=True)
    assert version_of(tmp_path / "out") == "old" and names(tmp_path) == ["out"]


def test_what_was_added_meanwhile_is_kept(tmp_path, way):
    out, told = tmp_path / "out", []
    write(out, "old")

    def only_ours(folder: Path) -> bool:
        return not (folder / "thesis").exists()

    with atomic_dir(out, removable=only_ours, warn=told.append) as new:
        (new / "new").touch()
        (out / "thesis").write_text("years")
    (kept,) = tmp_path.rglob("*earlier-*")
    assert (kept / "thesis").read_text() == "years" and str(kept) in told[0]
    assert (out / "new").exists() and not (out / "thesis").exists()
    with atomic_dir(tmp_path / "other", removable=only_ours) as new:
        pass
    assert not list(tmp_path.glob(".*"))


def test_what_only_looks_like_a_leftover_is_never_touched(tmp_path):
    """A folder without rfx's mark may be a user's own, whatever it is called and however old."""
    theirs = [tmp_path / ".out.rfx-new-20240101", tmp_path / ".out.new-20240101"]
    for folder in theirs:
        folder.mkdir()
        (folder / "data").write_text("mine")
        (folder / ".owner").write_text("me")
        os.utime(folder, (0, 0))
    told: list[str] = []
    assert settle(tmp_path / "out", warn=told.append) == []
    assert all((folder / "data").read_text() == "mine" for folder in theirs)
    # What looks as if an earlier version had left it is named.
    assert len(told) == 1 and str(theirs[1]) in told[0] and "remove it" in told[0]
    assert not is_leftover(theirs[0] / "data", tmp_path)


@pytest.mark.parametrize("able", [True, False], ids=["under a name of its own", "where it is"])
def test_a_finished_folder_that_cannot_be_put_in_place_is_kept(tmp_path, monkeypatch, able):
    write(tmp_path / "out", "old")
    rename = Path.rename

    def fails(self, goal):
        if self.name in ("out", "new") and (not able or ".finished-" not in str(goal)):
            raise OSError(errno.EIO, "Input/output error", str(self))
        return rename(self, goal)

    monkeypatch.setattr(exchange, "exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", fails)
    error = pytest.raises(EnvironmentMissingError, match="is finished")
    with error as raised, atomic_dir(tmp_path / "out", warn=print) as new:
        (new / "x").write_text("hours")
    (kept,) = [p.parent for p in tmp_path.rglob("x")]
    assert (kept / "x").read_text() == "hours" and f"kept as {kept}." in raised.value.what
    assert kept.name.startswith("out.finished-" if able else "new")
    assert ("before another command" in raised.value.next_step) == (not able)
    assert version_of(tmp_path / "out") == "old" and len(names(tmp_path)) == 2


@pytest.mark.parametrize("inside", [[], ["found"]], ids=["empty", "with a file"])
def test_the_lost_and_found_of_a_disk_stays(tmp_path, monkeypatch, inside):
    out = tmp_path / "out"
    (out / "lost+found").mkdir(parents=True)
    for name in inside:
        (out / "lost+found" / name).touch()
    inode = (out / "lost+found").stat().st_ino
    assert manifest.strangers(out, {})[0].startswith("lost+found")  # here it is somebody's
    monkeypatch.setattr(Path, "is_mount", lambda self: self == out)
    assert bool(manifest.strangers(out, {})) == bool(inside)
    with atomic_dir(out) as new:
        (new / "x").touch()
    assert names(out) == ["x"] if inside else ["lost+found", "x"]
    if not inside:
        assert (out / "lost+found").stat().st_ino == inode


def test_links_to_files_that_belong_together_stay_links(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "engine").symlink_to("elsewhere/one")
    with atomic_files(tmp_path / "engine", tmp_path / "engine.json") as new:
        for file in new:
            file.write_text("new")
    assert names(tmp_path) == ["elsewhere", "engine", "engine.json"]
    assert (tmp_path / "engine").is_symlink() and names(tmp_path / "elsewhere") == ["one"]
    assert (tmp_path / "elsewhere" / "one").read_text() == "new"


IN_IT = """
import os
from pathlib import Path
from rfx.core.folders import atomic_dir

for version in ("one", "two"):
    with atomic_dir(OUT) as new:
        (new / version).write_text(version)
    assert os.getcwd() == HERE and os.listdir() == [version], os.listdir()
    assert Path(HERE).samefile(".")
"""


@pytest.mark.parametrize("given", [".", "absolute", "link"])
def test_the_folder_that_a_process_works_in_stays(tmp_path, given):
    """A shell that is in it finds the new files there."""
    here = tmp_path / "d"
    here.mkdir()
    (tmp_path / "link").symlink_to(here)
    out = {".": ".", "absolute": str(here), "link": str(tmp_path / "link")}[given]
    before = here.stat().st_ino
    code = f"OUT, HERE = {out!r}, {str(here)!r}\n{IN_IT}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert here.stat().st_ino == before and names(here) == ["two"]
    assert names(tmp_path) == ["d", "link"]
