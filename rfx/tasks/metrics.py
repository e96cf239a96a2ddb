"""Metrics of labels, from scikit-learn and SciPy, and their fast paired bootstraps.

A metric that these labels do not define is NaN, never 0: labels of one class with Matthews, labels
without a positive one with F1, equal numbers with a correlation. Its gate is then inconclusive.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np


def accuracy(predicted: Sequence[Any], true: Sequence[Any]) -> float:
    return float(np.mean(np.asarray(predicted) == np.asarray(true))) if len(true) else math.nan


def f1(predicted: Sequence[Any], true: Sequence[Any]) -> float:
    """F1 of class 1, as GLUE's MRPC and QQP have it."""
    from sklearn.metrics import f1_score

    if not np.any(np.asarray(true) == 1):
        return math.nan
    return float(f1_score(true, predicted, pos_label=1, average="binary", zero_division=0))


def f1_macro(predicted: Sequence[Any], true: Sequence[Any]) -> float:
    from sklearn.metrics import f1_score

    if not len(true):
        return math.nan
    return float(f1_score(true, predicted, average="macro", zero_division=0))


def matthews(predicted: Sequence[Any], true: Sequence[Any]) -> float:
    """Matthews' correlation; 0 where all predictions are one class."""
    from sklearn.metrics import matthews_corrcoef

    if _constant(true):
        return math.nan
    return 0.0 if _constant(predicted) else float(matthews_corrcoef(true, predicted))


def spearman(predicted: Sequence[Any], true: Sequence[Any]) -> float:
    """Spearman's rank correlation; 0 where all predictions are equal."""
    from scipy.stats import spearmanr

    return _correlation(predicted, true, lambda a, b: spearmanr(a, b).statistic)


def pearson(predicted: Sequence[Any], true: Sequence[Any]) -> float:
    """Pearson's correlation; 0 where all predictions are equal."""
    from scipy.stats import pearsonr

    return _correlation(predicted, true, lambda a, b: pearsonr(a, b).statistic)


def _correlation(
    predicted: Sequence[Any], true: Sequence[Any], of: Callable[[Any, Any], Any]
) -> float:
    if _constant(true) or not np.isfinite(predicted).all():
        return math.nan
    if _constant(predicted):
        return 0.0
    with warnings.catch_warnings():  # of numbers that are nearly constant
        warnings.simplefilter("ignore")
        return float(of(predicted, true))


def _constant(values: Sequence[Any]) -> bool:
    """Whether there are no two different values."""
    return len(values) == 0 or bool(np.ptp(values) == 0)


