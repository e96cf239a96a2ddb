"""Interrupted in each stage: nothing half-written, what was there stays, the next run resumes."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from rfx.pipeline.session import Session
from tests.commands import STANDARD, given, run

FIRST = ["load", "dense baseline", "score"]  # of these a filled store would leave nothing to do
STAGES = [
    *FIRST,
    "search",
    "reconstruct",
    "bake, shrink, export",
    "parity",
    "accuracy",
    "latency",
]


def command(trained, out):
    return ["prune-export", *given(trained, **STANDARD, flops=0.5, out=out), "--json"]


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupt_leaves_nothing_behind(stage, trained, request, tmp_path, monkeypatch):
    request.getfixturevalue("cache" if stage in FIRST else "warm")
    real = Session.stage

    @contextmanager
    def interrupted(self, name):
        with real(self, name) as clock:
            yield clock
            if name == stage:  # at its end, when most could be half-done
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Session, "stage", interrupted)
        result = run(*command(trained, tmp_path / "out"))
    assert result.exit_code == 130, result.output + str(result.exception)
    assert not (tmp_path / "out").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]
    # What is kept is said where there is something, and there alone.
    kept = [p.name for p in (tmp_path / "cache").iterdir() if p.name not in ("locks", "scratch")]
    assert ("kept in" in result.stderr) == bool(kept) == (stage != "load"), result.stderr
    assert ("nothing was finished" in result.stderr) == (stage == "load")
    step = json.loads(result.stdout)["error"]["next_step"]
    assert ("goes on from" in step) == bool(kept)


def test_the_next_run_resumes_and_an_old_output_survives(trained, cache, tmp_path, monkeypatch):
    first = run(*command(trained, tmp_path / "out"))
    assert first.exit_code in (0, 1, 7), first.output + str(first.exception)
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    real = Session.stage

    @contextmanager
    def interrupted(self, name):
        with real(self, name) as clock:
            yield clock
            if name == "accuracy":
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Session, "stage", interrupted)
        assert run(*command(trained, tmp_path / "out")).exit_code == 130
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == before
    again = run(*command(trained, tmp_path / "out"))
    cached = {s["name"] for s in json.loads(again.stdout)["stages"] if s["cached"]}
    assert {"dense baseline", "score"} <= cached


def test_an_interrupt_of_the_latency_stages_leaves_nothing_and_resumes(
    trained, cache, tmp_path, monkeypatch
):
    from rfx.cost import effort

    monkeypatch.setattr(effort, "SECONDS", (0.2, 2.0))
    monkeypatch.setattr(effort, "MIN_ROUNDS", 3)
    arguments = list(command(trained, tmp_path / "out"))
    arguments[arguments.index("--flops")] = "--latency"
    arguments[arguments.index("0.5")] = "0.8"
    real = Session.stage
    for stage in ("latency table", "search and closed loop"):

        @contextmanager
        def interrupted(self, name, stage=stage):
            with real(self, name) as clock:
                yield clock
                if name == stage:
                    raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Session, "stage", interrupted)
            result = run(*arguments)
        assert result.exit_code == 130 and json.loads(result.stdout)["exit_code"] == 130
        assert [p.name for p in tmp_path.iterdir()] == ["cache"] and not list(
            (cache / "scratch").iterdir()
        )
    last = json.loads(run(*arguments).stdout)
    assert "gates" in last


def test_an_interrupt_that_a_library_wrapped_is_still_one(trained, tmp_path, monkeypatch):
    """As Python does with one that arrives while a class is being made."""
    real = Session.stage

    @contextmanager
    def wrapped(self, name):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise RuntimeError("Error calling __set_name__") from error
        with real(self, name) as clock:
            yield clock

    monkeypatch.setattr(Session, "stage", wrapped)
    result = run(*command(trained, tmp_path / "out"))
    assert (
        result.exit_code == 130
        and json.loads(result.stdout)["exit_code"] == 130
        and not (tmp_path / "out").exists()
    )


def test_a_real_signal_ends_the_process_cleanly(trained, tmp_path):
    environment = {**os.environ, "RFX_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(
        [sys.executable, "-m", "rfx", *command(trained, tmp_path / "out")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a suite that was started in the background has it ignored, and its children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while (
        not (tmp_path / "cache").exists() and time.monotonic() < deadline and process.poll() is None
    ):
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    # Where the signal meets code that Python runs from a text (a dataclass in the making), Python
    # ends by the signal itself, which shells show as 130 too.
    assert process.returncode in (130, -signal.SIGINT), errors
    assert "error: Interrupted." in errors
    assert "Traceback" not in errors and not (tmp_path / "out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_place_is_named(trained, cache, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    result = run(*command(trained, locked / "out"))
    assert result.exit_code == 2 and "locked" in result.output


def test_an_output_that_cannot_be_made_is_named(trained, cache, tmp_path):
    (tmp_path / "file").write_text("a file, not a folder")
    result = run(*command(trained, tmp_path / "file" / "out"))
    assert result.exit_code == 2 and "file" in result.output, result.output + str(result.exception)
    assert (tmp_path / "file").read_text() == "a file, not a folder"


def limited(size):
    """A child process that cannot write a file larger than `size` bytes: what a full disk is to a
    write."""

    def limit():
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


@pytest.mark.parametrize("size", [2_000, pytest.param(60_000, marks=pytest.mark.slow), 300_000])
def test_a_write_that_the_disk_refuses_is_named(trained, tmp_path, size):
    """Whatever file meets it first: a message, no traceback, no output, nothing half-written; the
    next run goes through."""
    environment = {**os.environ, "RFX_CACHE": str(tmp_path / "cache")}
    run = [sys.executable, "-m", "rfx", *command(trained, tmp_path / "out")]
    done = subprocess.run(
        run, env=environment, capture_output=True, text=True, preexec_fn=limited(size)
    )
    assert done.returncode == 4, done.stderr + done.stdout
    assert "Traceback" not in done.stderr and "File too large" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]
    assert not [
        p
        for p in (tmp_path / "cache").rglob("*")
        if ".rfx-new-" in p.name or p.name.endswith(".tmp")
    ]
