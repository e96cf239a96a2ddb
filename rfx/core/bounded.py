"""Files that a user names, read within bounds: what is no file, is too large or is nested too deep
is refused before work and memory go into it.

A path may name a pipe (`<(zcat table.json.gz)`, /dev/stdin), which is read up to the bound. Devices
such as /dev/zero have no end, and are never read. `rfx.core.limits` says what raises a bound.
"""

from __future__ import annotations

import gzip
import json
import os
import select
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from rfx.core.cut import cut_off
from rfx.core.decoding import NotDecodableError, decoded_blocks, joined
from rfx.core.errors import UsageError
from rfx.core.home import at_home
from rfx.core.limits import MB, SILENCE, bound_mb, raised, silence_s
from rfx.core.signs import HEAD, refuse_saved, sign_of
from rfx.core.values import short

_BLOCK = 1 << 20
MOST_MB = 64  # of a JSON document
MOST_DEPTH = 100  # of its lists and objects in each other
MOST_DIGITS = 40  # numbers of 128 bits have 39


def as_path(path: object, what: str, allowed: str | None = None) -> Path:
    """What was given as a path, as one, with `~` as a shell reads it.

    Args:
        what: the file in words, without an article: "latency table".
        allowed: what such a file is, in words.

    Raises:
        UsageError: it is neither a text nor a path, is empty, or holds a NUL character.
    """
    if isinstance(path, (str, os.PathLike)):
        text = os.fspath(path)
        if isinstance(text, str) and text and "\0" not in text:
            return at_home(text)
    raise UsageError(
        f"The {what} needs a path.",
        got="nothing" if path in (None, "") else short(path),
        allowed=allowed or "a text or a pathlib.Path that names a file",
        next_step="give the path of a file",
    )


def read_bytes(
    path: str | Path,
    *,
    what: str,
    most_mb: float,
    allowed: str | None = None,
    zipped: bool = False,
    option: str | None = None,
) -> bytes:
    """The bytes of a file or a pipe; arguments and errors are those of `read_blocks`."""
    return joined(
        read_blocks(path, what=what, most_mb=most_mb, allowed=allowed, zipped=zipped, option=option)
    )


def read_blocks(
    path: str | Path,
    *,
    what: str,
    most_mb: float,
    allowed: str | None = None,
    zipped: bool = False,
    option: str | None = None,
) -> Iterator[bytes]:
    """The bytes of a file or a pipe, block by block.

    Args:
        what: the file in words, without an article: "latency table".
        most_mb: more mebibytes than these are not read, nor unpacked, unless $RFX_MAX_FILE_MB
            allows them.
        allowed: what such a file is, in words.
        zipped: unpack it, by gzip.
        option: what alone sets this bound, for the message: "--max-data-mb".

    Raises:
        UsageError: there is no such file, it is a folder or a device, it is too large, it cannot
            be read, it is no whole gzip file where it should be one, or it is a pointer of Git LFS
            or a page of HTML.
    """
    file = as_path(path, what, allowed)
    most_mb = most_mb if option else bound_mb(most_mb)
    most = int(most_mb * MB)
    with _named(file, what, allowed), _opened(file, what, allowed) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > most:
            raise too_large(_name(file), what, most_mb, size=size, option=option)
        source: BinaryIO = cast(BinaryIO, gzip.GzipFile(fileobj=stream)) if zipped else stream
        read = 0
        while block := source.read(_BLOCK):
            read += len(block)
            if read > most:
                raise too_large(_name(file), what, most_mb, option=option, unpacked=zipped)
            if read == len(block):
                refuse_saved(file, block[:HEAD], allowed or f"the {what} itself")
            yield block


def read_text(path: str | Path, *, what: str, most_mb: float, allowed: str | None = None) -> str:
    """The text of a UTF-8 file or pipe, without the mark that Windows begins files with.

    Raises:
        UsageError: as `read_bytes`, and where it is not UTF-8.
    """
    blocks = read_blocks(path, what=what, most_mb=most_mb, allowed=allowed)
    try:
        return decoded_blocks(blocks, "utf-8-sig")
    except NotDecodableError as error:
        sign = sign_of((error.text[:HEAD].encode() + error.rest)[:HEAD])
        is_ = f"; it is {sign.said}" if sign is not None else ""
        raise UsageError(
            f"The {what} is not text in UTF-8{is_}.",
            got=f"{_name(path)}: {error.reason} at byte {error.start}",
            allowed=allowed,
            next_step=sign.next_step if sign else "give the right file, or save it as UTF-8",
        ) from None


def read_json(
    path: str | Path,
    *,
    what: str,
    most_mb: float = MOST_MB,
    most_depth: int = MOST_DEPTH,
    allowed: str | None = None,
) -> Any:
    """The contents of a JSON file or pipe.

    Raises:
        UsageError: as `read_text` and `parse_json`.
    """
    text = read_text(path, what=what, most_mb=most_mb, allowed=allowed)
    return parse_json(text, what=what, where=_name(path), most_depth=most_depth, allowed=allowed)


