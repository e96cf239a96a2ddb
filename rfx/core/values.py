"""Values of users in messages: the kind of a value in plain words, and the value itself, cut short.
Both look at no more of a value than they show, so that a large one costs nothing."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping
from types import NoneType
from typing import Any

from rfx.core.text import one_line


def kind_of(value: object) -> str:
    """What a value is, in the words of a document: "a list", never the name of a Python type."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    for types, words in (
        ((int, float), "a number"),
        ((str, os.PathLike), "a text"),
        ((bytes, bytearray), "bytes"),
        ((list, tuple), "a list"),
        ((set, frozenset), "a set"),
        ((Mapping,), "a mapping of keys"),
    ):
        if isinstance(value, types):
            if isinstance(value, (str, bytes, list, tuple, Mapping)) and not value:
                return f"{words}, and it is empty"
            return words
    return "a value of another kind"


def short(value: object, most: int = 80, *, bare: bool = False) -> str:
    """A value as a message shows it: one safe line of at most `most` characters, cut in the middle.
    Of a long text, a long list or a deep mapping no more is looked at than is shown.

    Args:
        bare: a text stands there as it is, without quotes, and so does whatever has a text of its
            own (a path, the message of an exception).
    """
    if bare and not isinstance(value, (*_HOLDERS, int, NoneType)):
        return one_line(str(value), most)
    return one_line(_Short(most).repr(value), most)


_HOLDERS = (list, tuple, dict, set, frozenset)


class _Short(reprlib.Repr):
    """Of what holds others the first members alone, three levels deep."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = most
        self.maxlevel = 3
        members = max(most // 16, 6)
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = members

    def repr_NoneType(self, value: None, level: int) -> str:  # noqa: N802 - reprlib's name
        return "nothing"

    def repr_int(self, value: int, level: int) -> str:
        # Python refuses to write integers of thousands of digits.
        bits = value.bit_length()
        return repr(value) if bits < 500 else f"an integer of {bits} bits"

    def repr_instance(self, value: Any, level: int) -> str:
        if isinstance(value, os.PathLike):
            return self.repr_str(str(value), level)
        return super().repr_instance(value, level)
