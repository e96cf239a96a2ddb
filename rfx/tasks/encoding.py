"""The encoding of a text file, by its signs: a byte order mark, or bytes that are no UTF-8.

Windows-1252 is what Western spreadsheets write; it contains Latin-1. Nothing is guessed from
statistics but one question: whether the text reads as a Western one. Most of its letters are plain
ones then, no symbol stands amid the letters of a word, and few accents follow one another. A file
in another encoding (Shift-JIS, GBK, Windows-1251, Mac Roman) is refused.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from rfx.core.decoding import NotDecodableError, decoded_blocks, joined
from rfx.core.errors import UsageError
from rfx.core.values import short
from rfx.tasks.rows import FORMATS, Note

# The marks of UTF-32 begin like those of UTF-16: they come first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
_PART = 1 << 20  # bytes that are looked at together
_ASCII = bytes(range(128))
_CONTROL = bytes({*range(0x20)} - {*b"\t\n\v\f\r\x1b"})
_LETTERS = bytes(b for b in range(128) if chr(b).isalpha())
# In Windows-1252: what is not ASCII, but for the quotes, dashes and blanks of every text.
_QUOTES = "‘’“”«»–—…€\xa0".encode("cp1252")
_ACCENTS = bytes({*range(0x80, 0x100)} - {*_QUOTES})
_MOST_ACCENTS = 0.3  # of all letters; French has about 5 %, and Cyrillic read this way 100 %
# What no Western text has, in the bytes of Windows-1252: the Latin letters of another encoding.
_LETTER = rb"[A-Za-z\x8a\x8c\x8e\x9a\x9c\x9e\x9f\xc0-\xd6\xd8-\xf6\xf8-\xff]"
_SYMBOL = "ƒ‚„†‡ˆ‰‹•˜›¢£¤¥¦§¨©ª¬®¯°±²³µ¶¸¹º»¼½¾¿¡×÷".encode("cp1252")
_STRANGE = re.compile(
    # a symbol amid a word, as any letter of Eastern Europe becomes,
    rb"(?<=" + _LETTER + rb")[" + re.escape(_SYMBOL) + rb"]+(?=" + _LETTER + rb")"
    # the first bytes of kana in Shift-JIS, but for a quote that opens after a blank,
    rb"|(?<![\s,;\t(\"'\[])[\x82\x83](?=[^\s])|[\x82\x83][\x80-\xff]"
    # or signs that are not ASCII one after the other, as most encodings of Asia and Cyrillic have.
    rb"|[\x80-\xff]{3,}"
)
_ALIKE = re.compile(rb"(.)\1*\Z", re.S)  # ééééé
_MOST_STRANGE = 0.1  # of the bytes that are not ASCII


def decoded(blocks: Iterable[bytes], path: Path, note: Note, *, western: bool) -> str:
    """The text of a file that is read block by block, without its byte order mark.

    Args:
        note: told of any encoding but UTF-8.
        western: whether it may be Windows-1252. JSON is always Unicode.

    Raises:
        UsageError: it is in no encoding that is certain.
    """
    coming = iter(blocks)
    first = next(coming, b"")
    # The codec "utf-8" would keep the mark; those of UTF-16 and UTF-32 need it.
    codec, name = next(((c, n) for mark, c, n in _MARKS if first.startswith(mark)), ("utf-8", ""))
    try:
        text = decoded_blocks(chain([first], coming), codec)
    except NotDecodableError as error:
        if name:
            why = f"it begins as {name}, and {error.reason}"
            raise _unknown(path, why, error.start) from None
        return _not_utf8(error, coming, path, note, western)
    if name not in ("", "UTF-8"):
        note(f"{path.name} is read as {name}, by its byte order mark")
    return text


def _not_utf8(
    error: NotDecodableError, coming: Iterable[bytes], path: Path, note: Note, western: bool
) -> str:
    """The text of a file that is no UTF-8."""
    # What was decoded until now is UTF-8, so that encoding it gives its own bytes.
    data = joined(chain([error.text.encode(), error.rest], coming))
    damaged = _is_utf8_but_for_a_part(data, error)
    found = _western(data) if western and not damaged else None
    if found is None:
        line = data.count(b"\n", 0, error.start) + 1
        raise _unknown(path, error.reason, error.start, line, damaged=damaged)
    strange = _strange(data)
    if strange is not None:
        line = data.count(b"\n", 0, strange.start()) + 1
        raise UsageError(
            f"{path} is in an encoding that rfx does not know.",
            got=f"line {line}: {_around(data, strange)}, if it is read as Windows-1252",
            allowed="UTF-8; or UTF-16 with its mark, or Windows-1252 in .csv, .tsv and .txt",
            next_step="save it as UTF-8; where its encoding is known, by: iconv -f ENCODING -t "
            "UTF-8 FILE > NEW_FILE (SHIFT_JIS, GB18030, EUC-KR, WINDOWS-1251, ...)",
        )
    note(f"{path.name} is not UTF-8; it is read as Windows-1252. Save it as UTF-8 if that is wrong")
    return found


def _western(data: bytes) -> str | None:
    """The text in Windows-1252, or None where it is none."""
    if _count(data, _CONTROL):
        return None
    plain, accents = _count(data, _LETTERS), _count(data, _ACCENTS)
    if accents > _MOST_ACCENTS * (plain + accents):
        return None
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return None


def _strange(data: bytes) -> re.Match[bytes] | None:
    """The first place that no Western text has, where there are many of them; None where what is
    not ASCII reads as Windows-1252."""
    first, strange = None, 0
    for found in _STRANGE.finditer(data):
        inner = found[0].strip(_QUOTES)
        if len(found[0]) > 2 and (len(inner) < 3 or _ALIKE.match(inner)):
            continue
        first = first or found
        strange += len(found[0])
    return first if strange > _MOST_STRANGE * (len(data) - _count(data, _ASCII)) else None


def _around(data: bytes, found: re.Match[bytes]) -> str:
    start = max(data.rfind(b"\n", 0, found.start()) + 1, found.start() - 20)
    part = data[start : found.end() + 20].partition(b"\n")[0]
    return short(part.decode("cp1252", "replace"), 80)


def _count(data: bytes, these: bytes) -> int:
    """How many bytes are one of these. A list of them could take far more memory than the file."""
    return sum(
        len(part) - len(part.translate(None, these))
        for part in (data[at : at + _PART] for at in range(0, len(data), _PART))
    )


def _is_utf8_but_for_a_part(data: bytes, error: NotDecodableError) -> bool:
    """Whether a file is UTF-8 that was cut within its last character, or that is damaged in a few
    places: read as Windows-1252, all its other accents would be wrong.

    Args:
        error: the first one of reading it as UTF-8.
    """
    cut = error.reason == "unexpected end of data"  # nothing else is wrong with it
    if cut and len(data) - error.start > 1:
        return True  # the first byte of a character and the right one after it
    whole = wrong = 0
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for at in range(0, len(data) + 1, _PART):
        part = data[at : at + _PART]
        text = decoder.decode(part, at + _PART > len(data))
        replaced = text.count("\ufffd")
        wrong += replaced
        whole += len(text) - replaced - _count(text.encode(), _ASCII)
    # The accents of Windows-1252 are hardly ever UTF-8 by chance.
    return whole > 0 if cut else whole > 2 * wrong


def _unknown(
    path: Path, why: str, start: int, line: int | None = None, *, damaged: bool = False
) -> UsageError:
    where = "" if line is None else f" in line {line}"
    return UsageError(
        f"{path} cannot be read as UTF-8 text.",
        got=f"{why}, at byte {start}{where}"
        + ("; the other characters are UTF-8, so this part is cut or damaged" if damaged else ""),
        allowed=FORMATS,
        next_step="copy the file again, or mend that byte" if damaged else "save it as UTF-8",
    )
