"""`~` in a path is a home folder, as in a shell."""

from pathlib import Path

import pytest

from rfx.core import bounded, files
from rfx.core.folders import atomic_dir
from rfx.core.home import at_home


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def test_a_home_is_read_where_a_shell_reads_one(home, tmp_path):
    assert at_home("~") == home and at_home("~/x y") == home / "x y"
    assert at_home("~root") == Path("~root").expanduser()
    for text in (".", "a/~/b", "a~", "/~/x"):
        assert at_home(text) == Path(text)


def test_a_name_that_is_no_home_stays_one_however_often_it_is_read(home, tmp_path):
    for text, name in (("~no-such-user/x", "~no-such-user/x"), ("./~/x", "~/x")):
        path = at_home(text)
        assert path == tmp_path / "work" / name and at_home(str(path)) == path


def test_whatever_takes_a_path_reads_it_so(home, tmp_path):
    assert files.as_path("~/x") == bounded.as_path("~/x", "table") == home / "x"
    with atomic_dir("~/out") as new:
        (new / "file").write_text("1")
    files.atomic_write_text("~/one.json", "{}")
    assert bounded.read_json("~/one.json", what="table") == {}
    assert (home / "out" / "file").is_file() and not list((tmp_path / "work").iterdir())
