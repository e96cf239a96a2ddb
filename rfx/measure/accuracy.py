"""Accurate: the metric of the final engine against the dense one on the whole evaluation set,
paired."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from rfx.evidence.records import AccuracyPart
from rfx.tasks.base import Example, MetricResult, Task

RESAMPLES = 1000


def compare(
    task: Task,
    dense: MetricResult,
    pruned: MetricResult,
    examples: Sequence[Example],
    *,
    max_drop: float | None,
    seed: int,
    divergence: float | None = None,
) -> AccuracyPart:
    """The drop of the metric in points, with its paired bootstrap interval (95 %).

    Args:
        dense, pruned: predictions and metric on the same `examples`.
        max_drop: points; kept in the evidence.
        divergence: of the pruned outputs from the dense ones; kept in the evidence.
    """
    drops = 100 * task.bootstrap(
        dense.predictions, pruned.predictions, examples, resamples=RESAMPLES, seed=seed
    )
    low, high = np.percentile(drops, (2.5, 97.5))
    real = any(isinstance(p, float) for p in dense.predictions)
    same = (
        None
        if real
        else float(
            np.mean([a == b for a, b in zip(dense.predictions, pruned.predictions, strict=True)])
        )
    )
    return AccuracyPart(
        metric=dense.name,
        dense=dense.value,
        pruned=pruned.value,
        drop=100 * (dense.value - pruned.value),
        interval=(float(low), float(high)),
        examples=len(examples),
        max_drop=max_drop,
        agreement=same,
        divergence=divergence,
        predictions_hash=hashlib.sha256(
            json.dumps(list(pruned.predictions), default=str).encode()
        ).hexdigest()[:16],
    )
