"""Intervals that hold for few examples too. A bootstrap of three examples that all agree is a
point; what three examples can show is far less."""

from __future__ import annotations

import math

LEVEL = 0.95


def share_interval(count: int, of: int) -> tuple[float, float]:
    """95 % interval of a share, exact for binomial counts (Clopper and Pearson)."""
    from scipy.stats import binomtest

    if of < 1:
        return 0.0, 1.0
    found = binomtest(count, of).proportion_ci(LEVEL, method="exact")
    return float(found.low), float(found.high)


def most_of(count: int, of: int) -> float:
    """The largest share that `count` of `of` examples allow: the exact one-sided 95 % bound. No
    example of three allows a share of 63 %."""
    from scipy.stats import beta

    if of < 1 or count >= of:
        return 1.0
    return float(beta.ppf(LEVEL, count + 1, of - count))


def paired_interval(lost: int, gained: int, of: int) -> tuple[float, float]:
    """95 % interval of the difference of two shares of right answers on the same examples.

    It is put together from the exact intervals of the two counts (MOVER: Zou and Donner 2008, with
    their correlation), so it is honest where few examples differ, or none, and close to a
    bootstrap's where many do. A count of 0 has a one-sided bound.

    Args:
        lost: examples that the first alone has right.
        gained: examples that the second alone has right.
    """
    if of < 1:
        return -1.0, 1.0
    (low_l, high_l), (low_g, high_g) = (_limits(count, of) for count in (lost, gained))
    p, q = lost / of, gained / of
    spread = math.sqrt((1 - p) * (1 - q))
    together = -math.sqrt(p * q) / spread if spread else 0.0
    return (
        max(-1.0, p - q - _joined(p - low_l, high_g - q, together)),
        min(1.0, p - q + _joined(high_l - p, q - low_g, together)),
    )


def correlation_interval(value: float, of: int) -> tuple[float, float]:
    """95 % interval of a correlation by Fisher's z. Fewer than four pairs say nothing."""
    if of < 4 or not math.isfinite(value):
        return -1.0, 1.0
    z = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, value)))
    half = 1.959964 / math.sqrt(of - 3)
    return math.tanh(z - half), math.tanh(z + half)


def _limits(count: int, of: int) -> tuple[float, float]:
    return (0.0, most_of(0, of)) if count == 0 else share_interval(count, of)


def _joined(first: float, second: float, correlation: float) -> float:
    return math.sqrt(max(0.0, first**2 + second**2 - 2 * correlation * first * second))
