"""Labelled examples from files or the `datasets` library, as rows: plain dicts of columns."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from rfx.core.errors import EnvironmentMissingError, UsageError, first_line

Row = dict[str, Any]
FORMATS = (
    ".jsonl, .json, .csv, .tsv, .parquet, .txt (a text a line; text formats also with .gz), "
    "SQuAD JSON, or a datasets name such as glue/sst2"
)


def load_examples(
    source: str | Path, *, split: str | None = None, limit: int | None = None
) -> list[Row]:
    """Rows of a file or of a split of a dataset, at most `limit` of them.

    Raises:
        UsageError: no such file, an unknown format, a broken line (named), no rows.
        EnvironmentMissingError: a `datasets` name or a Parquet file, and what reads it is not
            installed.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        raise UsageError(
            "This is a folder, not a file of examples.", got=str(path), allowed=FORMATS
        )
    if path.is_file():
        rows = _read_file(path)
    elif path.suffixes or str(source).startswith((".", "/", "~")):
        raise UsageError("The file of examples does not exist.", got=str(source), allowed=FORMATS)
    else:
        rows = _read_dataset(str(source), split or "train")
    if not rows:
        raise UsageError(
            "There are no examples in it.",
            got=str(source),
            allowed="at least one; labels only where accuracy is measured",
            next_step="give a file with examples",
        )
    return rows[:limit] if limit else rows


def _read_file(path: Path) -> list[Row]:
    suffixes = [s.lower() for s in path.suffixes]
    zipped = bool(suffixes) and suffixes[-1] == ".gz"
    kind = (
        (suffixes[-2] if len(suffixes) > 1 else "")
        if zipped
        else (suffixes[-1] if suffixes else "")
    )
    if kind == ".parquet":
        return _read_parquet(path)
    if kind not in (".json", ".jsonl", ".txt", ".csv", ".tsv"):
        raise UsageError(
            "The format of this file is not known.",
            got=str(path),
            allowed=FORMATS,
            next_step="save it as one of these",
        )
    try:
        # Lines end at a line feed alone: texts may hold carriage returns (but those of .txt,
        # below). The mark that Windows begins a file with is no text.
        with (
            gzip.open(path, "rt", encoding="utf-8-sig", newline="\n")
            if zipped
            else path.open(encoding="utf-8-sig", newline="\n") as stream
        ):
            text = stream.read()
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise UsageError(
            f"{path} cannot be read as UTF-8 text.",
            got=str(error),
            allowed=FORMATS,
            next_step="save it as UTF-8",
        ) from None
    if kind == ".txt":
        return [
            {"text": line.strip()}
            for line in text.split("\n" if "\n" in text.rstrip("\n") else "\r")
            if line.strip()
        ]
    if kind in (".csv", ".tsv"):
        return _parse_separated(path, text, "," if kind == ".csv" else "\t")
    return _parse_lines(path, text) if kind == ".jsonl" else _parse_json(path, text)


def _parse_separated(path: Path, text: str, separator: str) -> list[Row]:
    """CSV or TSV; every value stays the text that it is (007), an empty one is None. No row may
    have more fields than the header: which of them is which nobody can tell."""
    # GLUE's TSV files have quotes that are text: a row that opens one would swallow those after it.
    quoting: Literal[0, 3] = (
        csv.QUOTE_MINIMAL if separator == "," or _quoted(text) else csv.QUOTE_NONE
    )
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, quoting=quoting, strict=True
    )
    before, rows = csv.field_size_limit(max(len(text), 1)), []
    try:
        names = next(reader, [])
        twice = sorted({n for n in names if n and names.count(n) > 1})
        if twice:
            raise UsageError(
                f"{path} has columns of one name.",
                got=separator.join(names),
                allowed="a name for every column",
                next_step="rename or remove one of " + ", ".join(map(repr, twice)),
            )
        for row in reader:
            if len(row) > len(names):
                raise UsageError(
                    f"Line {reader.line_num} of {path} has {len(row)} fields where the header has "
                    f"{len(names)}.",
                    got=f"{separator.join(row)[:120]!r}",
                    allowed=f"a field for each of {', '.join(names)}",
                    next_step="put texts that hold a comma in double quotes"
                    if separator == ","
                    else "remove the tabs within texts",
                )
            if row:
                # A spreadsheet leaves columns without a name.
                rows.append({n: v or None for n, v in zip_longest(names, row) if n})
    except csv.Error as error:
        raise UsageError(
            f"{path} cannot be read.",
            got=f"line {reader.line_num}: {error}",
            next_step='look at the quotes there: a text is "in quotes", a quote in it is doubled',
        ) from None
    finally:
        csv.field_size_limit(before)
    return rows


