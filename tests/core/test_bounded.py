"""Files that a user names: no device, folder, bomb or depth gets further than a plain message."""

import gzip
import json
import os
import threading
import tracemalloc

import pytest

from rfx.core.bounded import as_path, deeper, parse_json, read_bytes, read_json, read_text
from rfx.core.errors import UsageError
from rfx.core.values import kind_of, short


def refused(call, *words):
    with pytest.raises(UsageError) as error:
        call()
    said = error.value.render()
    assert error.value.next_step and len(said) < 1500
    assert all(word in said for word in words), said
    return said


def test_a_file_and_a_pipe_are_read(tmp_path):
    file = tmp_path / "x.json"
    file.write_bytes(b'\xef\xbb\xbf{"a": [1, 2.5, "\\u00fc"]}')
    assert read_json(file, what="table") == {"a": [1, 2.5, "ü"]}
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"[1]",))
    writer.start()
    assert read_json(str(pipe), what="table") == [1]
    writer.join()


def test_what_is_no_file_is_refused_by_name(tmp_path):
    refused(lambda: read_json("/dev/zero", what="table"), "The table", "/dev/zero", "a device")
    refused(lambda: read_json("/dev/null", what="table"), "a device")
    refused(lambda: read_text(tmp_path, what="recipe", most_mb=1), str(tmp_path), "a folder")
    refused(lambda: read_json(tmp_path / "no", what="table"), "No such file")
    refused(lambda: read_json(tmp_path / ("n" * 5000), what="table"), "too long")
    file = tmp_path / "x"
    file.write_bytes(b"\xff\xfe\x00")
    refused(lambda: read_text(file, what="recipe", most_mb=1), "UTF-8", "byte 0")
    for nothing in (None, "", 7, b"x", ["x"], "a\0b"):
        refused(lambda path=nothing: as_path(path, "table"), "The table needs a path")


def test_a_pipe_that_nobody_writes_to_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setenv("RFX_READ_TIMEOUT_S", "0.05")
    os.mkfifo(tmp_path / "pipe")
    refused(lambda: read_json(tmp_path / "pipe", what="table"), "nothing comes through")


def test_sizes_are_bounded_before_and_while_reading(tmp_path):
    sparse = tmp_path / "sparse.json"
    with sparse.open("wb") as stream:
        stream.truncate(10 << 30)
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(b"\0" * (200 << 20), 1))
    tracemalloc.start()
    refused(lambda: read_json(sparse, what="table"), "too large", "at most 64 MB", "=10240")
    refused(
        lambda: read_bytes(bomb, what="file", most_mb=8, zipped=True, option="--max-data-mb"),
        "when unpacked",
        "--max-data-mb",
    )
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


def test_gzip_files_that_are_damaged_are_named(tmp_path):
    whole = gzip.compress(os.urandom(1000))
    file = tmp_path / "x.gz"
    for damaged, said in (
        (whole[:-20], "cut off"),
        (whole[:-8] + b"\0\0\0\0" + whole[-4:], "no sound gzip file"),
        (b"not gzip at all", "no sound gzip file"),
        (whole[:20] + bytes(b ^ 255 for b in whole[20:40]) + whole[40:], "gzip file"),
    ):
        file.write_bytes(damaged)
        refused(lambda: read_bytes(file, what="file", most_mb=8, zipped=True), "x.gz", said)


def test_json_that_is_deep_or_has_huge_integers_is_refused():
    assert parse_json("[" * 100 + "]" * 100, what="table")
    for text, said in (
        ("[" * 101 + "]" * 101, "more than 100 deep"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "more than 100 deep"),
        ("9" * 41, "41 digits"),
        ("-" + "9" * 5000, "digits"),
        ("", "Expecting value"),
        ('{"a": 1 2}', "Expecting"),
        ('{"a": 1', "cut off"),
    ):
        refused(lambda t=text: parse_json(t, what="table", where="x.json"), "x.json: ", said)
    assert parse_json("1" * 40, what="table") == int("1" * 40)
    wide = json.dumps([[i] for i in range(1000)])
    assert len(parse_json(wide, what="table", most_depth=2)) == 1000


def test_depth_is_found_in_what_holds_itself_and_in_what_is_held_often():
    loop: list = []
    loop.append(loop)
    assert deeper(loop, 50) and not deeper(7, 0) and deeper([7], 0) and not deeper([{}], 2)
    bomb: list = ["x"]
    for _ in range(60):  # 10 ** 60 values, where each is looked at for itself
        bomb = [bomb] * 10
    assert deeper(bomb, 60) and not deeper(bomb, 61)


def test_values_are_said_in_words_and_cut(tmp_path):
    assert [kind_of(v) for v in (None, True, 1.5, "x", [1], (), {}, object(), tmp_path)] == [
        "nothing",
        "true",
        "a number",
        "a text",
        "a list",
        "a list, and it is empty",
        "a mapping of keys, and it is empty",
        "a value of another kind",
        "a text",
    ]
    bomb: list = ["x"]
    for _ in range(60):
        bomb = [bomb] * 10
    for value in ("x" * 10**6, bomb, 10**5000, list(range(10**6)), {"k" * 9999: ["v" * 9999]}):
        for bare in (False, True):
            assert 0 < len(short(value, bare=bare)) <= 80
    assert (short(None), short("a"), short(tmp_path, 500)) == (
        "nothing",
        "'a'",
        repr(str(tmp_path)),
    )
    assert [short(v, 500, bare=True) for v in (None, "a'b", tmp_path, 1.5, ["a"], True)] == [
        "nothing",
        "a'b",
        str(tmp_path),
        "1.5",
        "['a']",
        "True",
    ]
    assert short("a\nb\x1b", bare=True) == "a\\nb\\x1b" and short([None]) == "[nothing]"
