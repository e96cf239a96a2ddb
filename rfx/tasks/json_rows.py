"""JSON as people have it: an object a line, a list of objects, one list under a name, columns, or
SQuAD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rfx.core.bounded import parse_json, parse_several
from rfx.core.errors import UsageError
from rfx.core.recognised import EXAMPLES, of_document, other_kind
from rfx.core.values import kind_of, short
from rfx.tasks.rows import FORMATS, Note, Row, lines_of

_LIST = 'a list of objects such as [{"text": ..., "label": ...}], columns, or SQuAD JSON'


def parse_lines(path: Path, text: str) -> list[Row]:
    """An object a line.

    Raises:
        UsageError: a line that is none, by its number.
    """
    rows = []
    read = 0
    for number, line in enumerate(lines_of(text), 1):
        read += len(line) + 1
        # Not splitlines: texts may hold U+0085 or U+2028.
        if not line or line.isspace():
            continue
        try:
            # Only a line that nothing ends may be one whose end is missing.
            row = parse_json(line, what="line", last=read > len(text))
        except UsageError as error:
            raise UsageError(
                f"Line {number} of {path} is not JSON.",
                got=f"{short(line)} ({error.got})",
                allowed='an object a line, {"text": ..., "label": ...}',
                next_step=_mended(line) or f"correct line {number}",
            ) from None
        if not isinstance(row, dict):
            raise UsageError(
                f"Line {number} of {path} is not an object.",
                got=short(row),
                allowed='{"text": ..., "label": ...}',
                next_step=f"correct line {number}",
            )
        rows.append(row)
    return rows


def _mended(line: str) -> str:
    """What makes JSON of a line that is none, where that is plain."""
    text = line.strip()
    if text.startswith("{'"):
        return "these are dicts as Python prints them: write each by json.dumps"
    if text.startswith("{") and text.endswith("},"):
        return "remove the comma at the end of each line, or put all lines in [ ] and name it .json"
    if text[:1] not in ("{", "[", '"'):
        return (
            "if this is a table, give it a name that ends in .csv or .tsv; if it is a text a "
            "line, in .txt"
        )
    return ""


def parse_lines_or_whole(path: Path, text: str, note: Note) -> list[Row]:
    """An object a line, or what else the name of JSON lines is given to: one JSON document, or
    objects that are written over several lines each.

    Args:
        note: told of a form that is not an object a line.

    Raises:
        UsageError: as `parse_lines`, where it is none of them; as `parse_json_rows`.
    """
    try:
        return parse_lines(path, text)
    except UsageError as error:
        found = _written_otherwise(path, text, note)
        if found is None:
            raise error from None
        return found


def _written_otherwise(path: Path, text: str, note: Note) -> list[Row] | None:
    start = text.lstrip()
    first = start.partition("\n")[0].strip()
    if start[:1] not in ("{", "[") or (start[:1] == "{" and first.endswith("}")):
        return None  # it begins with an object in one line: it is JSON lines with a mistake
    try:
        documents = parse_several(text, what="file")
    except UsageError:
        if first in ("[", "[{"):  # one list over several lines, whose mistake lies further down
            return parse_json_rows(path, text, note)
        return None
    if len(documents) > 1 or (_is_example(documents[0]) and not of_document(documents[0])):
        if not all(isinstance(d, dict) for d in documents):
            return None
        note(f"{path.name} holds objects over several lines each, not one a line")
        return documents
    note(f"{path.name} holds one JSON document, not an object a line")
    return parse_json_rows(path, text, note)


def _is_example(data: Any) -> bool:
    return isinstance(data, dict) and not any(isinstance(v, (list, dict)) for v in data.values())


def parse_json_rows(path: Path, text: str, note: Note) -> list[Row]:
    """The rows of one JSON document.

    Args:
        note: told of a form that is not a plain list.

    Raises:
        UsageError: it is no JSON, or holds no examples in any of the known forms.
    """
    try:
        data = parse_json(text, what="file")
    except UsageError as error:
        lines = _lines(path, text)
        if lines:
            note(f"{path.name} holds an object a line, as .jsonl does")
            return lines
        raise UsageError(
            f"{path} is not JSON that rfx reads.",
            got=error.got,
            allowed="a list of objects, or an object a line",
            next_step=_mended(text[:1000].lstrip().partition("\n")[0])
            or "correct the file, or write it again",
        ) from None
    if (found := of_document(data)) is not None:
        raise other_kind(found, path, EXAMPLES, FORMATS)
    if isinstance(data, dict):
        held = data.get("data")
        if (
            isinstance(held, list)
            and held
            and isinstance(held[0], dict)
            and "paragraphs" in held[0]
        ):
            return _squad(path, held)
        named = _under_a_name(path, data, note)
        data = named if named is not None else _columns(path, data, note) or data
    if isinstance(data, list) and all(isinstance(r, dict) for r in data):
        return data
    raise UsageError(
        f"{path} holds no list of examples.",
        got=_got(data),
        allowed=_LIST,
        next_step="put the examples into one list",
    )


def _got(data: Any) -> str:
    if isinstance(data, dict) and data:
        return f"an object with {short(', '.join(map(str, data)), 200, bare=True)}"
    if isinstance(data, list):
        other = next(r for r in data if not isinstance(r, dict))
        return f"a list that holds {kind_of(other)}: {short(other)}"
    return f"{kind_of(data)}: {short(data)}"


def _lines(path: Path, text: str) -> list[Row]:
    """The rows of JSON lines under the name of JSON; none where they are not."""
    start = text.lstrip()[:1]
    if start != "{" or text.strip().count("\n") == 0:
        return []
    try:
        return parse_lines(path, text)
    except UsageError:
        return []


def _under_a_name(path: Path, data: Mapping[str, Any], note: Note) -> list[Row] | None:
    """The list that lies under a name, such as {"train": [...]}; None where there is none."""
    lists = {
        name: value
        for name, value in data.items()
        if isinstance(value, list) and value and all(isinstance(r, dict) for r in value)
    }
    if len(lists) > 1:
        raise UsageError(
            f"{path} holds several lists of examples.",
            got=short(", ".join(map(str, lists)), 200, bare=True),
            allowed="one list",
            next_step="write each list into a file of its own",
        )
    for name, rows in lists.items():
        if name != "data":
            note(f"{path.name}: the examples are those under {short(name)}")
        return rows
    return None


def _columns(path: Path, data: Mapping[str, Any], note: Note) -> list[Row] | None:
    """The rows of a document of columns, as pandas writes them; None where it is none.

    Its three forms: {"text": {"0": ...}}, {"text": [...]}, {"columns": [...], "data": [[...]]}.
    """
    rows: list[Row] | None = None
    names, lines = data.get("columns"), data.get("data")
    values = list(data.values())
    if isinstance(names, list) and isinstance(lines, list):
        whole = all(isinstance(r, list) and len(r) == len(names) for r in lines)
        if whole and all(isinstance(n, str) for n in names):
            rows = [dict(zip(names, r)) for r in lines]
    elif (
        values
        and all(isinstance(v, dict) for v in values)
        and all(v.keys() == values[0].keys() for v in values)
    ):
        rows = [{n: column[k] for n, column in data.items()} for k in values[0]]
    elif (
        len(values) > 1
        and all(isinstance(v, list) for v in values)
        and all(len(v) == len(values[0]) for v in values)
    ):
        rows = [dict(zip(data, r)) for r in zip(*values)]
    if rows:
        note(f"{path.name} holds columns; they are read as {len(rows)} rows")
    return rows


def _squad(path: Path, articles: Sequence[Mapping]) -> list[Row]:
    """Official SQuAD JSON (v1.1 and v2.0), one row a question."""
    rows = []
    try:
        for article in articles:
            for paragraph in article["paragraphs"]:
                for qa in paragraph["qas"]:
                    answers = [] if qa.get("is_impossible") else qa["answers"]
                    rows.append(
                        {
                            "id": str(qa["id"]),
                            "question": qa["question"],
                            "context": paragraph["context"],
                            "answers": {
                                "text": [a["text"] for a in answers],
                                "answer_start": [int(a["answer_start"]) for a in answers],
                            },
                        }
                    )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UsageError(
            f"{path} is not SQuAD JSON.",
            got=f"{error.args[0]} is missing"
            if isinstance(error, KeyError)
            else "a part of it is of another kind than it should be",
            allowed="data[].paragraphs[].{context, qas[].{id, question, answers[].{text, "
            "answer_start}}}",
            next_step="write it in this form, or give a .jsonl with a question a line",
        ) from None
    return rows
