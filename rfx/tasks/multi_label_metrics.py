"""Metrics of texts that have any number of labels each, and their paired bootstraps. They are
scikit-learn's; the sums are written out, so that a thousand resamples take seconds.

A metric that these labels do not define, since no text has any, is NaN. A label that no text has
does not count for the means over labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from rfx.tasks.intervals import most_of
from rfx.tasks.metrics import resample_rows


def f1_micro(predicted: np.ndarray, true: np.ndarray) -> float:
    """F1 of all decisions together. predicted, true: 0 or 1, [texts, labels]."""
    return _micro(*_counts(predicted, true, _once(true)))


def f1_macro(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean over the labels that some text has of their F1; scikit-learn counts the others as 0.
    predicted, true: 0 or 1, [texts, labels]."""
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
    return _precisions(_ranked(scores, true), weights)


Ranked = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


def _ranked(scores: np.ndarray, true: np.ndarray) -> Ranked:
    """By label the order of the texts, whether each of them has it, and the last place of each
    score."""
    found = []
    for label in range(true.shape[1]):
        order = np.argsort(-scores[:, label], kind="stable")
        ranked = scores[order, label]
        last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # of equal scores
        found.append((order, true[order, label], last))
    return found


def _precisions(ranked: Ranked, weights: np.ndarray) -> np.ndarray:
    found = np.full(len(ranked), math.nan)
    for label, (order, there, last) in enumerate(ranked):
        w = weights[order].astype(np.float64)
        hits, seen = np.cumsum(w * there), np.cumsum(w)
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
    sides = [_ranked(side, true) for side in (first, second)] if metric == "map" else []
    for r, rows in enumerate(resample_rows(len(true), resamples, seed)):
        weights = np.bincount(rows, minlength=len(true))
        if metric == "map":
            one, other = (_mean(_precisions(side, weights)) for side in sides)
        else:
            one, other = (
                _OF_COUNTS[metric](*_counts(side, true, weights)) for side in (first, second)
            )
        out[r] = one - other
    return out


def extremes_of_labels(
    metric: str, given: np.ndarray, true: np.ndarray, differs: np.ndarray
) -> tuple[float, float]:
    """Worst and best F1 if as many texts were answered otherwise as those that differ from another
    model's allow (the one-sided 95 % bound), for each label those that have it and those that do
    not by themselves.

    Args:
        given, true: 0 or 1, [texts, labels]. differs: bool, [texts].
    """
    right, said, there = _counts(given, true, _once(true))
    absent = len(true) - there
    with_it = _more(differs @ true, there) * there  # texts of each label, [labels]
    without = _more(differs @ (1 - true), absent) * absent
    found = []
    for sign in (-1, 1):
        hits = np.clip(right + sign * with_it, 0, there)
        false = np.clip(said - right - sign * without, 0, absent)
        found.append(_OF_COUNTS[metric](hits, hits + false, there))
    return found[0], found[1]


def _more(count: np.ndarray, of: np.ndarray) -> np.ndarray:
    """By how much the share of texts that differ may be larger than it was seen, [labels]."""
    return np.array([most_of(int(k), int(n)) - k / n if n else 0.0 for k, n in zip(count, of)])


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
    some = there > 0
    if not some.any():
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
