"""The algebra of a latency table: from slopes of stacks to the costs of sublayers. No clock and no
runtime here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from rfx.core.plan import Kind

LEAST = 0.01  # of a share: units that cost nothing at all would be a clock's noise
MAX_MIDPOINTS = 8  # widths between two tile edges that are tried, where latency goes in steps

Point = tuple[int, int]  # heads, filters
Curves = Mapping[str, Mapping[int, float]]  # milliseconds by kind and count


def midpoints(slopes: Mapping[int, np.ndarray], total: int) -> list[int]:
    """Counts halfway between two measured ones where latency rises most, at most 8. Between two
    edges of equal cost every
    count is dominated by the upper edge: it is skipped.

    Args:
        slopes: milliseconds by count, the estimate first, then its bootstrap samples.
    """
    counts = sorted(slopes)
    rises = []
    for low, high in pairwise(counts):
        rise = slopes[high] - slopes[low]
        noise = float(np.std(rise[1:])) if len(rise) > 1 else 0.0
        middle = (low + high) // 2
        if (
            float(rise[0]) > max(3 * noise, 0.0)
            and low > 0
            and middle % 8 == 0
            and middle not in slopes
        ):
            rises.append((float(rise[0]), middle))
    return sorted(middle for _, middle in sorted(rises, reverse=True)[:MAX_MIDPOINTS])


def split(
    samples: Mapping[Point, np.ndarray],
    heads: Sequence[int],
    filters: Sequence[int],
    dense: Point,
    smooth: bool,
) -> tuple[Curves, Curves, dict[str, Any]]:
    """Slopes S(h, f) -> costs a(h), b(f) and the half-widths of their 95 % intervals.

    Args:
        samples: milliseconds by point, [1 + resamples], the estimate first.
        heads, filters: the counts measured.
        smooth: whether more units never cost less on this runtime.
    """
    H, F = dense
    D = samples[dense]
    empty = np.maximum(0.0, samples[0, F] + samples[H, 0] - D) / 2  # a(0) = b(0)
    curves = {
        Kind.MHA.value: {h: samples[h, F] - samples[0, F] + empty for h in heads},
        Kind.FFN.value: {f: samples[H, f] - samples[H, 0] + empty for f in filters},
    }
    costs: dict[str, dict[int, float]] = {}
    errors: dict[str, dict[int, float]] = {}
    for kind, curve in curves.items():
        values = np.asarray([curve[n][0] for n in sorted(curve)])
        spread = np.asarray(
            [np.ptp(np.percentile(curve[n][1:], (2.5, 97.5))) / 2 for n in sorted(curve)]
        )
        if smooth:
            values = monotone(values)
        costs[kind] = {n: max(0.0, float(v)) for n, v in zip(sorted(curve), values)}
        errors[kind] = {n: float(e) for n, e in zip(sorted(curve), spread)}
    notes = {"block_ms": float(D[0]), "empty_block_ms": float(samples[0, 0][0]), "smoothed": smooth}
    return costs, errors, notes


def monotone(values: np.ndarray) -> np.ndarray:
    """Isotonic regression: more units never cost less, as on a CPU; what is left of that is the
    clock's noise.

    Pool adjacent violators, written out: a board has neither scikit-learn nor SciPy.
    """
    pools: list[list[float]] = []  # [mean, size]
    for value in values:
        pools.append([float(value), 1])
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            (a, n), (b, m) = pools[-2:]
            pools[-2:] = [[(a * n + b * m) / (n + m), n + m]]
    return np.concatenate([np.full(int(size), mean) for mean, size in pools])


def anchor(
    curves: Curves,
    errors: Curves,
    layers: int,
    dense: Point,
    dense_ms: float,
    emptied_ms: float,
    partial: Mapping[str, tuple[int, float, int]],
) -> tuple[Curves, Curves, float, dict[str, float], dict[str, Any]]:
    """Curves and fixed part that give the whole models exactly: what `layers` blocks add to the
    emptied model is dense - emptied, and the curves are stretched to that. The factor says how well
    stacks speak for the model.

    Args:
        partial: by kind, how many sites of it compute a part of what the others do (the last
            layer, where one position of it is read), the milliseconds that they add with all of
            their units, and above how many units.

    Returns:
        Curves, errors, fixed part, by kind what such a site adds as a share of what another adds,
        and notes.
    """
    H, F = dense
    empty = curves[Kind.MHA.value][0] + curves[Kind.FFN.value][0]
    full = {Kind.MHA.value: H, Kind.FFN.value: F}
    rises = {kind: curves[kind][full[kind]] - curves[kind][0] for kind in full}
    above = {k: curves[k][full[k]] - curves[k][left] for k, (_, _, left) in partial.items()}
    numbers = {kind: partial[kind][0] if kind in partial else 0 for kind in full}
    # What all of their units add, by what those above the ones left do.
    parts = {
        k: max(0.0, ms) * (rises[k] / above[k] if above[k] > 0 else 1.0)
        for k, (_, ms, _) in partial.items()
    }
    rise = math.fsum((layers - numbers[kind]) * rises[kind] for kind in rises)
    added = dense_ms - emptied_ms - math.fsum(parts.values())
    # Too small to be told from the clock's noise, or every site is a partial one.
    factor = added / rise if rise > 0 and added > 0 else 1.0
    shares = {
        k: max(LEAST, ms / (numbers[k] * factor * rises[k])) if rises[k] > 0 else 1.0
        for k, ms in parts.items()
    }
    if rise <= 0 or added <= 0:
        counted = {k: layers - numbers[k] * (1 - shares.get(k, 1.0)) for k in rises}
        blocks = layers * empty + math.fsum(counted[k] * rises[k] for k in rises)
        return curves, errors, max(0.0, dense_ms - blocks), shares, {"anchor_factor": None}
    # An empty sublayer's cost stays what it was, but for the fixed part's sign.
    each = min(empty, emptied_ms / layers) / 2
    moved = {
        kind: {n: max(0.0, each + factor * (ms - curve[0])) for n, ms in curve.items()}
        for kind, curve in curves.items()
    }
    errors = {kind: {n: factor * e for n, e in curve.items()} for kind, curve in errors.items()}
    return moved, errors, emptied_ms - layers * 2 * each, shares, {"anchor_factor": factor}