def parse_json(
    text: str,
    *,
    what: str,
    where: str = "",
    most_depth: int = MOST_DEPTH,
    allowed: str | None = None,
    strict: bool = False,
    last: bool = True,
) -> Any:
    """The contents of a JSON text.

    Args:
        what: the document in words, without an article: "latency table".
        where: the name of its file, for messages.
        most_depth: how deep lists and objects may lie in each other.
        strict: a key that an object has twice, NaN and Infinity are refused too.
        last: nothing follows this text, so that its end may be missing.

    Raises:
        UsageError: it is not JSON, is nested deeper, or holds an integer of more than 40 digits.
    """
    try:
        if strict:
            data = json.loads(
                text, parse_int=_integer, parse_constant=_constant, object_pairs_hook=_once
            )
        else:
            data = json.loads(text, parse_int=_integer)
        if text.count("[") + text.count("{") > most_depth and deeper(data, most_depth):
            raise RecursionError
    except RecursionError:
        why = f"lists and objects lie more than {most_depth} deep in each other"
    except ValueError as error:
        if last and (cut := cut_off(text, error)):
            raise not_whole(what, where, cut, allowed) from None
        why = str(error)
    else:
        return data
    raise UsageError(
        f"The {what} is not valid JSON.",
        got=f"{where}: " * bool(where) + why,
        allowed=allowed,
        next_step="give the right file, or write it again",
    )


def parse_several(text: str, *, what: str, most_depth: int = MOST_DEPTH) -> list[Any]:
    """The JSON documents that stand in a text one after the other, with nothing but blanks
    between them.

    Raises:
        UsageError: one of them is not JSON, as `parse_json` says.
    """
    decoder, found, at = json.JSONDecoder(parse_int=_integer), [], 0
    try:
        while (at := _next_sign(text, at)) < len(text):
            data, at = decoder.raw_decode(text, at)
            if deeper(data, most_depth):
                raise RecursionError
            found.append(data)
    except (RecursionError, ValueError) as error:
        raise UsageError(
            f"The {what} is not valid JSON.",
            got=str(error) or f"more than {most_depth} lists and objects in each other",
            next_step="write it again",
        ) from None
    return found


def _next_sign(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def not_whole(what: str, where: str, cut: str, allowed: str | None) -> UsageError:
    """What there is to say of a JSON document whose end is missing.

    Args:
        cut: where it ends, in words.
    """
    return UsageError(
        f"The {what} is not valid JSON, because its end is missing.",
        got=f"{where}: " * bool(where) + cut,
        allowed=allowed,
        next_step="copy the file again from where it is whole, as a copy was probably interrupted; "
        "or write it again",
    )


def deeper(data: Any, most: int) -> bool:
    """Whether lists and mappings lie more than `most` deep in each other. What is held in several
    places is looked at once for each depth, and what holds itself is deep."""
    level = [data]
    for _ in range(most + 1):
        held = {id(v): v for v in level if isinstance(v, (dict, list, tuple))}.values()
        if not held:
            return False
        level = [i for v in held for i in (v.values() if isinstance(v, dict) else v)]
    return True


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in data if keys.count(key) > 1)
        raise ValueError(f"the key {short(twice)} is there twice")
    return data


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(
            f"an integer of {len(digits)} digits, where {MOST_DIGITS} are the most: {digits[:12]}…"
        )
    return int(digits)


@contextmanager
def _opened(file: Path, what: str, allowed: str | None) -> Iterator[BinaryIO]:
    """A regular file, or a pipe that has something to read. To open a pipe that nobody writes to
    would wait for ever, hence it is opened without waiting."""
    mode = file.stat().st_mode
    if stat.S_ISDIR(mode):
        raise _not_readable(file, what, "it is a folder, not a file", allowed)
    if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
        raise _not_readable(file, what, "it is a device or a socket, not a file", allowed)
    if stat.S_ISREG(mode):
        with file.open("rb") as stream:
            yield stream
        return
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as stream:
        seconds = silence_s()
        if not select.select([descriptor], [], [], seconds)[0]:
            why = f"nothing comes through this pipe within {seconds:g} seconds"
            step = f"check what writes to it, or wait longer: set {SILENCE}={seconds * 10:g}"
            raise _not_readable(file, what, why, allowed, step)
        os.set_blocking(descriptor, True)
        yield stream


@contextmanager
def _named(file: Path, what: str, allowed: str | None) -> Iterator[None]:
    try:
        yield
    except EOFError:
        raise _not_readable(file, what, "the gzip file is cut off", allowed, _GZIP) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        why = f"no sound gzip file ({error})"
        raise _not_readable(file, what, why, allowed, _GZIP) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _not_readable(file, what, reason, allowed) from None


_GZIP = "copy it again, or compress it again; `gzip -t FILE` says whether it is whole"


def _not_readable(
    file: Path,
    what: str,
    why: str,
    allowed: str | None,
    next_step: str = "check the path, and give a file",
) -> UsageError:
    return UsageError(
        f"The {what} cannot be read.",
        got=f"{_name(file)}: {why}",
        allowed=allowed,
        next_step=next_step,
    )


def too_large(
    where: str,
    what: str,
    most_mb: float,
    *,
    size: int | None = None,
    option: str | None = None,
    unpacked: bool = False,
) -> UsageError:
    """The error of a file beyond its bound, which says what would let it through.

    Args:
        size: in bytes, where it is known.
        option: what sets the bound, where it is an option of the command line.
    """
    found = f"more than {most_mb:g} MB" if size is None else f"{size / MB:,.1f} MB"
    return UsageError(
        f"The {what} is too large.",
        got=f"{where}: {found}{' when unpacked' if unpacked else ''}",
        allowed=f"at most {most_mb:g} MB",
        next_step=f"give the right file; if it is the right one, {raised(most_mb, size, option)}",
    )


def _name(path: str | Path) -> str:
    """A path for a message: whole, but for one that is no path at all."""
    text = str(path)
    return text if len(text) <= 300 else f"{text[:150]}…{text[-100:]}"
