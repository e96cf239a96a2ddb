"""How like the dense model's predictions those of the pruned model are. It needs no labels, and it
sees ruin that a metric can hide."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rfx.tasks.intervals import correlation_interval, share_interval


class Agreement(NamedTuple):
    """Args:
    share: of the predictions that are equal, 0 to 1; of real numbers their correlation, where a
        negative one is 0.
    interval: 95 % interval of the share.
    by_chance: the share that two models with these shares of answers would have if they had
        nothing to do with one another, as in Cohen's kappa.
    """

    share: float
    interval: tuple[float, float]
    by_chance: float


def of_answers(first: Sequence[Any], second: Sequence[Any]) -> Agreement:
    """Of classes, tags or texts, one for one."""
    n = len(first)
    if n == 0:
        return Agreement(math.nan, (0.0, 1.0), 0.0)
    a, b = [_key(x) for x in first], [_key(x) for x in second]
    same = sum(x == y for x, y in zip(a, b, strict=True))
    ours, theirs = Counter(a), Counter(b)
    chance = sum(count / n * theirs[answer] / n for answer, count in ours.items())
    return Agreement(same / n, share_interval(same, n), chance)


def of_numbers(first: Sequence[float], second: Sequence[float]) -> Agreement:
    """Of real numbers: their correlation. Two constant predictions agree only where they are
    equal."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} predictions against {len(b)}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return Agreement(0.0, (0.0, 0.0), 0.0)
    value = 1.0 if np.array_equal(a, b) else correlation(a, b)
    low, high = correlation_interval(value, len(a))
    return Agreement(max(0.0, value), (max(0.0, low), max(0.0, high)), 0.0)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation; 0 where one side is constant."""
    from scipy.stats import pearsonr

    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    with warnings.catch_warnings():  # of numbers that are nearly constant
        warnings.simplefilter("ignore")
        value = float(pearsonr(first, second).statistic)
    return value if math.isfinite(value) else 0.0


def _key(answer: Any) -> Hashable:
    """A prediction as something that can be counted."""
    return answer if isinstance(answer, Hashable) else repr(answer)
