"""Which column of a file plays which role (text, label, ...), and its values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rfx.core.errors import UsageError
from rfx.core.text import one_line
from rfx.core.values import short
from rfx.tasks.rows import NAMES

# Usual names of a role, the likeliest first. Overridden by `columns` of the recipe (or --column
# ROLE=NAME).
ROLES: dict[str, tuple[str, ...]] = {
    "text": (
        "text",
        "sentence",
        "sentence1",
        "premise",
        "question1",
        "question",
        "content",
        "review",
        "tweet",
        "title",
    ),
    "text_pair": ("text_pair", "sentence2", "hypothesis", "question2", "passage", "sentence"),
    "label": (
        "label",
        "labels",
        "gold_label",
        "category",
        "class",
        "sentiment",
        "score",
        "target",
        "similarity",
    ),
    "tokens": ("tokens", "words"),
    "tags": ("tags", "ner_tags", "pos_tags", "labels", "chunk_tags"),
    "id": ("id", "idx", "guid"),
    "question": ("question",),
    "context": ("context", "passage", "paragraph"),
    "answers": ("answers", "answer"),
    "query": ("query", "anchor", "question"),
    "document": ("document", "passage", "positive", "answer", "context"),
}


class NoSuchColumnError(UsageError):
    """A file lacks the column that the user has named for a role. Whoever knows the other file says
    more of it."""

    def __init__(self, role: str, name: str, there: Sequence[str]) -> None:
        self.role, self.name, self.there = role, name, list(there)
        super().__init__(
            f"There is no column {short(name)}.",
            got=f"columns {listed(there)}",
            allowed="one of these columns",
            next_step=f"--column {role}=NAME",
        )

    def of_two(self, part: str, other: str, others: Sequence[str]) -> UsageError:
        """The same error where this is the file of one part of the examples, and the other part's
        has the columns `others`: the option holds for both."""
        option = f"--column {self.role}={self.name}"
        if written_as(others, self.name) is None:
            common = [c for c in self.there if written_as(others, c) is not None]
            return UsageError(
                f"Neither file of examples has a column {short(self.name)}.",
                got=f"columns {listed(self.there)} of the {part} examples, and {listed(others)} of "
                f"the {other} examples",
                allowed=f"a column that both have, because {option} holds for both files",
                next_step=f"--column {self.role}=NAME with one of {listed(common)}"
                if common
                else "give the columns of one role the same name in both files",
            )
        return UsageError(
            f"The {part} examples: There is no column {short(self.name)}.",
            got=f"columns {listed(self.there)}",
            allowed=f"one name in both files, because {option} holds for both; the {other} "
            "examples have this column",
            next_step=f"rename the column of the {part} examples that is the {self.role} to "
            f"{short(self.name)}",
        )


def listed(names: Sequence[object]) -> str:
    """Names of columns for a message."""
    return short(", ".join(map(str, names)), 300, bare=True)


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns that are there; a row may lack some."""
    return [c for c in dict.fromkeys(name for row in rows for name in row) if c != NAMES]


def column(
    rows: Sequence[Mapping[str, Any]],
    role: str,
    columns: Mapping[str, str],
    *,
    required: bool = True,
    exclude: Sequence[str] = (),
) -> str | None:
    """The column that plays `role`: the one named in `columns`, else that of the likeliest usual
    name that is there, in whatever case it is written.

    Args:
        required: without it a file may have no such column: None. One that lacks the named column
            and has another of a usual name is refused all the same.

    Raises:
        UsageError: none is there, or the one named is not; says which columns are.
    """
    there = columns_of(rows)
    names = ROLES.get(role, ())  # a role of somebody else's task has no usual names
    if role in columns:
        # A spreadsheet may write it with blanks, or in capitals.
        named = written_as(there, columns[role])
        free = [c for c in there if c not in exclude and c not in columns.values()]
        usual = any(written_as(free, name) for name in names)
        if named is None and (required or usual):
            raise NoSuchColumnError(role, columns[role], there)
        return named
    others = [c for c in there if c not in exclude]
    found = next((c for name in names if (c := written_as(others, name))), None)
    if found is None and required:
        step = f"--column {role}=NAME, which holds for both files of examples"
        if role == "text" and any(plain_name(c) in ("query", "anchor") for c in there):
            step = (
                "for queries with documents give --task reranking, or --task embeddings with "
                f"--metric ndcg@10; for another task --column {role}=NAME"
            )
        mark = next((m for m in ";\t|" if len(there) == 1 and m in there[0]), None)
        raise UsageError(
            f"No column is known to be the {role}.",
            got=f"columns {listed(there)}",
            allowed=", ".join((*names, "or any")).removeprefix("or ")
            + f" with --column {role}=NAME",
            next_step=f"separate the columns by commas, not by {mark!r}" if mark else step,
        )
    return found


def plain_name(text: object) -> str:
    """A column's name without capitals and blanks around it, and with _ for - and blanks."""
    return str(text)[:200].strip().lower().replace(" ", "_").replace("-", "_")


def written_as(there: Sequence[str], name: str) -> str | None:
    """The column of this name: the very name, or the only one that differs from it in case or in
    blanks alone."""
    if name in there:
        return name
    found = [c for c in there if plain_name(c) == plain_name(name)]
    return found[0] if len(found) == 1 else None


def columns_said(taken: Mapping[str, str | None]) -> str:
    """Which column was taken for each role, in words; those that have the role's own name are
    merely listed."""
    return ", ".join(
        one_line(str(name), 60) + (f" as {role}" if name != role else "")
        for role, name in taken.items()
        if name is not None
    )


def must_have(rows: Sequence[Mapping[str, Any]], role: str, columns: Mapping[str, str]) -> str:
    """The column that plays `role`, as `column` finds it. Raises UsageError where there is none."""
    return str(column(rows, role, columns))


def field(row: Mapping[str, Any], name: str | None) -> Any:
    """A row's value in a column; None where there is no such column."""
    return None if name is None else row.get(name)


def text_of(row: Mapping[str, Any], name: str, number: int) -> str | None:
    """A text value; None where there is none.

    Raises:
        UsageError: it is no text, and what Python would write for it is none either; or it holds
            half a character.
    """
    value = row.get(name)
    if isinstance(value, (list, tuple, dict, set, bytes)):
        kind = {dict: "an object", bytes: "bytes"}.get(type(value), "a list")
        raise UsageError(
            f"{name!r} of row {number} is {kind}, not a text.",
            got=short(value, 120, bare=True),
            allowed="a text",
            next_step="join it into one text, or name another column with --column",
        )
    if missing(value) or not str(value).strip():
        return None
    text = value if isinstance(value, str) else str(value)
    refuse_halves(text, name, number)
    return text


def refuse_halves(text: str, name: str, number: int) -> None:
    """Raises UsageError for a lone surrogate: half of a character that was cut in two, which no
    tokenizer takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{name!r} of row {number} holds half a character.",
            got=f"U+{ord(text[error.start]):04X} at character {error.start + 1} of "
            f"{one_line(text, 80)}",
            allowed="whole characters",
            next_step="remove it, or write the file again from texts that were not cut",
        ) from None


def missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def numbers_alone(inputs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The inputs that are a number in every example: most likely a column of another kind.

    Args:
        inputs: those of each example by name.
    """
    if not inputs:
        return []
    names = [n for n, value in inputs[0].items() if isinstance(value, str)]
    return [n for n in names if all(_is_number(one.get(n)) for one in inputs)]


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True
