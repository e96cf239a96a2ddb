"""CSV and TSV as people have them: of any usual separator, with a line `sep=`, with blanks around
the names of columns, with columns that have no name, and with empty rows at the end."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import Literal

from rfx.core.errors import UsageError
from rfx.core.values import short
from rfx.tasks.columns import ROLES
from rfx.tasks.rows import MOST_COLUMNS, Note, Row

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_NEVER_WRITTEN = "\x1f\x1e\x1d\x1c"  # signs for parting fields that nobody types
_LOOKED_AT = 20  # rows that a separator must hold for before it is taken
# GLUE's CoLA has no header: its source, the label, the author's own mark, the sentence.
_COLA = ("source", "label", "mark", "sentence")
_LONGEST_NAME = 80
_USUAL = {name for names in ROLES.values() for name in names}
_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")


def parse_separated(
    path: Path, text: str, separator: str, note: Note, named: Collection[str] = ()
) -> list[Row]:
    """The rows of a table. Every value stays the text that it is (007, NA, null), and an empty one
    is None. No row may have more fields than the header: nobody can tell which of them is which.

    Args:
        separator: what its name promises; another one is found where that makes a single column.
        note: told of whatever was found to be otherwise.
        named: columns that the user has named, so that they are known to be a header.

    Raises:
        UsageError: broken quotes, a row that is too long, two columns of one name, no header.
    """
    limit = csv.field_size_limit(max(len(text), 1))
    try:
        return _parse(path, text, separator, note, named)
    finally:
        csv.field_size_limit(limit)


def _parse(path: Path, text: str, separator: str, note: Note, named: Collection[str]) -> list[Row]:
    said = re.match(r'"?sep=([,;\t|])"?\r?\n', text)
    if said:
        separator, text = said[1], text[said.end() :]
        note(f"{path.name}: its first line says that {_SEPARATORS[separator]} separate its columns")
    else:
        separator = _separator(path, text, separator, note)
        apart = _apart_of_one_column(text, separator)
        if apart is not None:
            note(
                f"{path.name}: its first line names one column, so that the "
                f"{_SEPARATORS[separator]} are part of its texts"
            )
            separator = apart
    return _rows(path, text, separator, note, named)


def _rows(path: Path, text: str, separator: str, note: Note, named: Collection[str]) -> list[Row]:
    reader = _reader(text, separator)
    rows: list[Row] = []
    begins = 1  # the line where the row that is read begins
    try:
        names = [n.strip() for n in next(reader, [])]
        if _is_cola(path, text, names, separator):
            note(f"{path.name} has no header; its columns are taken to be {', '.join(_COLA)}")
            reader, names = _reader(text, separator), list(_COLA)
        else:
            _check_header(path, names, separator, named)
        shown = short(", ".join(names), 300, bare=True)
        begins = reader.line_num + 1
        for row in reader:
            if row and not any(names):
                fault = "names no columns" if len(names) > 1 else "is empty"
                raise UsageError(
                    f"The first line of {path} {fault}, where the names of the columns should be.",
                    got=f"line {reader.line_num}: {short(separator.join(row), 120)}",
                    allowed="a first line with the names of the columns, e.g. text,label",
                    next_step="remove the lines before the header, or write a header",
                )
            if len(row) > len(names):
                raise UsageError(
                    f"Line {reader.line_num} of {path} has {len(row)} fields where the header has "
                    f"{len(names)}.",
                    got=short(separator.join(row), 120),
                    allowed=f"a field for each of {shown}",
                    next_step=_names_or_quotes(names, separator),
                )
            if row:
                # A spreadsheet leaves columns without a name, and so does the index of pandas.
                rows.append({n: v or None for n, v in zip_longest(names, row) if n})
            begins = reader.line_num + 1
    except csv.Error as error:
        raise UsageError(
            f"{path} cannot be read.",
            got=_what_is_broken(error, begins, reader.line_num),
            allowed="texts with or without quotes around the whole of them",
            next_step="look at the quotes there: a text that begins with a quote needs quotes "
            'around it, and each quote in it doubled, e.g. """Good"", he said"',
        ) from None
    filled = len(rows)
    while filled and not any(str(v or "").strip() for v in rows[filled - 1].values()):
        filled -= 1
    if filled and filled < len(rows):
        note(f"{path.name}: {len(rows) - filled} empty rows at its end are left out")
    return rows[:filled]


def _what_is_broken(error: csv.Error, begins: int, line: int) -> str:
    """What csv says of quotes, in words: it names separators that nobody sees, and the last line
    for a quote that is never closed.

    Args:
        begins: the line where the broken row begins.
    """
    if "expected after" in str(error):
        return f"line {line}: a text begins with a quote and goes on behind the quote that ends it"
    if "unexpected end" in str(error):
        return f"line {begins}: a quote is opened there and never closed"
    return f"line {line}: {error}"


def _reader(text: str, separator: str) -> csv._reader:  # type: ignore[name-defined]
    # GLUE's TSV files have quotes that are text: a row that opens one would swallow those after it.
    quoting: Literal[0, 3] = (
        csv.QUOTE_MINIMAL if separator != "\t" or _quoted(text) else csv.QUOTE_NONE
    )
    return csv.reader(_lines(text), delimiter=separator, quoting=quoting, strict=True)


