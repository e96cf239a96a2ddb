from __future__ import annotations

import json
import re

import pytest

from rfx.core.errors import UsageError
from rfx.core.text import in_json, one_line, printable
from rfx.core.values import short


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain, ünïcode, 漢字, 🙂", "plain, ünïcode, 漢字, 🙂"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("bell\x07 back\x08 return\r null\x00", "bell\\x07 back\\x08 return\\x0d null\\x00"),
        ("delete\x7f csi\x9b next\x85", "delete\\x7f csi\\x9b next\\x85"),
        ("reversed \u202e \u2066", "reversed \\u202e \\u2066"),
        ("unicode's line\u2028end", "unicode's line\\u2028end"),
        ("half a pair \ud800", "half a pair \\ud800"),
        ("unseen \U000e0041", "unseen \\U000e0041"),
    ],
)
def test_what_is_not_for_showing_is_escaped_visibly(given: str, shown: str):
    assert printable(given) == shown


@pytest.mark.parametrize(
    "line",
    [
        *("::error::x", "  ::set-output name=a::b", "\t::add-mask::x", "a ##[error]x"),
        *("##vso[task.complete result=Succeeded;]", "x ##teamcity[buildStop]"),
    ],
)
def test_no_line_is_a_command_of_a_ci_service(line: str):
    for text in (line, f"before\n{line}", f"before\r\n{line}", f"before\n\n{line}"):
        for shown in printable(text).splitlines():
            assert not shown.strip().startswith("::")
            assert not re.search(r"##\w*\[", shown)
            assert not re.search(r"##\w*\[", in_json(json.dumps(text)))
    assert printable("## A heading") == "## A heading"
    assert printable("std::vector stays") == "std::vector stays"


def test_one_line_has_no_break_and_is_cut_in_the_middle():
    assert one_line("a\nb\r\nc") == "a\\nb\\x0d\\nc"
    cut = one_line("a" * 500 + "b" * 500, most=100)
    assert len(cut) == 100
    assert cut.startswith("aaa") and cut.endswith("bbb") and " [...] " in cut
    assert len(one_line("\x1b" * 10_000)) == 200


def test_a_text_of_megabytes_costs_little():
    for text in ("x" * 1_000_000, "::" * 500_000, "::" + "\n" * 500_000):
        one_line(text)
        printable(text)
    printable("\x1b" * 200_000)
    assert len(one_line("\x1b" * 1_000_000)) == 200


def test_an_error_shows_what_others_wrote_safely():
    error = UsageError(
        "The label 'a\n::error::forged' is none of the model's.",
        got="\x1b[2J\n##[error]x" + "y" * 1_000_000,
        allowed="0\n::warning::forged",
        next_step="give --labels a\x00b",
    )
    said = error.render()
    assert "\x1b" not in said and "\x00" not in said and "##[" not in said
    assert not any(line.strip().startswith("::") for line in said.splitlines())
    assert len(said) < 3_000
    # Cut in what is said, whole for a program that handles the error.
    assert len(error.got) > 1_000_000


def test_the_terminal_shows_what_others_wrote_safely(capsys):
    from rfx.cli.terminal import Terminal

    terminal = Terminal()
    for say in (terminal.note, terminal.warn, terminal.error):
        say("name\x1b[2J\u202e\n::error::forged \ud800")
    said = capsys.readouterr().err
    assert "\x1b" not in said and "\u202e" not in said and "\\x1b[2J" in said
    assert not any(line.strip().startswith("::") for line in said.splitlines())


def test_a_value_is_described_without_being_written_out():
    bomb: list = ["x" * 1_000]
    for _ in range(40):
        bomb = [bomb] * 10
    assert len(short(bomb, 500, bare=True)) <= 500  # 10**40 texts if it were written out
    assert short({"deep": {"a": [1, 2]}}, 500, bare=True) == "{'deep': {'a': [1, 2]}}"
    assert short(10**6000, 500, bare=True) == f"an integer of {(10**6000).bit_length()} bits"
    assert short([10**6000], 500, bare=True).startswith("[an integer of")
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert short(deep, 500, bare=True) == "[[[[...]]]]"
    while deep:  # taken apart by hand: Python's own way is recursive
        deep = deep[0]
