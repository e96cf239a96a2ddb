"""A run opens no connection, whatever its libraries would like to report."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.robustness_network import can_watch, watch
from tests.commands import STANDARD, given

ROOT = Path(__file__).parents[2]
# Every runtime is imported and asked, then a model is loaded, scored and searched.
JOBS = """
import contextlib, sys
from rfx.cli.app import app
for arguments in (["env"], ["plan", *sys.argv[1:], "--flops", "0.5"]):
    with contextlib.suppress(SystemExit):
        app(arguments)
"""
# Where strace is not: Python's own sockets at least, those of libraries in Python too.
HOOK = """
import sys
def hook(event, given):
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        raise RuntimeError(f"asked for {given}")
    if event == "socket.connect" and not isinstance(given[1], (str, bytes)):
        raise RuntimeError(f"connected to {given}")
sys.addaudithook(hook)
"""


def environment(**more: str) -> dict[str, str]:
    """Without what the tests themselves switch off."""
    switches = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")
    kept = {k: v for k, v in os.environ.items() if k not in switches}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def test_a_run_opens_no_connection(trained, warm):
    command = [sys.executable, "-c", JOBS, *given(trained, **STANDARD)]
    if can_watch():
        watched = watch(command, environment())
        assert (watched.connections, watched.packets) == ((), 0)
        assert watched.code == 0
        return
    command[2] = HOOK + JOBS
    subprocess.run(command, env=environment(), check=True, capture_output=True, timeout=300)


@pytest.mark.skipif(not can_watch(), reason="strace is not here, or may not watch")
def test_the_watch_sees_what_is_sent():
    """To a port of this machine where nobody listens."""
    code = (
        "import socket\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.connect(('127.0.0.1', 9)); s.send(b'a')\n"
        "s.sendto(b'b', ('127.0.0.1', 9))\n"
    )
    watched = watch([sys.executable, "-c", code], environment())
    assert len(watched.connections) == 1 and watched.packets >= 1


ENTRIES = (
    "import rfx",
    "import rfx.cli.app",
    "import rfx.board",
    "import rfx.quantize",
    "import rfx.runtimes.onnxruntime.runtime",
)
WATCH = """
import importlib.abc, os, sys
class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime" and os.environ.get("ORT_DISABLE_TELEMETRY") != "1":
            print("onnxruntime is imported with its telemetry on")
sys.meta_path.insert(0, Watch())
{entry}
import rfx.runtimes.find
rfx.runtimes.find.runtime_class("ort").availability()
import onnxruntime
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""


@pytest.mark.parametrize("entry", ENTRIES)
def test_telemetry_is_off_before_the_runtime_is_imported(entry):
    """The wheel asks for its maker's host as it is imported: later is too late."""
    command = [sys.executable, "-c", WATCH.format(entry=entry)]
    done = subprocess.run(
        command, env=environment(), check=True, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["1"], done.stdout


def test_what_a_user_has_set_stays(monkeypatch):
    from rfx.core import telemetry

    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    monkeypatch.delenv("DO_NOT_TRACK", raising=False)
    monkeypatch.setenv(telemetry.ALLOW, "1")
    telemetry.switch_off()
    assert "DO_NOT_TRACK" not in os.environ
    monkeypatch.delenv(telemetry.ALLOW)
    telemetry.switch_off()
    assert os.environ["DO_NOT_TRACK"] == "1" and os.environ["ORT_DISABLE_TELEMETRY"] == "0"
