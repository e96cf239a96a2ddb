"""What takes the place of another file is on the disk before it does: a machine that loses its
power must not be left with a name that stands for nothing."""

import errno
import os
from pathlib import Path

import pytest

import rfx.core.exchange as exchange
from rfx.core.files import atomic_write_bytes
from rfx.core.folders import atomic_dir, atomic_files
from rfx.core.workplace import INSIDE

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="only Linux says which file a descriptor is of"
)


@pytest.fixture
def happened(monkeypatch):
    """What became of which path, in order: ("synced", path), ("renamed", to), ("exchanged", with).
    Each thing is really done."""
    events = []

    def synced(descriptor, sync=os.fsync):
        sync(descriptor)
        events.append(("synced", Path(f"/proc/self/fd/{descriptor}").readlink()))

    def renaming(rename):
        def renamed(source, target, **more):
            rename(source, target, **more)
            events.append(("renamed", Path(target)))

        return renamed

    def exchanged(one, other, both=exchange.exchange):
        done = both(one, other)
        if done:
            events.append(("exchanged", other))
        return done

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renaming(os.rename))
    monkeypatch.setattr(os, "replace", renaming(os.replace))
    monkeypatch.setattr(exchange, "exchange", exchanged)
    return events


def split(events, target):
    """The names of what was synced before the first event that puts something at `target`, and the
    paths of what was synced after it."""
    at = next(i for i, (what, path) in enumerate(events) if what != "synced" and path == target)
    before, after = events[:at], events[at + 1 :]
    return (
        {path.name for what, path in before if what == "synced"},
        [path for what, path in after if what == "synced"],
    )


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_is_on_the_disk_before_it_takes_its_place(tmp_path, happened, there):
    out = tmp_path / "out"
    if there:
        out.mkdir()
        (out / "earlier").write_text("1")
    with atomic_dir(out) as new:
        (new / "deep").mkdir()
        for name in ("model.onnx", "deep/weights"):
            (new / name).write_text("2")
    before, after = split(happened, out)
    assert {"model.onnx", "weights", "deep", "new"} <= before
    assert tmp_path in after  # and its name after that
    assert {p.name for p in out.rglob("*")} == {"model.onnx", "deep", "weights"}


def test_contents_that_are_exchanged_wait_too(tmp_path, happened, monkeypatch):
    """A mount point cannot be renamed: what is in it is."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.onnx").write_text("1")
    monkeypatch.setattr("rfx.core.folders.is_mount", lambda path: path == out)
    with atomic_dir(out) as new:
        (new / "model.onnx").write_text("2")
    before, after = split(happened, out / "model.onnx")
    assert {"model.onnx", "new"} <= before and out in after
    assert (out / "model.onnx").read_text() == "2"


def test_what_has_to_be_copied_waits_too(tmp_path, happened, monkeypatch):
    """Folders of an image's layer cannot be renamed, and neither can files between two disks."""
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr("rfx.core.folders.is_mount", lambda path: path == out)

    def refused(source, target, rename=os.rename, **more):
        within = (
            Path(target).relative_to(out).parts if Path(target).is_relative_to(out) else (INSIDE,)
        )
        if not within[0].startswith(INSIDE):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source, target, **more)

    monkeypatch.setattr(os, "rename", refused)
    with atomic_dir(out) as new:
        (new / "deep").mkdir()
        (new / "deep" / "weights").write_text("2")
    at = happened.index(("renamed", out / "deep" / "weights"))
    what, copied = happened[at - 1]
    assert (what, copied.parent) == ("synced", out / "deep") and copied.name.startswith(INSIDE)
    assert ("synced", out / "deep") in happened[at:]
    assert (out / "deep" / "weights").read_text() == "2"


def test_files_that_belong_together_wait_too(tmp_path, happened):
    files = [tmp_path / "a.engine", tmp_path / "a.json"]
    with atomic_files(*files) as new:
        for file in new:
            file.write_text("2")
    for file in files:
        before, after = split(happened, file)
        assert {"a.engine", "a.json"} <= before and tmp_path in after


def test_a_single_file_waits_too(tmp_path, happened):
    file = tmp_path / "table.json"
    file.write_text("1")
    atomic_write_bytes(file, b"2")
    before, after = split(happened, file)
    (written,) = before
    assert "table.json" in written and after == [tmp_path] and file.read_bytes() == b"2"


def test_what_can_be_made_again_does_not_wait(tmp_path, happened):
    """As the store has it: an entry that is lost is computed once more."""
    with atomic_dir(tmp_path / "entry", durable=False) as new:
        (new / "file").write_text("2")
    assert not [event for event in happened if event[0] == "synced"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EINVAL])
def test_a_disk_that_takes_nothing_more_is_said_and_another_stays_as_it_is(
    tmp_path, monkeypatch, number
):
    """Some network disks know no waiting. A full one is no output at all."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "earlier").write_text("1")

    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    try:
        with atomic_dir(out) as new:
            (new / "model.onnx").write_text("2")
        assert number == errno.EINVAL and [p.name for p in out.iterdir()] == ["model.onnx"]
    except OSError as error:
        assert number != errno.EINVAL and error.errno == number
        assert [p.name for p in out.iterdir()] == ["earlier"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
