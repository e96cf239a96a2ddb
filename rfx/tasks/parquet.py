"""Parquet, read part by part within a bound: what a file declares of itself need not be true, and a
small one may unpack to any size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from rfx.core.bounded import MB, parse_json
from rfx.core.errors import EnvironmentMissingError, UsageError, first_line
from rfx.core.limits import raised
from rfx.tasks.rows import FORMATS, MOST_COLUMNS, NAMES, Note, Row, silent

_ROWS_AT_ONCE = 1024
_MOST_METADATA = 4 * 2**20  # bytes
_LEAST_BYTES = 8  # that a value takes at least, once it is read


def read_parquet(
    path: Path, source: Path | BinaryIO, note: Note = silent, *, max_mb: float
) -> list[Row]:
    """The rows of a Parquet file as plain Python values. Categories are their texts, and a value
    that is missing is None. Columns of bytes are texts where all of them are UTF-8: some programs
    write texts so.

    Args:
        path: its name, for messages.
        source: the file, or its bytes.
        note: told of columns of bytes.

    Raises:
        UsageError: it is damaged, or larger than `max_mb` when it is unpacked.
        EnvironmentMissingError: pyarrow is not installed.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise EnvironmentMissingError(
            "Parquet files need pyarrow.",
            got=f"{path}: {first_line(error)}",
            allowed=FORMATS,
            next_step='pip install "rfx-exporter[tables]"',
        ) from None
    rows: list[Row] = []
    size, most = 0, int(max_mb * MB)
    try:
        with parquet.ParquetFile(source) as file:
            columns, metadata = len(file.schema_arrow.names), file.schema_arrow.metadata
            count = file.metadata.num_rows
            if columns > MOST_COLUMNS:
                raise UsageError(
                    f"{path} has too many columns.",
                    got=f"{columns}",
                    allowed=f"at most {MOST_COLUMNS}",
                    next_step="give a table of texts and labels",
                )
            if count * columns * _LEAST_BYTES > most:
                raise _too_large(path, f"it declares {count} rows", max_mb)
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                size += batch.nbytes
                if size > most:
                    raise _too_large(path, f"more than {max_mb:g} MB when unpacked", max_mb)
                rows.extend(_plain(row) for row in batch.to_pylist())
    except UsageError:
        raise
    except Exception as error:  # pyarrow raises many kinds for a damaged file
        raise UsageError(
            f"{path} cannot be read.",
            got=first_line(error),
            next_step="write it again: pandas.read_parquet must read it",
        ) from None
    if read := _bytes_as_text(rows):
        note(f"{path.name}: bytes are read as text in UTF-8: {', '.join(read)}")
    names = _class_names(metadata)
    for row in rows if names else ():
        row[NAMES] = names
    return rows


def _bytes_as_text(rows: list[Row]) -> list[str]:
    """Make texts of the columns whose every value is bytes in UTF-8; returns their names."""
    found = []
    for name in list(rows[0]) if rows else []:
        values = [row.get(name) for row in rows]
        if not any(isinstance(v, bytes) for v in values):
            continue
        try:
            texts = [v.decode("utf-8") if isinstance(v, bytes) else v for v in values]
        except UnicodeDecodeError:
            continue
        for row, text in zip(rows, texts, strict=True):
            row[name] = text
        found.append(name)
    return found


def _class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Of each column of class numbers the names of its classes, as the `datasets` library writes
    them into a file; none where what stands there is no such thing."""
    text = (metadata or {}).get(b"huggingface", b"")
    if not 0 < len(text) <= _MOST_METADATA:
        return {}
    try:
        info = parse_json(text.decode("utf-8"), what="metadata")
        columns = info["info"]["features"].items()
    except (UsageError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        return {}
    found = {str(column).strip(): _names_of(feature) for column, feature in columns}
    return {column: names for column, names in found.items() if names}


def _names_of(feature: Any) -> list[str] | None:
    """The names of a class label, or of a list of class labels."""
    if isinstance(feature, list) and len(feature) == 1:
        feature = feature[0]
    if isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
        feature = feature["feature"]
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
        return None
    names = feature.get("names")
    whole = isinstance(names, list) and all(isinstance(n, str) for n in names)
    return names if whole else None


def _plain(row: Row) -> Row:
    """Without the columns that pandas keeps its index in, and one that has the name of what only
    this reader may set."""
    plain = {str(k).strip(): v for k, v in row.items() if not k.startswith("__index_level_")}
    plain.pop(NAMES, None)
    return plain


def _too_large(path: Path, why: str, max_mb: float) -> UsageError:
    return UsageError(
        f"{path} is too large.",
        got=why,
        allowed=f"at most {max_mb:g} MB",
        next_step="give the right file; if it is the right one, "
        + raised(max_mb, None, "--max-data-mb"),
    )
