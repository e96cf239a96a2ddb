"""The store finds what it kept, and throws away what is corrupt."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from rfx.core.errors import UsageError
from rfx.core.store import Store
from tests.kills import in_a_copy

KEPT, HALF, K = (c * 24 for c in "0af")  # keys as `Store.key` gives them


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


def test_leftovers_of_a_killed_process_are_swept_and_those_of_a_living_one_stay(store):
    """Scratch folders, half-written entries and old lock files."""
    store.put_json("x", KEPT, 1)
    mine = store.scratch("mine")

    def half_written() -> None:
        theirs = Store(store.root)
        (theirs.scratch("theirs") / "big").write_text("big")
        with theirs._lock("x", K):
            theirs.put_folder("x", HALF, lambda _: os.kill(os.getpid(), signal.SIGKILL))

    _, status = os.waitpid(in_a_copy(half_written), 0)
    assert os.WIFSIGNALED(status)
    assert len(names(store.root / "scratch")) == 2 and len(names(store.root / "x")) == 2
    assert Store(store.root).sweep() == 2
    assert names(store.root / "scratch") == [mine.name] and names(store.root / "x") == [KEPT]
    assert f"x-{K}.lock" in names(store.root / "locks")  # somebody may want it in a moment
    for lock in (store.root / "locks").iterdir():
        os.utime(lock, (1, 1))
    with store._lock("x", KEPT):
        os.utime(store.root / "locks" / f"x-{KEPT}.lock", (1, 1))
        assert store.sweep() > 0 and names(store.root / "locks") == [f"x-{KEPT}.lock"]
    assert store.get_json("x", KEPT) == 1 and store.said == []


@pytest.mark.parametrize("able", [True, False], ids=["in one step", "by two renames"])
def test_readers_and_writers_of_one_entry_lose_nothing(store, monkeypatch, able):
    """What a reader takes for corrupt while it is exchanged is not: it was good, and stays."""
    if not able:
        monkeypatch.setattr("rfx.core.exchange.exchange", lambda *_: False)
    store.put_json("x", "k", [-1] * 1000)

    def hammer(number: int) -> None:
        said: list[str] = []
        own = Store(store.root, warn=said.append)
        for turn in range(200):
            if (turn + number) % 2:
                own.put_json("x", "k", [turn] * 1000)
            found = own.get_json("x", "k")
            assert found and len(set(found)) == 1 and not said, f"{turn}: {found!r:.40} {said}"

    processes = [in_a_copy(partial(hammer, number)) for number in range(2)]
    assert [os.waitpid(p, 0)[1] for p in processes] == [0, 0]
    assert store.get_json("x", "k") and names(store.root / "x") == ["k"] and store.said == []


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


def test_a_cache_in_a_users_folder_takes_nothing_of_theirs(tmp_path):
    theirs = ["scratch/mydata/thesis.txt", "locks/important.txt", "locks/a.lock", "photos/.a.new-2"]
    for name in theirs:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
        os.utime(tmp_path / name, (0, 0))
    os.utime(tmp_path / "scratch" / "mydata", (0, 0))
    Store(tmp_path).sweep()
    assert all((tmp_path / name).read_text() == "mine" for name in theirs)
