"""stdout holds the result and nothing else, whatever libraries do; a reader that goes away is no
error; nothing is read from stdin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import run

# A runtime of another package, whose libraries print and warn in every way there is.
NOISY = """
import logging, os, sys, warnings
from rfx.core.registry import register
from rfx.runtimes.base import Availability
from rfx.runtimes.onnxruntime.runtime import OnnxRuntimeCpu

@register("runtime", "noisy")
class Noisy(OnnxRuntimeCpu):
    name = "noisy"

    @classmethod
    def availability(cls):
        print("NOISE of print")
        sys.stderr.write("NOISE of stderr\\n")
        os.write(1, b"NOISE of native code\\n")
        warnings.warn("NOISE of a warning")
        logging.getLogger("a.library").error("NOISE of a logger")
        try:
            return Availability(False, "it read " + input("NOISE of a question? "))
        except EOFError:
            return Availability(False, os.environ.get("REASON", "nothing was read"))
"""
MAIN = "import sys, noisy; from rfx.cli.app import main; main()"


@pytest.fixture(scope="module")
def noisy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("noisy")
    (folder / "noisy.py").write_text(NOISY, encoding="utf-8")
    return folder


def rfx(folder: Path, *args: str, shell: str = "", code: str = MAIN, **env: str):
    """`rfx ARGS` as a program, with its stdin full of answers; `shell` is what follows it on the
    command line of a shell."""
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[2])])
    command = [sys.executable, "-c", code, *args]
    if shell:
        command = ["bash", "-c", f'set -o pipefail; "$@" {shell}', "bash", *command]
    return subprocess.run(
        command,
        input="y\n" * 9,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": path, **env},
    )


def test_libraries_print_nothing_and_are_answered_nothing(noisy):
    said = rfx(noisy, "env", "--json")
    assert said.returncode == 0
    rows = {row["name"]: row for row in json.loads(said.stdout)["runtimes"]}
    assert rows["noisy"]["reason"] == "nothing was read"
    assert said.stderr == ""


def test_libraries_print_on_stderr_where_one_looks_for_a_fault(noisy):
    said = rfx(noisy, "env", "--json", RFX_SHOW_LIBRARIES="1")
    json.loads(said.stdout)
    for way in ("print", "stderr", "native code", "a warning", "a logger", "a question"):
        assert f"NOISE of {way}" in said.stderr


@pytest.mark.parametrize(
    "shell, code",
    [
        ("| head -c 0", 0),
        ("2>&1 | head -c 0", 0),
        ("<&- 2>&-", 0),
        (">/dev/full", 4),
    ],
)
def test_a_reader_that_goes_away_is_no_error(noisy, shell, code):
    said = rfx(noisy, "env", shell=shell)
    assert said.returncode == code
    assert "Traceback" not in said.stderr and "BrokenPipe" not in said.stderr
    if code:
        assert "No space left on device" in said.stderr


@pytest.mark.parametrize(
    "args, shell",
    [
        (["--help"], "| head -c 0"),
        (["--version"], ">&-"),
        (["gate", "nowhere", "--json"], "2>&1 | head -c 0"),
    ],
)
def test_so_it_is_without_a_session(noisy, args, shell):
    said = rfx(noisy, *args, shell=shell)
    assert said.returncode == (2 if "gate" in args else 0)
    assert "Traceback" not in said.stderr


def test_a_bug_has_its_type_and_its_sentence_in_json(noisy):
    code = (
        "import rfx.pipeline.environment as job\n"
        "def environment(): raise KeyError('no such\\n::error::thing')\n"
        "job.environment = environment\n" + MAIN
    )
    said = rfx(noisy, "env", "--json", code=code)
    assert said.returncode == 6
    error = json.loads(said.stdout)["error"]
    assert "bug of rfx" in error["what"] and "KeyError" in error["what"]
    assert "no such" in error["what"]
    assert "Traceback" in said.stderr and "KeyError" in said.stderr
    assert not any(line.strip().startswith("::") for line in said.stderr.splitlines())


@pytest.mark.parametrize(
    "raised, code, words",
    [
        ("MemoryError()", 4, "memory"),
        ("RuntimeError('std::bad_alloc')", 4, "memory"),
        ("RecursionError('maximum recursion depth exceeded')", 2, "nested too deep"),
        ("OSError(36, 'File name too long', 'x' * 9000)", 2, "path"),
        ("ValueError('embedded null byte')", 2, "NUL"),
        ("UnicodeEncodeError('utf-8', 'a\\ud800', 1, 2, 'surrogates not allowed')", 2, "lone"),
    ],
)
def test_what_no_input_may_do_is_an_error_with_a_next_step(monkeypatch, raised, code, words):
    import rfx.pipeline.environment

    def environment() -> None:
        raise eval(raised)

    monkeypatch.setattr(rfx.pipeline.environment, "environment", environment)
    result = run("env", "--json")
    said = json.loads(result.stdout)
    assert result.exit_code == said["exit_code"] == code
    assert words in said["error"]["what"] and said["error"]["next_step"]
    assert len(result.stdout) < 3000


@pytest.mark.parametrize("text", ["x" * 100_000, "a\0b", "half \udcff", "\x1b[2J\n::error::x"])
@pytest.mark.parametrize(
    "command",
    [
        ["gate", "{}"],
        ["verify", "{}"],
        ["build", "{}"],
        ["plan", "{}"],
        ["profile", "{}.yaml"],
        ["prune-export", "--train", "{}"],
        ["plan", "--table", "{}"],
        ["sweep", "--latency", "{}"],
        ["prune-export", "--target", "{}"],
        ["plan", "--labels", "{}"],
        ["plan", "--max-length", "{}"],
    ],
)
def test_arguments_of_any_kind_end_in_a_message(command, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from rfx.cli.app import _run

    monkeypatch.setattr(sys, "argv", ["rfx", *(part.format(text) for part in command), "--json"])
    import contextlib
    import io

    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        assert _run(as_json=True) in (2, 3, 4, 5)
    assert json.loads(out.getvalue())["error"]["what"]
    for said in (err.getvalue(), out.getvalue()):
        assert "Traceback" not in said and "\x1b" not in said and len(said) < 12_000
        assert not any(line.strip().startswith("::") for line in said.splitlines())
    assert not list(tmp_path.iterdir())