def _quoted(text: str) -> bool:
    """Whether a TSV quotes its fields, as its header or every quote at a field's border shows."""
    opening, closing = (len(re.findall(p, text, re.M)) for p in (r'(?:^|\t)"', r'"(?=\t|$)'))
    return text.startswith('"') or (
        opening == closing > 0 and opening + closing == text.count('"') - 2 * text.count('""')
    )


def _read_parquet(path: Path) -> list[Row]:
    try:
        import pandas
        import pyarrow  # noqa: F401  # pandas reads Parquet with it and imports it only then
    except ImportError as error:
        raise EnvironmentMissingError(
            "Parquet files need pandas and pyarrow.",
            got=f"{path}: {first_line(error)}",
            allowed=FORMATS,
            next_step='pip install "rfx-exporter[tables]"',
        ) from None
    try:
        frame = pandas.read_parquet(path)
    except Exception as error:  # pyarrow raises many kinds for a damaged file
        raise UsageError(
            f"{path} cannot be read.",
            got=first_line(error),
            next_step="write it again: pandas.read_parquet must read it",
        ) from None
    return [{str(k): _plain(v) for k, v in row.items()} for row in frame.to_dict("records")]


def _plain(value: Any) -> Any:
    """Python values in place of NumPy's, so that rows of every format are alike."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value


def _parse_lines(path: Path, text: str) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        # Not splitlines: texts may hold U+0085 or U+2028.
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UsageError(
                f"Line {number} of {path} is not JSON.",
                got=f"{line[:80]!r} ({error})",
                next_step=f"correct line {number}",
            ) from None
        if not isinstance(row, dict):
            raise UsageError(
                f"Line {number} of {path} is not an object.",
                got=line[:80],
                allowed='{"text": ..., "label": ...}',
                next_step=f"correct line {number}",
            )
        rows.append(row)
    return rows


def _parse_json(path: Path, text: str) -> list[Row]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise UsageError(
            f"{path} is not JSON.", got=str(error), next_step="one object a line? call it .jsonl"
        ) from None
    if isinstance(data, dict) and isinstance(data.get("data"), list):
        if data["data"] and isinstance(data["data"][0], dict) and "paragraphs" in data["data"][0]:
            return _squad(path, data["data"])
        data = data["data"]
    if not isinstance(data, list) or not all(isinstance(r, dict) for r in data):
        raise UsageError(
            f"{path} holds no list of examples.",
            got=type(data).__name__,
            allowed="a list of objects, or SQuAD JSON",
            next_step="put the examples into one list",
        )
    return data


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
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{path} is not SQuAD JSON.",
            got=f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error),
            allowed="data[].paragraphs[].{context, qas[].{id, question, answers[].{text, "
            "answer_start}}}",
        ) from None
    return rows


def _read_dataset(name: str, split: str) -> list[Row]:
    try:
        import datasets
    except ImportError:
        raise EnvironmentMissingError(
            "Neither a file here nor, without the datasets library, a dataset.",
            got=name,
            allowed=FORMATS,
            next_step="check the path, or: pip install datasets",
        ) from None
    path, _, config = (
        name.rpartition("/")
        if name.count("/") == 1 and name.startswith("glue/")
        else (name, "", "")
    )
    try:
        datasets.disable_progress_bars()
        data = (
            datasets.load_dataset(path, config, split=split)
            if config
            else datasets.load_dataset(path, split=split)
        )
    except Exception as error:
        # Hub, network, script and split errors alike: the reason is what helps.
        raise UsageError(
            "Neither a file here nor a dataset that can be had.",
            got=f"{name}, split {split}: {first_line(error)}",
            allowed=FORMATS,
            next_step="check the path; offline, give a local file",
        ) from None
    rows = [dict(r) for r in data]
    features = getattr(data, "features", {})
    for (
        column,
        feature,
    ) in features.items():  # class names in place of numbers say more, and are checked by name
        names = getattr(feature, "names", None) or getattr(
            getattr(feature, "feature", None), "names", None
        )
        if names:
            for row in rows:
                row.setdefault("__names__", {})[column] = names
    return rows
