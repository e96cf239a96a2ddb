"""Bytes that come block by block, as text: the bytes and the text of a large file are never in
memory both."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterable, Iterator


class NotDecodableError(ValueError):
    """A byte that is not of the encoding.

    Args:
        reason: in the words of the codec.
        start: its place among all bytes.
        text: of what came before it, as far as it is not in `rest`.
        rest: the bytes of the block in which it is.
    """

    def __init__(self, reason: str, start: int, text: str, rest: bytes):
        super().__init__(reason)
        self.reason, self.start, self.text, self.rest = reason, start, text, rest


def decoded_blocks(blocks: Iterable[bytes], codec: str) -> str:
    """The text of all blocks.

    Raises:
        NotDecodableError: at the first byte that is not of this encoding; of an iterator, the
            blocks after that are left.
    """
    decoder = codecs.getincrementaldecoder(codec)()
    text, taken = "", 0
    for block in _then_the_end(blocks):
        taken += len(block)
        try:
            # Python adds in place where nothing else refers to the text: no copy is made.
            text += decoder.decode(block, not block)
        except UnicodeDecodeError as error:
            # What the codec was given: the bytes that it had kept of earlier blocks, and this one.
            start = taken - len(error.object) + error.start
            raise NotDecodableError(error.reason, start, text, error.object) from None
    return text


def joined(blocks: Iterable[bytes]) -> bytes:
    """All blocks in one, without a moment in which the memory holds them twice."""
    stream = io.BytesIO()
    for block in blocks:
        stream.write(block)
    return stream.getvalue()


def _then_the_end(blocks: Iterable[bytes]) -> Iterator[bytes]:
    yield from (block for block in blocks if block)
    yield b""
