"""The store finds what it kept, and throws away what is corrupt."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rfx.core.errors import UsageError
from rfx.core.store import Store


@pytest.fixture
def store(tmp_path):
    said: list[str] = []
    store = Store(tmp_path / "cache", warn=said.append)
    store.said = said
    return store


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_what_is_kept_is_found_again(store):
    arrays = {"a/b": np.arange(6.0).reshape(2, 3)[:, ::-1], "c": np.float32([[1]])}
    store.put_json("x", "k", {"n": [1, 2.5, None]})
    store.put_arrays("y", "k", arrays)
    other = Store(store.root)
    assert other.get_json("x", "k") == {"n": [1, 2.5, None]}
    found = other.get_arrays("y", "k")
    assert found.keys() == arrays.keys()
    for name in arrays:
        np.testing.assert_array_equal(found[name], arrays[name])
        assert found[name].dtype == arrays[name].dtype
    assert other.get_json("x", "other") is None and other.get_folder("z", "k") is None


def test_keys_depend_on_every_part():
    keys = {
        Store.key("a", 1),
        Store.key("a", 2),
        Store.key("b", 1),
        Store.key("a", 1, None),
        Store.key("a1"),
    }
    assert len(keys) == 5 and Store.key("a", {"x": 1, "y": 2}) == Store.key("a", {"y": 2, "x": 1})


@pytest.mark.parametrize("damage", ["truncated", "changed", "removed", "no checksums", "added"])
def test_a_corrupt_entry_is_removed_and_said(store, damage):
    store.put_arrays("scores", "k", {"a": np.ones(100)})
    folder = store.root / "scores" / "k"
    file = folder / "data.safetensors"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:50])
    elif damage == "changed":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    elif damage == "removed":
        file.unlink()
    elif damage == "no checksums":
        (folder / "checksums.json").write_text("{")
    else:
        (folder / "extra").write_text("x")
    assert store.get_arrays("scores", "k") is None
    assert not folder.exists() and "scores/k" in store.said[0]
    store.put_arrays("scores", "k", {"a": np.ones(100)})
    assert store.get_arrays("scores", "k") is not None


def test_json_that_is_intact_but_no_json_is_removed(store):
    store.put_folder("x", "k", lambda f: (f / "data.json").write_text("not json") and None)
    assert store.get_json("x", "k") is None and store.said and not (store.root / "x" / "k").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_an_entry_that_fails_leaves_nothing(store, error):
    store.put_json("x", "k", 1)

    def fill(folder):
        (folder / "half").write_text("half")
        raise error

    with pytest.raises(error):
        store.put_folder("x", "k", fill)
    assert store.get_json("x", "k") == 1 and names(store.root / "x") == ["k"]


def test_a_second_process_says_that_it_waits(store):
    said = []

    def second():
        with Store(store.root).work("quickstart", "k", lambda: said.append("waiting")):
            said.append("had it")

    with ThreadPoolExecutor(1) as pool:
        with store.work("quickstart", "k", lambda: said.append("never")):
            done = pool.submit(second)
            until = time.monotonic() + 30
            while not said and time.monotonic() < until:
                time.sleep(0.05)
            assert said == ["waiting"]
        done.result(30)
    assert said == ["waiting", "had it"]


def test_old_scratch_is_cleared(store):
    old, new = store.scratch("a"), store.scratch("a")
    os.utime(old, (1, 1))
    newest = store.scratch("a")
    assert not old.exists() and new.exists() and newest.exists() and len({new, newest}) == 2


def test_the_root_can_be_named(monkeypatch, tmp_path):
    monkeypatch.setenv("RFX_CACHE", str(tmp_path / "here"))
    assert Store().root == tmp_path / "here"
    monkeypatch.delenv("RFX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert Store().root == tmp_path / "xdg" / "rfx"


def test_a_root_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="RFX_CACHE"):
        Store(tmp_path / "file")
