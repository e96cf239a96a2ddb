"""Writes happen whole or not at all, and a place that cannot be written is named."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rfx.core.errors import UsageError
from rfx.core.files import (
    as_path,
    atomic_write_text,
    require_file_place,
    require_place,
)
from rfx.core.folders import atomic_dir


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(UsageError, match="file"), atomic_dir(path):
            pass
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(UsageError, match="file"):
        atomic_write_text(tmp_path / "file" / "x.json", "{}")


def test_a_file_is_replaced_whole(tmp_path, monkeypatch):
    atomic_write_text(tmp_path / "new" / "x.json", json.dumps({"a": "ü"}, ensure_ascii=False))
    assert json.loads((tmp_path / "new" / "x.json").read_text(encoding="utf-8")) == {"a": "ü"}

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError):
        atomic_write_text(tmp_path / "new" / "x.json", "half")
    assert names(tmp_path / "new") == ["x.json"] and "ü" in (tmp_path / "new" / "x.json").read_text(
        encoding="utf-8"
    )
    with pytest.raises(UsageError, match="directory"):
        atomic_write_text(tmp_path / "new", "x")


def test_a_link_stays_a_link_and_what_it_names_is_written(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "file").symlink_to(tmp_path / "far" / "file")
    (tmp_path / "folder").symlink_to(tmp_path / "far" / "folder")  # nothing is there yet
    for _ in range(2):
        require_file_place(tmp_path / "file")
        atomic_write_text(tmp_path / "file", "text")
        require_place(tmp_path / "folder")
        with atomic_dir(tmp_path / "folder") as new:
            (new / "x").write_text("x")
    assert (tmp_path / "file").is_symlink() and (tmp_path / "folder").is_symlink()
    assert (tmp_path / "far" / "file").read_text() == "text" and names(
        tmp_path / "far" / "folder"
    ) == ["x"]
    assert names(tmp_path) == ["far", "file", "folder"] and names(tmp_path / "far") == [
        "file",
        "folder",
    ]


def test_a_pipe_is_written_to_and_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    require_file_place(tmp_path / "pipe")
    with ThreadPoolExecutor() as pool:
        read = pool.submit((tmp_path / "pipe").read_text)
        atomic_write_text(tmp_path / "pipe", "text")
        assert read.result(10) == "text"
    assert (tmp_path / "pipe").is_fifo()
    atomic_write_text("/dev/null", "text")
    assert Path("/dev/null").is_char_device()


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="this system has no /dev/stdout")
def test_a_redirected_stream_keeps_what_it_has(tmp_path):
    """`rfx ... --out /dev/stdout >> log`: /dev/stdout is then a file, and the log is not ours to
    empty."""
    log = tmp_path / "log"
    log.write_text("before\n")
    with log.open("a") as stream:
        program = (
            "from rfx.core.files import atomic_write_text\n"
            "atomic_write_text('/dev/stdout', 'table\\n')"
        )
        subprocess.run([sys.executable, "-c", program], stdout=stream, check=True)
    assert log.read_text() == "before\ntable\n"


@pytest.mark.parametrize("path", [None, 3, b"out", "", "a\0b", "a\ud800b", ["out"]])
def test_what_is_no_path_is_refused(path):
    for ask in (as_path, require_place, require_file_place):
        with pytest.raises(UsageError, match="not a path"):
            ask(path)
    with pytest.raises(UsageError, match="not a path"), atomic_dir(path):
        pass
    with pytest.raises(UsageError) as error:
        as_path(path)
    # As it was given, not the name of its type.
    assert error.value.got == ("nothing" if path is None else repr(path))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/proc/x", "no place for files"),
        ("/proc/self/x/y", "no place for files"),
        ("/sys/x", "no place for files"),
        ("/dev/x", "no place for files"),
        ("/dev/null", "no place for files|Not a directory"),
        ("n" * 256, "name too long"),
        ("n" * 250, "name too long"),  # of a name that is a little longer while it is made
        ("/".join(["folder"] * 1000), "name too long"),
        ("x" * 2_000_000, "name too long"),
        ("file/out", "Not a directory"),
        ("loop", "Not a directory|Too many"),
    ],
)
def test_a_special_place_is_refused_before_any_work(tmp_path, monkeypatch, path, said):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    Path("loop").symlink_to("loop")
    before = names(tmp_path)
    with pytest.raises(UsageError, match=said) as refused:
        require_place(path)
    assert len(refused.value.render()) < 1000 and refused.value.next_step
    assert names(tmp_path) == before
    with pytest.raises(UsageError), atomic_dir(path):
        pass
    assert names(tmp_path) == before


def test_a_read_only_disk_is_refused_before_any_work(tmp_path, monkeypatch):
    """Permissions say nothing there: only trying does."""

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system", str(tmp_path))

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    for ask in (require_place, require_file_place):
        with pytest.raises(UsageError, match="Read-only"):
            ask(tmp_path / "out")


def test_a_file_of_another_kind_is_not_replaced(tmp_path):
    file = tmp_path / "table.json"
    for text, replaced in (("table", True), ("", True), ("thesis", False)):
        file.write_text(text)
        ask = {"ours": lambda f: f.read_text() == "table", "kind": "a table of rfx"}
        if replaced:
            require_file_place(file, **ask)
        else:
            with pytest.raises(UsageError, match=r"table.json[\s\S]*a table of rfx"):
                require_file_place(file, **ask)
    require_file_place(tmp_path / "new.json", **ask)

    def cannot_read(_):
        raise UnicodeDecodeError("utf-8", b"", 0, 1, "not text")

    with pytest.raises(UsageError, match="another kind"):
        require_file_place(file, ours=cannot_read, kind="a table")
    assert file.read_text() == "thesis"


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path):
    from tests.kills import killed_at

    moment = 0
    while killed_at(moment := moment + 1, lambda: atomic_write_text(tmp_path / "x", "new")):
        assert not (tmp_path / "x").exists() or (tmp_path / "x").read_text() in ("old", "new")
        atomic_write_text(tmp_path / "x", "old")
        assert names(tmp_path) == ["x"], moment
    assert moment > 4 and (tmp_path / "x").read_text() == "new"
