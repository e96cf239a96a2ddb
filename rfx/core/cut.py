"""JSON that ends in the middle, as after a copy that was interrupted."""

from __future__ import annotations

import json
import re

# What may be left of a value that was cut, by what the parser says of it. After a number stands
# what would have gone on with it.
_WORD = re.compile(r"-?|-?I[a-z]{0,6}|t[ru]{0,2}|f[als]{0,3}|n[ul]{0,2}|Na?")
_NUMBER = re.compile(r"-?\d+(\.|(\.\d+)?[eE][-+]?)")
_BEFORE = re.compile(r"[\s\[,:]")
_LONGEST_NUMBER = 50  # characters of it that are looked at
_ESCAPE = re.compile(r"u[0-9a-fA-F]{0,4}")
_TOKEN = re.compile(r'\\.|["\[\]{},]', re.S)
_LOOKED_AT = 2 << 20  # characters: of a longer document nobody needs the place


def cut_off(text: str, error: ValueError) -> str:
    """Where a JSON text ends that is whole but for its end, in words; "" where it is broken in
    another way.

    Args:
        error: what the parser said of it.
    """
    start = text.lstrip()[:1]
    if not isinstance(error, json.JSONDecodeError) or start not in ("{", "["):
        return ""
    if not _at_the_end(text, error, "}" if start == "{" else "]"):
        return ""
    size = len(text.encode("utf-8", "surrogatepass"))
    place = _place(text) if len(text) <= _LOOKED_AT else ""
    return f"it is cut off: it ends at byte {size}" + (f", inside {place}" if place else "")


def _at_the_end(text: str, error: json.JSONDecodeError, last: str) -> bool:
    """Whether more of the same text could have mended what the parser complains of.

    Args:
        last: the character that a whole text of this kind ends with.
    """
    rest = text[error.pos :].rstrip()
    if error.msg.startswith("Unterminated string"):
        # No quote follows. Where the text ends as a whole one does, its last quote was forgotten.
        return not rest.endswith(last)
    if error.msg.startswith(r"Invalid \u"):
        return bool(_ESCAPE.fullmatch(rest))
    if error.msg.startswith("Expecting value"):
        return bool(_WORD.fullmatch(rest))
    if not error.msg.startswith("Expecting"):  # extra data, a line break within quotes
        return False
    if not rest:
        return True
    number = _BEFORE.split(text[max(0, error.pos - _LONGEST_NUMBER) : error.pos])[-1]
    return error.msg.startswith("Expecting ','") and bool(_NUMBER.fullmatch(number + rest))


def _place(text: str) -> str:
    """The keys and numbers that lead to where a text ends: `accuracy.interval[1]`."""
    # Of each list that is open how many members it has; of each object its latest key.
    way: list[int | str] = []
    before = ""
    opened = -1  # where the text in quotes begins that is being read; -1 outside of one
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token == '"':
            if opened >= 0 and before in ("{", ",") and way and isinstance(way[-1], str):
                way[-1] = text[opened : match.start()]
            before = before if opened < 0 else token
            opened = match.end() if opened < 0 else -1
        elif opened < 0:
            if token == "{":
                way.append("")
            elif token == "[":
                way.append(0)
            elif token in "]}" and way:
                way.pop()
            elif token == "," and way and isinstance(way[-1], int):
                way[-1] += 1
            before = token
    said = ""
    for step in way:
        said += f"[{step}]" if isinstance(step, int) else f".{step}" * bool(step)
    return said.lstrip(".")
