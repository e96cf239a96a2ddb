"""Which column of a file plays which role (text, label, ...), and its values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rfx.core.errors import UsageError

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
    "label": ("label", "labels", "category", "class", "sentiment", "score", "target", "similarity"),
    "tokens": ("tokens", "words"),
    "tags": ("tags", "ner_tags", "pos_tags", "labels", "chunk_tags"),
    "id": ("id", "idx", "guid"),
    "question": ("question",),
    "context": ("context", "passage", "paragraph"),
    "answers": ("answers", "answer"),
}


def column(
    rows: Sequence[Mapping[str, Any]],
    role: str,
    columns: Mapping[str, str],
    *,
    required: bool = True,
    exclude: Sequence[str] = (),
) -> str | None:
    """The column that plays `role`: the one named in `columns`, else the first usual name that is
    there.

    Raises:
        UsageError: none is there, or the one named is not; says which columns are.
    """
    # A row may lack some.
    there = [c for c in dict.fromkeys(name for row in rows for name in row) if c != "__names__"]
    if role in columns:
        if columns[role] not in there:
            raise UsageError(
                f"There is no column {columns[role]!r}.",
                got=", ".join(there),
                allowed="one of these columns",
                next_step=f"--column {role}=NAME",
            )
        return columns[role]
    found = next((c for c in ROLES[role] if c in there and c not in exclude), None)
    if found is None and required:
        mark = next((m for m in ";\t|" if len(there) == 1 and m in there[0]), None)
        raise UsageError(
            f"No column is known to be the {role}.",
            got=f"columns {', '.join(there)}",
            allowed=f"{', '.join(ROLES[role])}, or any with --column {role}=NAME",
            next_step=f"separate the columns by commas, not by {mark!r}"
            if mark
            else f"--column {role}=NAME",
        )
    return found


def must_have(rows: Sequence[Mapping[str, Any]], role: str, columns: Mapping[str, str]) -> str:
    """The column that plays `role`, as `column` finds it. Raises UsageError where there is none."""
    return str(column(rows, role, columns))


def field(row: Mapping[str, Any], name: str | None) -> Any:
    """A row's value in a column; None where there is no such column."""
    return None if name is None else row.get(name)


def text_of(row: Mapping[str, Any], name: str, number: int) -> str:
    """A text value. Raises UsageError naming the row where it is missing or not a text."""
    value = row.get(name)
    if missing(value) or not str(value).strip():
        raise UsageError(
            f"Row {number} has no {name!r}.",
            got=repr(row)[:120],
            next_step="remove it or fill it in",
        )
    return value if isinstance(value, str) else str(value)


def unlabelled(rows: Sequence[Mapping[str, Any]], name: str | None) -> bool:
    """Whether no row has a label: one without among others is a mistake, and is named as one."""
    return name is None or all(missing(row.get(name)) for row in rows)


def missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))
