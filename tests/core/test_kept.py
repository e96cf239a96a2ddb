"""What is said of results that are kept is true: after an interrupt, or where memory or the disk
gives out."""

import errno

import pytest

from rfx.core import kept
from rfx.core.entry import run_command
from rfx.core.errors import ExitCode
from rfx.core.faults import explained
from rfx.core.store import Store


@pytest.fixture(autouse=True)
def begun():
    kept.forget()
    yield
    kept.forget()


def test_a_result_is_kept_once_it_is_put_or_found(tmp_path):
    store = Store(tmp_path)
    assert store.get_json("scores", "a") is None and not kept.anything()
    with pytest.raises(TypeError):
        store.put_json("scores", "a", object())
    assert not kept.anything()
    store.put_json("scores", "a", 1)
    assert kept.places() == [tmp_path]
    kept.forget()
    assert store.get_json("scores", "b") is None and not kept.anything()
    assert store.get_json("scores", "a") == 1 and kept.places() == [tmp_path]


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOSPC, "full", "x")])
def test_an_error_promises_no_more_than_there_is(tmp_path, error):
    assert "kept" not in explained(error).next_step
    Store(tmp_path).put_json("scores", "a", 1)
    assert explained(error).next_step.endswith("; the stages that were finished are kept")


def test_an_interrupt_of_a_command_says_what_is_left_when_it_comes(tmp_path, capsys):
    def command():
        Store(tmp_path).put_json("scores", "a", 1)
        raise KeyboardInterrupt

    def left():
        return "All is kept." if kept.anything() else "Nothing is kept."

    assert run_command(command, interrupted=left) == ExitCode.INTERRUPT
    assert "Interrupted. All is kept." in capsys.readouterr().err

    def at_once():
        raise KeyboardInterrupt

    run_command(at_once, interrupted=left)  # a command begins with nothing
    assert "Interrupted. Nothing is kept." in capsys.readouterr().err


def test_what_another_process_has_put_in_the_meantime_counts_too(tmp_path, monkeypatch):
    """An entry that is found only under the lock, because it was being exchanged."""
    store = Store(tmp_path)
    store.put_json("scores", "a", 1)
    kept.forget()
    file = tmp_path / "scores" / "a" / "data.json"
    whole, lock = file.read_text(), store._lock
    file.write_text("half")

    def lock_of_the_other(*name):
        file.write_text(whole)
        return lock(*name)

    monkeypatch.setattr(store, "_lock", lock_of_the_other)
    assert store.get_json("scores", "a") == 1 and kept.places() == [tmp_path]
