"""Numbers in words that read rightly: signs, shares, steps."""

from __future__ import annotations

import math

from rfx.core.sizes import exact_size

POINTS = "points lost"  # the unit of a drop of the metric
BYTES = "bytes"  # the unit of a size
SIZE = "size"  # the one budget that is no share of the dense model's cost
ALIKE = "predicted alike"  # the unit of an agreement, a share


def score(metric: float) -> str:
    """A metric times 100, with two digits."""
    return f"{100 * metric:.2f}" if math.isfinite(metric) else "not known"


def points(drop: float) -> str:
    """A drop of the metric in points: "0.50 points lost", "0.01 points gained"."""
    if not math.isfinite(drop):
        return "not a number of points"
    size = f"{abs(drop):.2f}"
    return f"{size} points {'gained' if drop < 0 and float(size) else 'lost'}"


def change(drop: float) -> str:
    """A drop without its unit, for a column that names it: "0.50 lost", "0.01 gained"."""
    return points(drop).replace(" points", "") if math.isfinite(drop) else "not a number"


def point_range(low: float, high: float) -> str:
    """An interval of a drop: "0.10 to 0.90 points lost", "0.30 points gained to 0.50 points
    lost"."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "not a number of points"
    if high <= 0:  # all of it is a gain: the smaller one first
        return f"{abs(high):.2f} to {points(low)}"
    if points(low).endswith("lost"):
        return f"{abs(low):.2f} to {points(high)}"
    return f"{points(low)} to {points(high)}"


def percent(share: float) -> str:
    """A share as a percentage with two digits that count: "0.3 %", "12 %", "99.12 %"."""
    value = 100 * share
    if not math.isfinite(value):
        return "an unknown share"
    if abs(value) < 1e-12 or abs(value - 100) < 0.005:
        return f"{value:.0f} %"
    if value >= 10:
        digits = 0 if value < 90 else 2  # what is nearly whole differs in its last digits
    else:
        digits = max(0, 1 - math.floor(math.log10(abs(value))) - (abs(value) < 1))
    return f"{value:.{min(digits, 6)}f} %"


def milliseconds(ms: float) -> str:
    """A latency with three digits that count."""
    if not math.isfinite(ms):
        return "an unknown number of ms"
    digits = 1 if ms >= 100 else 2 if ms >= 10 else 3
    return f"{ms:.{digits}f} ms"


def step(budget_ms: float) -> float:
    """A round step of latency that is small beside a budget: 1, 0.1, 0.01, ... ms."""
    if not (math.isfinite(budget_ms) and budget_ms > 0):
        return 1.0
    return min(1.0, 10.0 ** math.floor(math.log10(budget_ms / 5)))


def target_text(budget: str, target: float) -> str:
    """A target of a sweep as its option takes it: "0.7", "25MB".

    Args:
        target: bytes under a size budget, else a share.
    """
    whole = budget == SIZE and math.isfinite(target) and target >= 1
    return exact_size(int(target)) if whole else f"{target:g}"


# How a warning begins that says which files are not those that the evidence was written of.
CHANGED = "Files have changed since the evidence was written"
