"""Large files of examples: what they take of the memory stays near the size of their text.

Each is read in a process of its own, which says how much its memory has grown at most."""

import gzip
import json
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfx.tasks.rows import lines_of
from rfx.tasks.separated import _lines, _quoted

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux says what memory a process had"
)
MB = 1 << 20
SIZE = 48 * MB
READ = r"""
import re, sys
from pathlib import Path
from rfx.core.errors import UsageError
from rfx.tasks.data import load_examples
def peak():  # of this process alone: that of getrusage counts what the one that began it had
    return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])
load_examples(sys.argv[2])  # what is imported and kept counts for none
before = peak()
try:
    print(len(load_examples(sys.argv[1])))
except UsageError as error:
    print(error.what)
print(peak() - before)
"""
LONG = "a good film " * 8000
FILES = {
    "x.jsonl.gz": json.dumps({"text": LONG}).encode() + b"\n",
    "x.csv.gz": f"{LONG},1\n".encode(),
    "x.tsv.gz": f"{LONG}\t1\n".encode(),
    "x.txt.gz": f"{LONG}\n".encode(),
}
HEADERS = {"csv": b"text,label\n", "tsv": b"text\tlabel\n"}


def grown(tmp_path, name, data):
    small, file = tmp_path / f"small-{name}", tmp_path / name
    kind = name.split(".")[1]
    small.write_bytes(gzip.compress(HEADERS.get(kind, b"") + FILES[name]))
    file.write_bytes(gzip.compress(data, 1))
    done = subprocess.run(
        [sys.executable, "-c", READ, file, small], capture_output=True, text=True, check=True
    )
    said, kilobytes = done.stdout.splitlines()
    return said, int(kilobytes) / 1024 / (len(data) / MB)


@pytest.mark.parametrize("name", FILES)
def test_the_memory_is_that_of_the_text_and_of_the_rows(tmp_path, name):
    """Twice the size: once the text, once the values of the rows."""
    line = FILES[name]
    header = HEADERS.get(name.split(".")[1], b"")
    said, times = grown(tmp_path, name, header + line * (SIZE // len(line)))
    assert said == str(SIZE // len(line))
    assert times < 2.6, times


@pytest.mark.parametrize("evidence", [True, False])
def test_a_table_of_one_column_is_in_the_memory_once(tmp_path, evidence):
    """Whether commas are part of its texts is seen from row to row: in the first ones, or never."""
    line = f"bad, {LONG}\n".encode()
    count = SIZE // len(line)
    data = b"text\n" + b"good\n" * evidence + line * count
    said, times = grown(tmp_path, "x.csv.gz", data)
    assert said == str(count + 1) if evidence else said.startswith("Line 2 of")
    assert times < 2.6, times


def test_a_bomb_without_lines_is_in_the_memory_once(tmp_path):
    said, times = grown(tmp_path, "x.jsonl.gz", bytes(SIZE))
    assert "not JSON" in said and times < 1.6, (said, times)


def test_a_wrong_byte_behind_many_letters_costs_no_list_of_them(tmp_path):
    said, times = grown(tmp_path, "x.txt.gz", "фильм ".encode() * (SIZE // 11) + b"\n\xff\n")
    assert "cannot be read as UTF-8" in said and times < 4, (said, times)


def test_many_quotes_cost_no_list_of_them():
    text = "text\tlabel\n" + '"a"\t' * 200_000
    tracemalloc.start()
    try:
        assert _quoted(text)
        assert tracemalloc.get_traced_memory()[1] < len(text) / 4
    finally:
        tracemalloc.stop()


@settings(deadline=None, derandomize=True, database=None, max_examples=60)
@given(st.text(alphabet='ab\r\n\x85\u2028"', max_size=30))
def test_lines_are_those_of_python(text):
    import io

    assert list(_lines(text)) == list(io.StringIO(text, newline=""))
    assert list(lines_of(text)) == text.split("\n")
    assert list(lines_of(text, "\r")) == re.split("\r", text)
