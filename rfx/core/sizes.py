"""Sizes of files as people write them, "25MB", and in words."""

from __future__ import annotations

import math
import re
from fractions import Fraction

# Bytes of each unit. Decimal units count in thousands, as disks and download pages do.
UNITS = {
    "B": 1,
    "kB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
}
ALLOWED = f"a number with a unit ({', '.join(UNITS)}), such as 25MB"
MOST = 1 << 50  # bytes: far above any file of a model
_SIZE = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,12})?)\s*([A-Za-z]{1,3})\s*")
_BY_NAME = {name.lower(): name for name in UNITS}


def parse_size(text: object) -> int:
    """The bytes of a size such as "25MB", "1.5 GiB" or "300 kb"; a part of a byte is cut off.

    Raises:
        ValueError: it is no text with a number and a unit, or not between a byte and 1 PiB; the
            message says which.
    """
    found = _SIZE.fullmatch(text) if isinstance(text, str) else None
    name = _BY_NAME.get(found[2].lower()) if found else None
    if found is None or name is None:
        raise ValueError("it is not a size with a unit")
    size = int(Fraction(found[1]) * UNITS[name])
    if not 1 <= size <= MOST:
        raise ValueError("it is not a size that a file can have")
    return size


def exact_size(count: int) -> str:
    """A number of bytes as `parse_size` reads it, without loss and as short as can be: "25MB",
    "24MiB", "1234567B"."""
    texts = []
    for name, unit in UNITS.items():
        number = f"{count / unit:.3f}".rstrip("0").rstrip(".")
        if count >= unit and int(Fraction(number) * unit) == count:
            texts.append(f"{number}{name}")
    return min(texts, key=len, default=f"{count}B")


def size_words(count: float) -> str:
    """A number of bytes for people, with three digits that count: "17.9 MB", "812 kB"."""
    if not math.isfinite(count):
        return "an unknown size"
    for name in ("GB", "MB", "kB"):
        value = count / UNITS[name]
        if value >= 0.9995:
            digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
            return f"{value:.{digits}f} {name}"
    return f"{count:.0f} bytes"
