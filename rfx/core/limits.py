"""How large a file may be, and how long a pipe may stay silent: the usual bound of each kind of
file stands where that kind is read, and two variables of the environment change them all."""

from __future__ import annotations

import math
import os

from rfx.core.errors import UsageError
from rfx.core.values import short

MB = 1 << 20
SIZE = "RFX_MAX_FILE_MB"
SILENCE = "RFX_READ_TIMEOUT_S"
SILENCE_S = 60.0  # how long a pipe may stay silent before its first byte
_LONGEST_S = 1e8  # three years; the system takes no wait without end
MOST_FILE_MB = 1_000_000_000  # far above any file, and below where numbers of bytes overflow


def bound_mb(usual: float) -> float:
    """The bound of a kind of file: its usual one, or $RFX_MAX_FILE_MB where that is more. It never
    lowers one, so that a value which lets one file through stops no other.

    Raises:
        UsageError: the variable holds no positive number.
    """
    return max(usual, min(_number(SIZE, usual, "MB"), MOST_FILE_MB))


def silence_s() -> float:
    """How long to wait for the first byte of a pipe: $RFX_READ_TIMEOUT_S, or 60 seconds.

    Raises:
        UsageError: the variable holds no positive number.
    """
    return min(_number(SILENCE, SILENCE_S, "seconds"), _LONGEST_S)


def require_limits() -> None:
    """Raises UsageError where one of the variables holds no positive number: said at once, and not
    when the first file is read."""
    bound_mb(1)
    silence_s()


def raised(usual: float, size: int | None, option: str | None = None) -> str:
    """What lets a file through that is too large, in words.

    Args:
        usual: its bound now, in MB.
        size: of the file in bytes; None where nobody knows, as of a pipe: twice the bound is named.
        option: what sets the bound of this kind of file, where it is an option and no variable.
    """
    needed = math.ceil(usual * 2 if size is None else size / MB)
    return f"raise its bound: {option} {needed}" if option else f"set {SIZE}={needed}"


def _number(name: str, usual: float, unit: str) -> float:
    text = os.environ.get(name, "").strip()
    if not text:
        return usual
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:  # NaN is not
        raise UsageError(
            f"The environment variable {name} is no positive number.",
            got=f"{name}={short(text)}",
            allowed=f"a number of {unit} above 0, such as {name}={usual:g}",
            next_step=f"correct it, or remove it: unset {name}",
        )
    return value
