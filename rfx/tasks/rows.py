"""What every reader of examples gives and says: rows, the known formats, and notes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Row = dict[str, Any]
Note = Callable[[str], None]  # told what a user should know of how a file was read
FORMATS = (
    ".jsonl, .json, .csv, .tsv, .parquet, .txt (a text a line; text formats also with .gz), "
    "SQuAD JSON, or a datasets name such as glue/sst2"
)
# The key of a row that is no column of the file: column -> the names of its classes, by number.
# Only the readers of `datasets` and of Parquet set it.
NAMES = "__names__"
MAX_MB = 1024  # of a file of examples, unpacked
MOST_COLUMNS = 10_000


def silent(text: str) -> None:
    """The note that nobody hears."""


def lines_of(text: str, end: str = "\n") -> Iterator[str]:
    """The lines of a text without their ends, one after the other: a list of them all would hold
    the text a second time."""
    start = 0
    while (found := text.find(end, start)) >= 0:
        yield text[start:found]
        start = found + len(end)
    yield text[start:]
