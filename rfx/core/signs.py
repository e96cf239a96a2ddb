"""Files that are something else than their names say, told by their first bytes: a pointer of Git
LFS, a page of HTML that was saved in place of a file, a workbook, an archive, weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from rfx.core.errors import UsageError

HEAD = 512  # bytes that are looked at
GZIP = b"\x1f\x8b"
UNKNOWN = "give the right file"  # the next step where a file is of no use here
_LFS = b"version https://git-lfs"
# A text may begin so too, and then goes on in words: in a page another tag comes next.
_PAGE = re.compile(rb"<!doctype html|<(?:html|head|body)\b[^>]*(?:>\s*(?:<|$)|$)")


@dataclass(frozen=True)
class Sign:
    """What a file is.

    Args:
        kind: its kind in a word.
        said: the same for a message, with its article.
        next_step: what gives the file that was meant.
    """

    kind: str
    said: str
    next_step: str


LFS = Sign(
    "pointer",
    "a pointer of Git LFS, not the file itself",
    "run `git lfs pull` in the clone that it lies in",
)
PAGE = Sign(
    "page",
    "a page of HTML",
    "download the file itself, in place of which a page was saved: on GitHub by the button Raw, on "
    "Hugging Face by an address with /resolve/ in place of /blob/; it may also ask you to log in",
)
_EXPORTED = "save what is in it as a text file in UTF-8, such as CSV"
_UNPACKED = "unpack it, and give the file that is in it"
# How the first bytes of a file say what it is; the longer signs come before the shorter ones.
_SIGNS = (
    (GZIP, Sign("gzip", "compressed by gzip", "unpack it: gunzip -c FILE > NEW_FILE")),
    (b"PAR1", Sign("parquet", "a table of Parquet", "give it a name that ends in .parquet")),
    (b"%PDF", Sign("pdf", "a PDF document", _EXPORTED)),
    (
        b"\xd0\xcf\x11\xe0",
        Sign("office", "a document of an earlier Microsoft Office, such as an .xls", _EXPORTED),
    ),
    (b"BZh", Sign("bzip2", "compressed by bzip2", "unpack it: bunzip2 -c FILE > NEW_FILE")),
    (b"\xfd7zXZ", Sign("xz", "compressed by xz", "unpack it: xz -dc FILE > NEW_FILE")),
    (b"\x28\xb5\x2f\xfd", Sign("zstd", "compressed by zstd", "unpack it: zstd -dc FILE")),
    (b"7z\xbc\xaf\x27\x1c", Sign("7z", "an archive of 7-Zip", _UNPACKED)),
    (b"ARROW1", Sign("arrow", "a table of Arrow", "save it as .parquet or .jsonl")),
    (b"SQLite format 3", Sign("sqlite", "a database of SQLite", _EXPORTED)),
    (b"\x89PNG", Sign("picture", "a picture", UNKNOWN)),
    (b"\xff\xd8\xff", Sign("picture", "a picture", UNKNOWN)),
    (b"\x93NUMPY", Sign("numpy", "an array of NumPy", UNKNOWN)),
    (b"\x89HDF", Sign("hdf5", "a file of HDF5", UNKNOWN)),
    (b"GGUF", Sign("gguf", "a GGUF model", UNKNOWN)),
    (b"-----BEGIN ", Sign("key", "a key in the form PEM", UNKNOWN)),
    (b"\x80\x02", Sign("pickle", "a pickle of Python", UNKNOWN)),
    (b"\x80\x03", Sign("pickle", "a pickle of Python", UNKNOWN)),
    (b"\x80\x04", Sign("pickle", "a pickle of Python", UNKNOWN)),
    (b"\x80\x05", Sign("pickle", "a pickle of Python", UNKNOWN)),
)
_SAFETENSORS = Sign(
    "safetensors",
    "a file of weights of safetensors",
    "give it a name that ends in .safetensors, such as model.safetensors",
)
_TORCH = Sign(
    "torch",
    "a file of weights of PyTorch",
    "give it the name pytorch_model.bin, or save the model with save_pretrained",
)
_BOOK = Sign("office", "a workbook or a document of an office program, such as an .xlsx", _EXPORTED)
_ZIP = Sign("zip", "an archive of ZIP", _UNPACKED)
_ONNX = Sign("onnx", "an ONNX file", UNKNOWN)


def sign_of(head: bytes) -> Sign | None:
    """What a file is by its first bytes (`HEAD` of them suffice); None where they do not say so, as
    those of plain text do not."""
    if found := saved_instead(head):
        return found
    for mark, sign in _SIGNS:
        if head.startswith(mark):
            return sign
    if head.startswith(b"PK\x03\x04"):
        return _zipped(head)
    # A header's length in eight bytes, and JSON.
    if head[8:9] == b"{" and not any(head[4:8]) and len(head) > 9:
        return _SAFETENSORS
    # A graph begins with the version of its format; the name of who made it comes next.
    if head[:1] == b"\x08" and head[2:3] in (b"\x12", b"\x1a", b"\x3a", b"\x42"):
        return _ONNX
    return None


def _zipped(head: bytes) -> Sign:
    names = head[30:]
    if any(mark in names for mark in (b"[Content_Types].xml", b"_rels/", b"xl/", b"mimetype")):
        return _BOOK
    return _TORCH if b"/data.pkl" in names[:200] else _ZIP


def saved_instead(head: bytes) -> Sign | None:
    """What somebody has saved in place of a file, by its first bytes: no file that rfx reads begins
    so."""
    if head.startswith(_LFS):
        return LFS
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<?xml"):
        text = text.partition(b"?>")[2].lstrip()
    return PAGE if _PAGE.match(text) else None


def head_of(path: Path) -> bytes:
    """The first bytes of a regular file; none where it cannot be read."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as stream:
            return stream.read(HEAD)
    except OSError:
        return b""


def refuse_saved(path: Path, head: bytes | None = None, what: str = "the file itself") -> None:
    """Refuse a file that is a pointer of Git LFS, or a page that was saved in its place.

    Args:
        head: its first bytes, where they have been read.
        what: what it should be.

    Raises:
        UsageError: it is one of these.
    """
    if found := saved_instead(head_of(path) if head is None else head):
        raise refusal(found, path, what)


def refuse_signed(path: Path, what: str, but: tuple[str, ...] = ()) -> None:
    """Refuse a file that is something else by its first bytes.

    Args:
        what: what it should be, with its article.
        but: kinds that are right.

    Raises:
        UsageError: it is something else, and known.
    """
    found = sign_of(head_of(path))
    if found is not None and found.kind not in but:
        raise refusal(found, path, what)


def refusal(found: Sign, where: object, what: str) -> UsageError:
    """The error of a file that is something else.

    Args:
        what: what it should be, with its article.
    """
    return UsageError(
        f"This file does not load: it is {found.said}.",
        got=str(where),
        allowed=what,
        next_step=found.next_step,
    )
