"""The algebra of a latency table: from latencies of models to the costs of sublayers. No clock and
no runtime here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

LEAST = 0.01  # of a share: units that cost nothing at all would be a clock's noise
TINY = 1e-6  # ms; a sublayer with all of its units costs as much, whatever the clock says
MAX_MIDPOINTS = 8  # widths between two tile edges that are tried, where latency goes in steps

Point = tuple[str, int]  # a curve, and the units that all of its sites keep; the others keep all
DENSE: Point = ("dense", 0)  # the model with all units
Curves = Mapping[str, Mapping[int, float]]  # milliseconds by curve and count


def midpoints(times: Mapping[int, np.ndarray]) -> list[int]:
    """Counts halfway between two measured ones where latency rises most, at most 8. Between two
    edges of equal cost every
    count is dominated by the upper edge: it is skipped.

    Args:
        times: milliseconds by count, the estimate first, then its bootstrap samples.
    """
    counts = sorted(times)
    rises = []
    for low, high in pairwise(counts):
        rise = times[high] - times[low]
        noise = float(np.std(rise[1:])) if len(rise) > 1 else 0.0
        middle = (low + high) // 2
        if (
            float(rise[0]) > max(3 * noise, 0.0)
            and low > 0
            and middle % 8 == 0
            and middle not in times
        ):
            rises.append((float(rise[0]), middle))
    return sorted(middle for _, middle in sorted(rises, reverse=True)[:MAX_MIDPOINTS])


def split(
    samples: Mapping[Point, np.ndarray],
    counts: Mapping[str, Sequence[int]],
    smooth: bool,
) -> tuple[Curves, Curves]:
    """Latencies of models -> what n units add to a model in which the curve's sites have none, and
    the half-widths of the 95 % intervals of that, both in ms.

    Args:
        samples: milliseconds by point, [1 + resamples], the estimate first.
        counts: those measured, by curve, 0 and all of its units among them.
        smooth: whether more units never cost less on this runtime.
    """
    rises: dict[str, dict[int, float]] = {}
    errors: dict[str, dict[int, float]] = {}
    for name, own in counts.items():
        full = max(own)
        curve = {n: samples[DENSE if n == full else (name, n)] - samples[name, 0] for n in own}
        values = np.asarray([curve[n][0] for n in sorted(own)])
        if smooth:
            values = monotone(values)
        values = values - values[0]  # with the noise of neighbours out of it
        rises[name] = {n: max(0.0, float(v)) for n, v in zip(sorted(own), values)}
        errors[name] = {
            n: float(np.ptp(np.percentile(curve[n][1:], (2.5, 97.5))) / 2) for n in sorted(own)
        }
    return rises, errors


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


@dataclass(frozen=True)
class Sites:
    """How many sites a curve is of.

    Args:
        units: of each.
        whole: in the model. partial: those of them that compute one position alone.
        timed, timed_partial: the same in the models that the curve is measured on.
        least: units that partial sites keep in all of these.
        added_ms: what the model's partial sites add above that, ms.
    """

    units: int
    whole: int
    timed: int
    partial: int = 0
    timed_partial: int = 0
    least: int = 0
    added_ms: float = 0.0

    def of_one(self, rises: Mapping[int, float]) -> dict[int, float]:
        """What n units add at one whole site, from what they add at all those that are timed.

        There the partial ones add a share s of what the others do, so that the units above `least`
        add (timed - timed_partial + s timed_partial) times what they add at one. What they add at
        the model's partial sites, s `partial` times that, is `added_ms`: two equations for s and
        for what they add at one.
        """
        above = rises[self.units] - rises[self.least]
        others = self.timed - self.timed_partial
        if not others:  # nothing to compare them with
            return {n: ms / self.timed for n, ms in rises.items()}
        counted = float(others)
        if self.timed_partial:
            room = above * self.partial - self.added_ms * self.timed_partial
            s = self.added_ms * others / room if room > 0 else 1.0
            counted += min(1.0, max(LEAST, s)) * self.timed_partial
        below = (rises[self.least] - rises[0]) / others
        return {
            n: below + (ms - rises[self.least]) / counted if n >= self.least else 0.0
            for n, ms in rises.items()
        }


def anchor(
    rises: Curves,
    errors: Curves,
    sites: Mapping[str, Sites],
    dense_ms: float,
    emptied_ms: float,
) -> tuple[Curves, Curves, float, dict[str, float], dict[str, Any]]:
    """Curves and fixed part that give the whole models exactly: what all units add to the emptied
    model is dense - emptied, and the curves are stretched to that. The factor says how well the
    models that were timed speak for the whole one.

    Args:
        rises, errors: as `split` gives them, of the models that were timed.

    Returns:
        Costs of one site by curve and count, their errors, the fixed part, by curve what a partial
        site adds as a share of what another adds, and notes.
    """
    ones = {name: own.of_one(rises[name]) for name, own in sites.items()}
    full = {name: max(ones[name][own.units], TINY) for name, own in sites.items()}
    parts, above = {}, {}  # what all units of the partial sites add, by what those above `least` do
    for name, own in sites.items():
        if own.partial:
            above[name] = full[name] - ones[name][own.least]
            scale = full[name] / above[name] if above[name] > 0 else 1.0
            parts[name] = max(0.0, own.added_ms) * scale
    rise = math.fsum((own.whole - own.partial) * full[name] for name, own in sites.items())
    added = dense_ms - emptied_ms - math.fsum(parts.values())
    # Too small to be told from the clock's noise, or every site is a partial one.
    told = rise > 0 and added > 0
    factor = added / rise if told else 1.0
    shares = {
        name: min(1.0, max(LEAST, ms / (sites[name].partial * factor * full[name])))
        for name, ms in parts.items()
    }
    costs = {
        name: {n: factor * (full[name] if n == own.units else ms) for n, ms in ones[name].items()}
        for name, own in sites.items()
    }
    errors = {
        name: {n: factor * e / sites[name].timed for n, e in curve.items()}
        for name, curve in errors.items()
    }
    counted = math.fsum(
        (own.whole - own.partial * (1 - shares.get(name, 1.0))) * costs[name][own.units]
        for name, own in sites.items()
    )
    fixed = emptied_ms if told else max(0.0, dense_ms - counted)
    return costs, errors, fixed, shares, {"anchor_factor": factor if told else None}
