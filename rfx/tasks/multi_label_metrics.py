"""Metrics of texts that have any number of labels each, and their paired bootstraps. They are
scikit-learn's; the sums are written out, so that a thousand resamples take seconds.

A metric that these labels do not define, since no text has any, is NaN. A label that no text has
does not count for the means over labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from rfx.tasks.metrics import resample_rows


def f1_micro(predicted: np.ndarray, true: np.ndarray) -> float:
    """F1 of all decisions together. predicted, true: 0 or 1, [texts, labels]."""
    return _micro(*_counts(predicted, true, _once(true)))


def f1_macro(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean over the labels of their F1. predicted, true: 0 or 1, [texts, labels]."""
    return _macro(*_counts(predicted, true, _once(true)))


def mean_average_precision(scores: np.ndarray, true: np.ndarray) -> float:
    """Mean over the labels of the area under precision over recall (average precision), from the
    scores of every text. scores, true: [texts, labels]."""
    return _mean(average_precisions(scores, true, _once(true)))


def average_precisions(scores: np.ndarray, true: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """By label, [labels]: sum over thresholds of (R_k - R_{k-1}) P_k, as scikit-learn's
    `average_precision_score` with `sample_weight`; NaN where no text has the label.

    Args:
        scores, true: [texts, labels]. weights: of each text, [texts].
    """
    found = np.full(true.shape[1], math.nan)
    for label in range(true.shape[1]):
        order = np.argsort(-scores[:, label], kind="stable")
        ranked, w = scores[order, label], weights[order].astype(np.float64)
        hits, seen = np.cumsum(w * true[order, label]), np.cumsum(w)
        last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # of equal scores
        if hits[-1] > 0:
            hits, seen = hits[last], seen[last]
            precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
            found[label] = float(np.diff(hits, prepend=0.0) @ precision / hits[-1])
    return found


def bootstrap_labels_of_texts(
    metric: str,
    first: np.ndarray,
    second: np.ndarray,
    true: np.ndarray,
    resamples: int,
    seed: int,
) -> np.ndarray:
    """Paired bootstrap of metric(first) - metric(second), over texts: float64 [resamples]."""
    out = np.empty(resamples)
    for r, rows in enumerate(resample_rows(len(true), resamples, seed)):
        weights = np.bincount(rows, minlength=len(true))
        one, other = (
            _mean(average_precisions(side, true, weights))
            if metric == "map"
            else _OF_COUNTS[metric](*_counts(side, true, weights))
            for side in (first, second)
        )
        out[r] = one - other
    return out


def _once(true: np.ndarray) -> np.ndarray:
    return np.ones(len(true))


def _counts(
    predicted: np.ndarray, true: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each label how often it is right, given and there, [labels] each."""
    weights = weights.astype(np.float64)
    return weights @ (predicted * true), weights @ predicted, weights @ true


def _micro(right: np.ndarray, given: np.ndarray, there: np.ndarray) -> float:
    return float(2 * right.sum() / (given.sum() + there.sum())) if there.sum() else math.nan


def _macro(right: np.ndarray, given: np.ndarray, there: np.ndarray) -> float:
    some = (given + there) > 0
    if not there.sum():
        return math.nan
    return float(np.mean(2 * right[some] / (given + there)[some]))


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


_OF_COUNTS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], float]] = {
    "f1_micro": _micro,
    "f1_macro": _macro,
}
METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "f1_micro": f1_micro,
    "f1_macro": f1_macro,
    "map": mean_average_precision,
}
