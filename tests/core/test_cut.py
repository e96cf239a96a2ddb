"""A JSON document that is cut anywhere is said to be cut, with the place; one that is broken in
another way is not."""

import json
import subprocess
import sys

import pytest

from rfx.core.bounded import parse_json
from rfx.core.cut import cut_off
from rfx.core.errors import ExitCode, UsageError
from rfx.evidence.read import parse_evidence
from rfx.tasks.data import load_examples
from tests.commands import run
from tests.evidences import make_evidence

DOCUMENT = {
    "a": {"b": [1.5e-3, -2, {"c": 'x \\ " \u00fc \u6f22 {["'}], "d": None},
    "e": [True, False, [], {}, "", -0.5],
}


def said_of(text):
    with pytest.raises(ValueError) as error:
        json.loads(text)
    return cut_off(text, error.value)


@pytest.mark.parametrize("escaped", [True, False])
@pytest.mark.parametrize("indent", [None, 1])
def test_wherever_it_is_cut(escaped, indent):
    text = json.dumps(DOCUMENT, indent=indent, ensure_ascii=escaped)
    for end in range(1, len(text)):
        size = len(text[:end].encode())
        assert said_of(text[:end]).startswith(f"it is cut off: it ends at byte {size}"), text[:end]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("{", ""),
        ('{"a', ""),
        ('{"a": {"b": [1, 2', "a.b[1]"),
        ('{"a": {"b": [1, 2], "c', "a.b"),
        ('{"a": {"b": [1, 2]}, "c": "x', "c"),
        ('{"a": [{"b": 1}, {"c": tru', "a[1].c"),
        ('["a, b", "c', "[1]"),
        ('{"a": [1, "b] {[", "c, {[', "a[2]"),
        ('{"a": "b\\"{\\u12', "a"),
        ('{"a\\"b": [1.', 'a\\"b[0]'),
    ],
)
def test_the_place_is_said(text, place):
    end = f"it is cut off: it ends at byte {len(text)}"
    assert said_of(text) == end + (f", inside {place}" if place else "")


@pytest.mark.parametrize(
    "text",
    [
        *("", "nope", '{"a": 1,}', '{"a" 1}', '{"a": 1} x', "{'a': 1}", '{"a": nope}', '["\n"]'),
        # Something stands behind a whole document, or where nothing may begin so.
        *('{"a": 1}n', "[] -", '{"a": 1, e', "[1 e", '["a" n', "[1.5.", '{"a": "\\u1x'),
        # Its last quote was forgotten: it ends as a whole one does.
        *('{"a": "x}', '{"a": ["x]}\n', '["x, {"a": 1}]', '["x]', '["x\n'),
    ],
)
def test_what_is_broken_otherwise_is_not_called_so(text):
    assert said_of(text) == ""
    with pytest.raises(UsageError, match="is not valid JSON[.]"):
        parse_json(text, what="table")


@pytest.mark.parametrize("end", ["", "\\u1"])
def test_a_large_text_full_of_escaped_quotes_is_read_at_once(tmp_path, end):
    """The reading started anew at each quote: hours for this file."""
    (tmp_path / "evidence.json").write_text('{"a": "' + '\\"' * (1 << 19) + end)
    (tmp_path / "x.jsonl").write_text('{"a": "' + '\\"' * (1 << 19) + end)
    code = (
        "import sys\nfrom rfx.evidence.read import read_evidence\n"
        "from rfx.tasks.data import load_examples\nfrom rfx.core.errors import UserError\n"
        "for read, file in ((read_evidence, 'evidence.json'), (load_examples, 'x.jsonl')):\n"
        "    try: read(sys.argv[1] + '/' + file)\n"
        "    except UserError as error: print(error.got)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.count(f"it ends at byte {7 + (1 << 20) + len(end)}, inside a") == 2, done


def test_only_the_last_line_of_a_file_may_be_cut(tmp_path):
    file = tmp_path / "x.jsonl"
    for text, cut in (
        ('{"a": 1}\n{"a": "x', True),
        ('{"a": 1}\n{"a": "x\n', False),
        ('{"a": "x\n{"a": 1}', False),
    ):
        file.write_text(text)
        with pytest.raises(UsageError, match="Line [12] of .* is not JSON") as error:
            load_examples(file)
        assert ("it is cut off: it ends at byte 8, inside a" in error.value.got) == cut, text


def test_evidence_that_is_cut_says_so_and_what_to_do(tmp_path):
    whole = make_evidence().model_dump_json().encode()
    half = whole[: whole.index(b'"drop"') + 4]
    (tmp_path / "evidence.json").write_bytes(half)
    done = run("gate", tmp_path, "--json")
    assert done.exit_code == ExitCode.USAGE
    error = json.loads(done.stdout)["error"]
    assert "its end is missing" in error["what"]
    assert f"it ends at byte {len(half)}, inside accuracy" in error["got"]
    assert str(tmp_path / "evidence.json") in error["got"]
    assert "copy the file again" in error["next_step"]
    for end in range(1, len(whole), 97):
        with pytest.raises(UsageError, match="its end is missing"):
            parse_evidence(whole[:end], "x")
    with pytest.raises(UsageError, match="ends at byte 10, within a character"):
        parse_evidence('{"tool":"ü'.encode()[:-1], "x")
