"""Text of others made safe to show: no control character of a data file, a name or a path reaches a
terminal, a CI log or a report.

A terminal obeys escape sequences, and a CI service obeys lines: GitHub Actions takes a line that
starts with `::` (blanks before it do not count), and `##[` anywhere in a line, for a command; Azure
Pipelines takes `##vso[`, and TeamCity `##teamcity[`.
"""

from __future__ import annotations

import json
import re

# Without the tab and the line feed, which are kept.
_CONTROLS = (*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0))
# They change the direction of what stands beside them, so that a line reads as another one.
_DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
# Unicode's own ends of a line and of a paragraph; signs that are never drawn.
_UNSEEN = (0x2028, 0x2029, 0xFEFF, *range(0xE0000, 0xE0080))
_SURROGATES = range(0xD800, 0xE000)

_UNSAFE = re.compile(
    "["
    + "".join(f"\\U{c:08x}" for c in (*_CONTROLS, *_DIRECTIONS, *_UNSEEN))
    + f"\\U{_SURROGATES.start:08x}-\\U{_SURROGATES.stop - 1:08x}]"
)
_COMMAND = re.compile(r"^([^\S\n]*):(?=:)|##(?=\w*\[)", re.MULTILINE)
_MARKED = re.compile(r"##(?=\w*\[)")
_CUT = " [...] "


def printable(text: str) -> str:
    """The text with what is not for showing escaped visibly (`\\x1b`, `\\u202e`), and with lines
    that a CI service would take for commands made plain text. Line feeds and tabs stay."""
    if _UNSAFE.search(text):
        text = _UNSAFE.sub(_escaped, text)
    if "::" in text or "##" in text:
        text = _COMMAND.sub(_disarmed, text)
    return text


def in_json(text: str) -> str:
    """A JSON text in which the same is written by JSON's own escapes, so that it still reads as the
    same document."""
    text = _UNSAFE.sub(lambda m: json.dumps(m[0])[1:-1], text)
    return _MARKED.sub(r"#\\u0023", text)


def one_line(text: str, most: int = 200) -> str:
    """As `printable`, in one line: a line break is shown as `\\n`, and a text of more than `most`
    characters is cut in the middle."""
    text = printable(_cut(text, most)).replace("\n", "\\n").replace("\t", "\\t")
    return _cut(text, most)


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    kept = max(most - len(_CUT), 2)
    return text[: kept - kept // 2] + _CUT + text[len(text) - kept // 2 :]


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _disarmed(match: re.Match[str]) -> str:
    return "#\\#" if match[0].startswith("#") else f"{match[1]}\\:"
