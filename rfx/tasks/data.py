"""Labelled examples from files or the `datasets` library, as rows: plain dicts of columns."""

from __future__ import annotations

import codecs
from collections.abc import Collection
from io import BytesIO
from pathlib import Path

from rfx.core.bounded import as_path, read_blocks, read_bytes
from rfx.core.decoding import joined
from rfx.core.errors import EnvironmentMissingError, UsageError, first_line
from rfx.core.recognised import EXAMPLES, LINES, refuse_other, told_apart
from rfx.core.signs import GZIP, head_of, refusal, sign_of
from rfx.core.values import short
from rfx.tasks.encoding import decoded
from rfx.tasks.json_rows import parse_json_rows, parse_lines_or_whole
from rfx.tasks.parquet import read_parquet
from rfx.tasks.rows import FORMATS, MAX_MB, NAMES, Note, Row, lines_of, silent
from rfx.tasks.separated import parse_separated

_WHAT = "file of examples"
SAFE_DATASETS = 4  # from this version on the library runs no scripts of a dataset
_KINDS = (".json", ".jsonl", ".txt", ".csv", ".tsv", ".parquet")


def load_examples(
    source: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    max_mb: float = MAX_MB,
    named: Collection[str] = (),
    note: Note = silent,
) -> list[Row]:
    """Rows of a file or of a split of a dataset, at most `limit` of them.

    Args:
        max_mb: a larger file, or one that unpacks to more, is refused.
        named: columns that the user has named: a table that has one of them has a header.
        note: told how a file was read, where its form is not the plain one.

    Raises:
        UsageError: no such file, an unknown format, a broken line (named), no rows.
        EnvironmentMissingError: a `datasets` name or a Parquet file, and what reads it is not
            installed.
    """
    path = as_path(source, _WHAT, FORMATS)
    there = _there(path)
    if there and path.is_dir():
        refuse_other(path, EXAMPLES)
        raise UsageError(
            "This is a folder, not a file of examples.",
            got=str(path),
            allowed=FORMATS,
            next_step="name a file in it",
        )
    if there:
        with told_apart(path, EXAMPLES, LINES, "gzip", "parquet"):
            rows = _read_file(path, max_mb, named, note)
        if path.suffix.lower() != ".parquet":
            for row in rows:  # what stands there is the user's, and no reader's
                row.pop(NAMES, None)
    elif path.suffixes or str(source).startswith((".", "/", "~")) or len(str(source)) > 255:
        far = "://" in str(source)
        raise UsageError(
            "Examples are read from files here, not from an address."
            if far
            else "The file of examples does not exist.",
            got=short(source, 300),
            allowed=FORMATS,
            next_step="download it first, and give the file" if far else "check the path",
        )
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


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, a folder without permission
        return False


def _read_file(path: Path, max_mb: float, named: Collection[str], note: Note) -> list[Row]:
    suffixes = [s.lower() for s in path.suffixes]
    zipped = suffixes[-1:] == [".gz"]
    kind = next(iter(suffixes[-2:-1] if zipped else suffixes[-1:]), "")
    if kind not in _KINDS or (zipped and kind == ".parquet"):
        if path.exists() and not path.is_file() and not path.is_fifo():
            read_bytes(path, what=_WHAT, most_mb=max_mb, allowed=FORMATS)  # says what it is
        _refuse_sign(path, kind)
        raise UsageError(
            "The format of this file is not known.",
            got=str(path),
            allowed=FORMATS,
            next_step="give it a name that ends in one of these, or save it as one of them",
        )
    _refuse_sign(path, kind)
    if kind == ".parquet" and path.is_file():
        return read_parquet(path, path, note, max_mb=max_mb)
    zipped = _is_zipped(path, zipped, note)
    blocks = read_blocks(
        path,
        what=_WHAT,
        most_mb=max_mb,
        allowed=FORMATS,
        zipped=zipped,
        option="--max-data-mb",
    )
    if kind == ".parquet":
        return read_parquet(path, BytesIO(joined(blocks)), note, max_mb=max_mb)
    # Lines end at a line feed alone: texts may hold carriage returns (but those of .txt, below).
    text = decoded(blocks, path, note, western=kind in (".csv", ".tsv", ".txt"))
    if kind == ".txt":
        end = "\n" if "\n" in text.rstrip("\n") else "\r"
        stripped = (line.strip() for line in lines_of(text, end))
        return [{"text": line} for line in stripped if line]
    if kind in (".csv", ".tsv"):
        if text.startswith('{"') and text.partition("\n")[0].rstrip().endswith("}"):
            raise UsageError(
                f"{path} holds JSON, not a table.",
                got=short(text.partition("\n")[0]),
                allowed=FORMATS,
                next_step="give it a name that ends in .jsonl",
            )
        return parse_separated(path, text, "," if kind == ".csv" else "\t", note, named)
    read = parse_lines_or_whole if kind == ".jsonl" else parse_json_rows
    return read(path, text, note)


def _refuse_sign(path: Path, kind: str) -> None:
    """Raises UsageError for a file that is something else by its first bytes.

    Args:
        kind: what its name promises: ".csv".
    """
    sign = sign_of(head_of(path))
    # Texts may begin with what these signs are made of.
    if sign is None or sign.kind in ("gzip", "bzip2", "gguf", "key"):
        return
    if not (sign.kind == "parquet" and kind == ".parquet"):
        raise refusal(sign, path, FORMATS)


def _is_zipped(path: Path, named: bool, note: Note) -> bool:
    """Whether a file is compressed, which its bytes say and its name may deny.

    Args:
        named: whether its name ends in .gz.
    """
    head = head_of(path)
    if head.startswith(GZIP):
        if not named:
            note(f"{path.name} is compressed by gzip, though its name does not end in .gz")
        return True
    if named and _is_plain(head):
        note(f"{path.name} is not compressed, though its name ends in .gz")
        return False
    return named


def _is_plain(head: bytes) -> bool:
    """Whether the first bytes of a file are text in UTF-8."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return bool(text) and all(sign.isprintable() or sign in "\t\r\n\ufeff" for sign in text)


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
    if int(str(datasets.__version__).partition(".")[0]) < SAFE_DATASETS:
        raise EnvironmentMissingError(
            "Earlier versions of the datasets library run a dataset's own scripts, which rfx does "
            "not allow.",
            got=f"datasets {datasets.__version__}",
            allowed=f"datasets {SAFE_DATASETS} or later",
            next_step="pip install --upgrade datasets",
        )
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
    rows = [{k: v for k, v in r.items() if k != NAMES} for r in data]
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
                row.setdefault(NAMES, {})[column] = names
    return rows
