"""Writes happen whole or not at all, and a place that cannot be written is named."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rfx.core.errors import UsageError
from rfx.core.files import atomic_dir, atomic_write_text, require_file_place, require_place


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


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


def test_an_exchange_that_fails_puts_the_old_folder_back(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    rename = Path.rename

    def fails(self, target):
        if ".new-" in self.name:
            raise OSError(28, "No space left on device", str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError), atomic_dir(tmp_path / "out") as new:
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
