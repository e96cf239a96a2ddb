"""What comes from data, names and paths, made safe for the form that it is written in."""

from __future__ import annotations

import re

from rfx.core.text import one_line, printable

MOST = 2000  # characters of one cell
# Text that Markdown would take for emphasis, code, a link, a table's column, HTML or an autolink.
_MARKS = re.compile(r"[\\`*_\[\]<>|~&#@]")
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LINK = re.compile(r"(?<=[a-zA-Z])(:)(?=//)|(?<=www)(\.)", re.IGNORECASE)


def markdown(text: str) -> str:
    """One line that Markdown shows as it is, in a paragraph, a list or a table's cell."""
    return _LINK.sub(r"\\\g<0>", _MARKS.sub(_escaped, one_line(text, MOST)))


def sentence(text: str) -> str:
    """A sentence of rfx's own for Markdown, whose code stays code; names in it cannot begin a
    table's column, a link or HTML."""
    return re.sub(r"[\[\]<>|]", r"\\\g<0>", one_line(text, MOST))


def xml(text: str) -> str:
    """Text that XML 1.0 allows; what it does not allow is shown by its number."""
    return _NOT_XML.sub(lambda m: f"\\u{ord(m[0]):04x}", printable(text))


def command(text: str) -> str:
    """The message of a GitHub workflow command, which would end at a line break."""
    safe = one_line(text, MOST)
    return safe.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def command_property(text: str) -> str:
    """The value of a property of a GitHub workflow command."""
    return command(text).replace(":", "%3A").replace(",", "%2C")


def _escaped(match: re.Match[str]) -> str:
    # A renderer that reads HTML before Markdown takes no notice of a backslash before `<`.
    return {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(match[0], f"\\{match[0]}")
