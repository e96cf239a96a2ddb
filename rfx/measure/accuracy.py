"""Accurate: the metric of the final engine against the dense one on the whole evaluation set,
paired."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence

import numpy as np

from rfx.evidence.records import AccuracyPart
from rfx.tasks.base import Example, MetricResult, Task
from rfx.tasks.intervals import paired_interval

RESAMPLES = 1000
FEWEST = 4  # examples: of fewer, a correlation or an F1 can be anything


def compare(
    task: Task,
    dense: MetricResult,
    pruned: MetricResult,
    examples: Sequence[Example],
    *,
    max_drop: float | None,
    seed: int,
    divergence: float | None = None,
    min_agreement: float | None = None,
    weak_baseline: bool = False,
) -> AccuracyPart:
    """The drop of the metric in points, with its interval (95 %), and the agreement of the two
    models.

    Args:
        dense, pruned: predictions and metric on the same `examples`.
        max_drop: points; kept in the evidence, as `min_agreement` and `weak_baseline` are.
        divergence: of the pruned outputs from the dense ones; kept in the evidence.
    """
    like = task.agreement(dense.predictions, pruned.predictions)
    constant = task.constant(examples)
    return AccuracyPart(
        metric=dense.name,
        dense=dense.value,
        pruned=pruned.value,
        drop=100 * (dense.value - pruned.value),
        interval=drop_interval(task, dense, pruned, examples, seed),
        examples=len(examples),
        distinct=len({e.hash for e in examples}),
        max_drop=max_drop,
        chance=None if constant is None else task.metric(constant.predictions, examples),
        agreement=like.share,
        agreement_interval=like.interval,
        chance_agreement=like.by_chance,
        min_agreement=min_agreement,
        weak_baseline=weak_baseline,
        divergence=divergence,
        divergence_kind=None if divergence is None else task.divergence_kind,
        predictions_hash=hashlib.sha256(
            json.dumps(list(pruned.predictions), default=str).encode()
        ).hexdigest()[:16],
    )


def drop_interval(
    task: Task,
    dense: MetricResult,
    pruned: MetricResult,
    examples: Sequence[Example],
    seed: int,
) -> tuple[float, float]:
    """95 % interval of the drop in points: the wider one, at each end, of a paired bootstrap and of
    an interval that is exact for few examples. A bootstrap of examples none of which is answered
    otherwise is a point, however few they are."""
    drop = 100 * (dense.value - pruned.value)
    if not math.isfinite(drop):
        return math.nan, math.nan
    ends = [drop]
    drops = 100 * task.bootstrap(
        dense.predictions, pruned.predictions, examples, resamples=RESAMPLES, seed=seed
    )
    drops = drops[np.isfinite(drops)]  # a resample may lack a class
    if len(drops):
        ends += [float(x) for x in np.percentile(drops, (2.5, 97.5))]
    before, after = (task.right(r.predictions, examples) for r in (dense, pruned))
    if before is not None and after is not None:
        lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
        ends += [100 * x for x in paired_interval(lost, gained, len(examples))]
    elif len(examples) < FEWEST:
        ends += [100 * (dense.value - x) for x in (1.0, task.least)]
    else:
        differs = np.asarray(
            [a != b for a, b in zip(dense.predictions, pruned.predictions, strict=True)]
        )
        reached = task.extremes(pruned.predictions, differs, examples)
        ends += [100 * (dense.value - x) for x in reached if math.isfinite(x)]
    return min(ends), max(ends)