CLASSIFICATION: dict[str, Callable[[Sequence[Any], Sequence[Any]], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "f1_macro": f1_macro,
    "matthews": matthews,
}
REGRESSION: dict[str, Callable[[Sequence[Any], Sequence[Any]], float]] = {
    "spearman": spearman,
    "pearson": pearson,
}


def resample_rows(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """The row indices of each resample, the same for every metric: int64 [n], `resamples` times."""
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield rng.integers(0, n, n)


def bootstrap_labels(
    metric: str,
    first: Sequence[Any],
    second: Sequence[Any],
    true: Sequence[Any],
    classes: int,
    resamples: int,
    seed: int,
) -> np.ndarray:
    """Paired bootstrap of a classification metric from class counts alone: float64 [resamples]."""
    one, other, right = (np.asarray(x, dtype=np.int64) for x in (first, second, true))
    n = len(right)
    out = np.empty(resamples)
    # Each example falls into one cell of (true, first) and one of (true, second).
    cells_a, cells_b = right * classes + one, right * classes + other
    value = CONFUSION_METRICS[metric]
    for r, rows in enumerate(resample_rows(n, resamples, seed)):
        a = np.bincount(cells_a[rows], minlength=classes * classes).reshape(classes, classes)
        b = np.bincount(cells_b[rows], minlength=classes * classes).reshape(classes, classes)
        out[r] = value(a) - value(b)
    return out


def bootstrap_numbers(
    metric: str,
    first: Sequence[float],
    second: Sequence[float],
    true: Sequence[float],
    resamples: int,
    seed: int,
) -> np.ndarray:
    """Paired bootstrap of a correlation, many resamples at once: float64 [resamples]."""
    columns = [np.asarray(x, dtype=np.float64) for x in (first, second, true)]
    every = resample_rows(len(columns[2]), resamples, seed)
    found = []
    while len(rows := np.array(list(islice(every, 64)))):
        one, other, right = (_centred(column[rows], metric) for column in columns)
        found.append(_row_correlations(one, right) - _row_correlations(other, right))
    return np.concatenate(found)


def _centred(values: np.ndarray, metric: str) -> np.ndarray:
    """Each row without its mean, of ranks for Spearman's: [resamples, n]."""
    from scipy.stats import rankdata

    rows = rankdata(values, axis=1) if metric == "spearman" else values
    same = np.ptp(rows, axis=1) == 0  # rounding must not make numbers of equal ones
    return np.where(same[:, None], 0.0, rows - rows.mean(1, keepdims=True))


def _row_correlations(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """As `spearman` and `pearson` have it: NaN where the labels are equal, 0 where the predictions
    are."""
    sizes = np.sqrt((predicted**2).sum(1)), np.sqrt((true**2).sum(1))
    together = (predicted * true).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = together / sizes[0] / sizes[1]
    return np.where(sizes[1] == 0, np.nan, np.where(sizes[0] == 0, 0.0, value))


def _confusion_accuracy(c: np.ndarray) -> float:
    return float(np.trace(c) / c.sum())


def _confusion_f1(c: np.ndarray) -> float:
    tp, predicted, true = c[1, 1], c[:, 1].sum(), c[1].sum()
    return float(2 * tp / (predicted + true)) if true else math.nan


def _confusion_f1_macro(c: np.ndarray) -> float:
    there = (
        c.sum(0) + c.sum(1)
    ) > 0  # scikit-learn averages the classes that are predicted or true
    return float(np.mean(2 * np.diag(c)[there] / (c.sum(0) + c.sum(1))[there]))


def _confusion_matthews(c: np.ndarray) -> float:
    c = c.astype(np.float64)
    t, p, n = c.sum(1), c.sum(0), c.sum()
    if np.count_nonzero(t) < 2:
        return math.nan
    below = np.sqrt((n * n - (p * p).sum()) * (n * n - (t * t).sum()))
    return float((np.trace(c) * n - (t * p).sum()) / below) if below > 0 else 0.0


# The least value of those metrics that can be below 0.
LEAST = {"matthews": -1.0, "spearman": -1.0, "pearson": -1.0}
CONFUSION_METRICS: dict[str, Callable[[np.ndarray], float]] = {
    "accuracy": _confusion_accuracy,
    "f1": _confusion_f1,
    "f1_macro": _confusion_f1_macro,
    "matthews": _confusion_matthews,
}


def confusion(predicted: Sequence[Any], true: Sequence[Any], classes: int) -> np.ndarray:
    """Counts of each true class (rows) and predicted class (columns): int64 [classes, classes]."""
    cells = np.asarray(true, dtype=np.int64) * classes + np.asarray(predicted, dtype=np.int64)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def moved(counts: np.ndarray, shares: np.ndarray, better: bool) -> np.ndarray:
    """A confusion in which a share of each true class is answered otherwise, for the better or for
    the worse: float64 [classes, classes]."""
    out = counts.astype(np.float64)
    classes = len(out)
    for true, share in enumerate(shares):
        some = share * out[true].sum()
        if better:
            wrong = np.delete(out[true], true).sum()
            kept = 1 - min(some, wrong) / wrong if wrong else 1.0
            right = out[true, true] + (1 - kept) * wrong
            out[true] *= kept
            out[true, true] = right
        elif classes > 1:
            some = min(some, out[true, true])
            out[true, true] -= some
            out[true, (true + 1) % classes] += some
    return out


def bootstrap_ratio(
    first: np.ndarray,
    second: np.ndarray,
    value: Callable[[np.ndarray], float],
    resamples: int,
    seed: int,
) -> np.ndarray:
    """Paired bootstrap of a metric of summed parts: `first`, `second` float64 [examples, parts],
    value(sums [parts])."""
    out = np.empty(resamples)
    for r, rows in enumerate(resample_rows(len(first), resamples, seed)):
        out[r] = value(first[rows].sum(0)) - value(second[rows].sum(0))
    return out