def _lines(text: str) -> Iterator[str]:
    """Each line with its end. A StringIO would hold the text again, in four bytes a character."""
    return (line[0] for line in _LINE.finditer(text))


def _quoted(text: str) -> bool:
    """Whether a TSV quotes its fields, as its header or every quote at a field's border shows."""
    opening, closing = (
        sum(1 for _ in re.finditer(p, text, re.M)) for p in (r'(?:^|\t)"', r'"(?=\t|$)')
    )
    return text.startswith('"') or (
        opening == closing > 0 and opening + closing == text.count('"') - 2 * text.count('""')
    )


def _separator(path: Path, text: str, promised: str, note: Note) -> str:
    """What separates the columns: what is promised, or another one where the header would be a
    single column by that and the first rows are a table by the other."""
    if len(_first(text, promised, 1)[0]) > 1:
        return promised
    tables = [
        s for s in _SEPARATORS if s != promised and _is_table(_first(text, s, _LOOKED_AT + 1))
    ]
    if len(tables) != 1:
        return promised
    note(
        f"{path.name}: its columns are separated by {_SEPARATORS[tables[0]]}, not by "
        f"{_SEPARATORS[promised]}"
    )
    return tables[0]


def _apart_of_one_column(text: str, separator: str) -> str | None:
    """A sign that no text of a table of one column holds, to read it by; None where the rows need
    none, or where they may as well be of several columns.

    A first line without any separator names one column. What is in the rows is then text, if there
    are rows with and without it, and if it does not always part a single word from the rest: that
    may be a label whose column has no name.
    """
    header = next(_lines(text), "")
    apart = next((c for c in _NEVER_WRITTEN if c not in text), None)
    if apart is None or separator not in text or any(s in header for s in _SEPARATORS):
        return None
    whole = said = False  # rows that are not parted, and parted ones that end in several words
    for row in islice(_until_broken(text, separator), 1, None):
        whole = whole or len(row) == 1
        said = said or (len(row) > 1 and len(row[-1].split()) > 1)
        if whole and said:
            return apart
    return None


def _names_or_quotes(names: Sequence[str], separator: str) -> str:
    """What to do about a row with more fields than the header."""
    quotes = (
        "put texts that hold a comma in double quotes"
        if separator == ","
        else f"remove the {_SEPARATORS[separator]} within texts"
    )
    if len(names) > 1:
        return quotes
    more = separator.join((names[0], "label"))
    return (
        f"name every column in the first line, e.g. {short(more, bare=True)}; or, if there is but "
        f"one, {quotes}, or save the texts as .txt, one a line and without a header"
    )


def _is_table(rows: Sequence[Sequence[str]]) -> bool:
    header, *rest = (len(r) for r in rows)
    filled = [n for n in rest if n]
    return header > 1 and bool(filled) and all(n == header for n in filled)


def _first(text: str, separator: str, count: int) -> list[list[str]]:
    """The first rows; those before a broken one, where there is one."""
    return list(islice(_until_broken(text, separator), count)) or [[]]


def _until_broken(text: str, separator: str) -> Iterator[list[str]]:
    """The rows, one at a time: no more of them is in the memory. They end before a broken one."""
    try:
        yield from _reader(text, separator)
    except csv.Error:
        return


def _is_cola(path: Path, text: str, names: Sequence[str], separator: str) -> bool:
    """Whether this is GLUE's CoLA, in which the second column is 0 or 1 and the third * or empty,
    from the first line on."""
    if separator != "\t" or len(names) != len(_COLA):
        return False
    rows = [r for r in _first(text, separator, 1000) if r]
    return all(len(r) == 4 and r[1] in ("0", "1") and r[2] in ("", "*") and r[3] for r in rows)


def _check_header(path: Path, names: list[str], separator: str, named: Collection[str]) -> None:
    if len(names) > MOST_COLUMNS:
        raise UsageError(
            f"{path} has too many columns.",
            got=f"{len(names)}, separated by {_SEPARATORS[separator]}",
            allowed=f"at most {MOST_COLUMNS}",
            next_step="give a table of texts and labels",
        )
    twice = sorted(n for n, count in Counter(names).items() if n and count > 1)
    known = any(n.lower() in _USUAL for n in names) or any(n in named for n in names)
    if not known and _reads_as_an_example(names):
        raise UsageError(
            f"{path} has no header: its first line reads as an example.",
            got=short(separator.join(names), 160),
            allowed="a first line with the names of the columns, e.g. text,label",
            next_step="put such a line before the first; if this is a header, name its columns "
            "with --column ROLE=NAME",
        )
    if twice:
        raise UsageError(
            f"{path} has columns of one name.",
            got=short(separator.join(names), 160),
            allowed="a name for every column",
            next_step="rename or remove one of " + ", ".join(short(n) for n in twice[:5]),
        )


def _reads_as_an_example(names: Sequence[str]) -> bool:
    """Whether a first line holds a number or a long text. Tables whose columns are merely counted
    (0,1,2) have a header."""
    if [n for n in names if n] == [str(i) for i in range(sum(map(bool, names)))]:
        return False
    return any(_NUMBER.match(n) or len(n) > _LONGEST_NAME or "\n" in n for n in names)
