"""Metrics of search: where the documents that answer a query stand among all documents.

Of each query the ranks of its relevant documents are enough, and how relevant each of them is. The
gain of a document is its grade, as in trec_eval and BEIR.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from rfx.tasks.metrics import resample_rows

DEPTH = 10  # documents that a query gives


def ndcg(ranks: Sequence[int], grades: Sequence[float]) -> float:
    """Normalized discounted cumulative gain of the first ten documents.

    Args:
        ranks: of the relevant documents, from 1 on.
        grades: of the same documents.
    """
    gain = sum(g / math.log2(1 + r) for r, g in zip(ranks, grades, strict=True) if r <= DEPTH)
    best = sorted(grades, reverse=True)[:DEPTH]
    return gain / sum(g / math.log2(1 + r) for r, g in enumerate(best, 1))


def recall(ranks: Sequence[int], grades: Sequence[float]) -> float:
    """The share of the relevant documents that are among the first ten."""
    return sum(r <= DEPTH for r in ranks) / len(ranks)


def reciprocal(ranks: Sequence[int], grades: Sequence[float]) -> float:
    """One over the rank of the first relevant document; 0 where it is not among the first ten."""
    first = min(ranks)
    return 1 / first if first <= DEPTH else 0.0


METRICS: dict[str, Callable[[Sequence[int], Sequence[float]], float]] = {
    "ndcg@10": ndcg,
    "recall@10": recall,
    "mrr@10": reciprocal,
}


def of_queries(
    metric: str, ranks: Sequence[Sequence[int]], grades: Sequence[Sequence[float]]
) -> np.ndarray:
    """The metric of each query, float64 [queries]; its mean is that of them all."""
    value = METRICS[metric]
    return np.array([value(r, g) for r, g in zip(ranks, grades, strict=True)], dtype=np.float64)


def ranks_of(scores: np.ndarray, relevant: Sequence[int]) -> list[int]:
    """The ranks of the relevant documents, from 1 on, the highest score first. Of equal scores, and
    of those that are no numbers, a document has the last place: a model that tells no documents
    apart has found none. scores: [documents]."""
    return [len(scores) - int((scores < scores[document]).sum()) for document in relevant]


def bootstrap_queries(
    first: np.ndarray, second: np.ndarray, resamples: int, seed: int
) -> np.ndarray:
    """Paired bootstrap of the mean over queries: float64 [resamples]."""
    rows = resample_rows(len(first), resamples, seed)
    difference = first - second
    return np.array([difference[r].mean() for r in rows])
