"""The bounds of files and pipes: one variable raises those of files, one sets the wait for a
pipe, and every refusal names the value that lets the file through."""

import base64
import gzip
import json
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from rfx.core.bounded import read_bytes, read_json
from rfx.core.errors import UsageError
from rfx.core.limits import MOST_FILE_MB, SILENCE, SIZE, bound_mb, raised, silence_s
from tests.commands import run

SHAPES = Path(__file__).parents[1] / "golden" / "shapes.json"


def test_a_bound_is_raised_and_never_lowered(monkeypatch):
    monkeypatch.delenv(SIZE, raising=False)
    assert bound_mb(64) == 64 and bound_mb(0.25) == 0.25
    monkeypatch.setenv(SIZE, " 128.5 ")
    assert (bound_mb(0.25), bound_mb(64), bound_mb(512)) == (128.5, 128.5, 512)
    monkeypatch.setenv(SIZE, "")
    assert bound_mb(64) == 64


@pytest.mark.parametrize("much", ["1e10", "1e305"])
def test_a_bound_beyond_any_file_reads_any_file(tmp_path, monkeypatch, much):
    (tmp_path / "x").write_bytes(b"abc")
    monkeypatch.setenv(SIZE, much)
    assert bound_mb(64) == MOST_FILE_MB
    assert read_bytes(tmp_path / "x", what="table", most_mb=64) == b"abc"
    done = run("prune-export", tmp_path, "--latency", "0.5", "--max-data-mb", much)
    assert done.exit_code == 2 and "above 0 and at most 1000000000" in done.stderr


def test_the_wait_for_a_pipe_is_set(monkeypatch):
    monkeypatch.delenv(SILENCE, raising=False)
    assert silence_s() == 60
    for text, seconds in (("0.5", 0.5), ("600", 600), ("1e300", 1e8)):
        monkeypatch.setenv(SILENCE, text)
        assert silence_s() == seconds


@pytest.mark.parametrize("name", [SIZE, SILENCE])
@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "much", "64 MB", "\x1b[2J", "9" * 5000])
def test_a_value_that_is_no_positive_number_is_refused(tmp_path, name, text):
    table = tmp_path / "table.json"
    table.write_text("{}")
    done = run("gate", table, **{name: text})
    assert done.exit_code == 2, done.output
    said = done.stderr
    assert f"The environment variable {name} is no positive number." in said
    assert f"such as {name}=" in said and f"unset {name}" in said and "\x1b" not in said
    assert len(said) < 1500
    # One object of --json, also where no file is read.
    told = json.loads(run("env", "--json", **{name: text}).stdout)
    assert told["exit_code"] == 2 and name in told["error"]["what"]


def test_the_program_of_a_board_refuses_it_too(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "rfx.board", "profile", "no.json", "--out", tmp_path / "t.json"],
        env={**os.environ, SIZE: "much"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and SIZE in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "unpacked"])
def test_the_value_that_is_named_lets_the_file_through(tmp_path, monkeypatch, zipped):
    monkeypatch.delenv(SIZE, raising=False)
    data = b"x" * ((3 << 20) + 1)
    file = tmp_path / "x"
    file.write_bytes(gzip.compress(data, 1) if zipped else data)
    said = ""
    for _ in range(3):
        try:
            assert read_bytes(file, what="table", most_mb=1.5, zipped=zipped) == data
            break
        except UsageError as error:
            said = str(error.next_step)
            monkeypatch.setenv(SIZE, re.search(rf"set {SIZE}=(\d+)$", said)[1])
    else:
        pytest.fail(said)
    assert os.environ[SIZE] == ("6" if zipped else "4"), "twice the bound where no size is known"


def test_a_bound_that_an_option_sets_is_not_raised_by_the_variable(tmp_path, monkeypatch):
    file = tmp_path / "x"
    file.write_bytes(b"x" * (2 << 20))
    monkeypatch.setenv(SIZE, "100")
    with pytest.raises(UsageError, match="(?m)raise its bound: --max-data-mb 2$") as error:
        read_bytes(file, what="table", most_mb=1, option="--max-data-mb")
    assert SIZE not in str(error.value)
    assert raised(1, 2 << 20) == f"set {SIZE}=2"


def test_a_silent_pipe_says_how_long_was_waited(tmp_path, monkeypatch):
    monkeypatch.setenv(SILENCE, "0.05")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match=r"within 0\.05 seconds") as error:
        read_json(tmp_path / "pipe", what="table")
    assert f"set {SILENCE}=0.5" in str(error.value.next_step)


def test_every_kind_of_file_names_the_variable(tmp_path):
    """Recipes, tables, evidence, shapes, keys and configurations, each beyond its usual bound."""
    from rfx.cost.bundle import Bundle
    from rfx.cost.table_file import read_table
    from rfx.evidence.read import read_curve, read_evidence
    from rfx.evidence.signature import private_key, public_key
    from rfx.models.place import Place
    from rfx.recipe.read import read_recipe

    file = tmp_path / "config.json"
    with file.open("wb") as stream:
        stream.truncate((600 << 20) + 1)
    readers = (read_table, read_evidence, read_curve, read_recipe, Bundle, private_key, public_key)
    for read in (*readers, lambda f: Place.of(str(f.parent)).read(f.name)):
        with pytest.raises(UsageError, match="too large") as error:
            read(file)
        assert f"set {SIZE}=601" in str(error.value.next_step), read


def test_a_graph_of_the_shapes_that_is_too_large_is_not_called_damaged(tmp_path, monkeypatch):
    from rfx.cost import bundle

    data = json.loads(SHAPES.read_text())
    data["graphs"]["dense"] = base64.b85encode(zlib.compress(b"x" * 3000)).decode()
    file = tmp_path / "shapes.json"
    file.write_text(json.dumps(data))
    monkeypatch.setattr(bundle, "_MOST_GRAPH_MB", 2000 / (1 << 20))
    with pytest.raises(UsageError, match="too large") as error:
        bundle.Bundle(file).model("dense", tmp_path)
    assert f"set {SIZE}=1" in str(error.value.next_step)
    monkeypatch.setenv(SIZE, "1")
    assert bundle.Bundle(file).model("dense", tmp_path).read_bytes() == b"x" * 3000
