"""Metrics of labels, from scikit-learn and SciPy, and their fast paired bootstraps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np


def accuracy(predicted: Sequence[Any], true: Sequence[Any]) -> float:
    return float(np.mean(np.asarray(predicted) == np.asarray(true)))


def f1(predicted: Sequence[Any], true: Sequence[Any]) -> float:
    """F1 of class 1, as GLUE's MRPC and QQP have it; 0 where nothing is predicted and nothing
    true."""
    from sklearn.metrics import f1_score

    return float(f1_score(true, predicted, pos_label=1, average="binary", zero_division=0))


def f1_macro(predicted: Sequence[Any], true: Sequence[Any]) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(true, predicted, average="macro", zero_division=0))


def matthews(predicted: Sequence[Any], true: Sequence[Any]) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(true, predicted))


def spearman(predicted: Sequence[Any], true: Sequence[Any]) -> float:
    """Spearman's rank correlation; 0 where one side is constant."""
    from scipy.stats import spearmanr

    if np.ptp(predicted) == 0 or np.ptp(true) == 0:
        return 0.0
    return float(spearmanr(predicted, true).statistic)


def pearson(predicted: Sequence[Any], true: Sequence[Any]) -> float:
    from scipy.stats import pearsonr

    if np.ptp(predicted) == 0 or np.ptp(true) == 0:
        return 0.0
    return float(pearsonr(predicted, true).statistic)


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


def _confusion_accuracy(c: np.ndarray) -> float:
    return float(np.trace(c) / c.sum())


def _confusion_f1(c: np.ndarray) -> float:
    tp, predicted, true = c[1, 1], c[:, 1].sum(), c[1].sum()
    return float(2 * tp / (predicted + true)) if predicted + true else 0.0


def _confusion_f1_macro(c: np.ndarray) -> float:
    there = (
        c.sum(0) + c.sum(1)
    ) > 0  # scikit-learn averages the classes that are predicted or true
    return float(np.mean(2 * np.diag(c)[there] / (c.sum(0) + c.sum(1))[there]))


def _confusion_matthews(c: np.ndarray) -> float:
    c = c.astype(np.float64)
    t, p, n = c.sum(1), c.sum(0), c.sum()
    below = np.sqrt((n * n - (p * p).sum()) * (n * n - (t * t).sum()))
    return float((np.trace(c) * n - (t * p).sum()) / below) if below > 0 else 0.0


CONFUSION_METRICS: dict[str, Callable[[np.ndarray], float]] = {
    "accuracy": _confusion_accuracy,
    "f1": _confusion_f1,
    "f1_macro": _confusion_f1_macro,
    "matthews": _confusion_matthews,
}


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
