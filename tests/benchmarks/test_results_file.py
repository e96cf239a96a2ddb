"""Large results are compressed, and both names say the same file."""

import gzip
import json
import re

import pytest

from benchmarks.results_file import plain_name, read_results, write_part, write_results


def test_the_suffix_says_whether_a_file_is_compressed(tmp_path):
    plain, compressed = tmp_path / "a.json", tmp_path / "b.json.gz"
    for file in (plain, compressed):
        write_results(file, {"cells": {"x": 1}})
        assert read_results(file) == {"cells": {"x": 1}}
    assert json.loads(plain.read_text()) == json.loads(gzip.decompress(compressed.read_bytes()))
    assert plain_name(plain) == "a.json" and plain_name(compressed) == "b.json"


def test_where_only_the_compressed_file_exists_the_plain_name_means_it(tmp_path):
    write_results(tmp_path / "a.json.gz", {"n": 1})
    write_results(tmp_path / "a.json", {"n": 2})
    assert [f.name for f in tmp_path.iterdir()] == ["a.json.gz"]
    assert read_results(tmp_path / "a.json") == {"n": 2}
    (tmp_path / "a.json").write_text("{}")  # now there are two files
    assert read_results(tmp_path / "a.json") == {}
    with pytest.raises(FileNotFoundError):
        read_results(tmp_path / "none.json")


def test_the_same_results_give_the_same_bytes(tmp_path, monkeypatch):
    write_results(tmp_path / "a.json.gz", {"n": 1})
    monkeypatch.setattr("time.time", lambda: 0.0)
    write_results(tmp_path / "b.json.gz", {"n": 1})
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


def test_a_part_says_when_and_where_it_was_counted_and_leaves_the_others(tmp_path):
    file = tmp_path / "results" / "a.json"
    write_part(file, "fuzz", {"csv": 1})
    write_results(file, read_results(file) | {"environment": {"cpu": "of one part alone"}})
    write_part(file, "kills", {"build": 2, "sweep": 3}, of=["build"])
    write_part(file, "kills", {}, of=[])  # no job ran here
    found = read_results(file)
    assert set(found) == {"fuzz", "kills", "made"} and found["fuzz"] == {"csv": 1}
    assert set(found["made"]) == {"fuzz", "kills/build"}
    assert set(found["made"]["fuzz"]) == {"day", "system", "cpu", "python"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["made"]["fuzz"]["day"])
