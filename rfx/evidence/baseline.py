"""Gates against a baseline: another evidence that was measured alike, which this one must not be
worse than."""

from __future__ import annotations

import math

from rfx.core.errors import UsageError
from rfx.evidence.gates import judge
from rfx.evidence.records import AccuracyPart, Evidence, Gate, LatencyPart, Outcome
from rfx.evidence.words import POINTS, points

BASELINE_SLACK = 0.02  # of the latency: two measurements of one model differ by up to this


def baseline_gates(ours: Evidence, theirs: Evidence, max_regression: float) -> list[Gate]:
    """Two gates against a baseline that was measured alike."""
    accuracy, latency = (ours.accuracy, theirs.accuracy), (ours.latency, theirs.latency)
    if accuracy[0] is None or accuracy[1] is None or latency[0] is None or latency[1] is None:
        raise UsageError(
            "The baseline has no measurements to compare with.",
            got="accuracy or latency missing",
            next_step="make the baseline with rfx prune-export or rfx verify on the device",
        )
    rows = {
        "dense model": (ours.model.get("hash"), theirs.model.get("hash")),
        "metric": (accuracy[0].metric, accuracy[1].metric),
        "evaluation set": (ours.data.evaluation_hash, theirs.data.evaluation_hash),
        "clock": (latency[0].clock, latency[1].clock),
    }
    workloads = (latency[0].workload, latency[1].workload)
    for name in sorted(set(workloads[0]) | set(workloads[1])):
        rows[name] = (workloads[0].get(name), workloads[1].get(name))
    different = [
        f"{name}: {a!r} here, {b!r} in the baseline" for name, (a, b) in rows.items() if a != b
    ]
    if different:
        raise UsageError(
            "These two cannot be compared: they were not measured alike.",
            got="; ".join(different),
            allowed="evidence of the same dense model, evaluation set, runtime, device and "
            "workload",
            next_step="measure the baseline here: rfx verify BASELINE_FOLDER --out DIR",
        )
    return [
        _baseline_accuracy(accuracy[0], accuracy[1], max_regression),
        _baseline_latency(latency[0], latency[1]),
    ]


def _baseline_accuracy(ours: AccuracyPart, theirs: AccuracyPart, limit: float) -> Gate:
    """How many points more than the baseline are lost. Both drops are against the same dense model
    on the same set. A metric that cannot be computed is inconclusive, unless this model alone has
    lost it."""
    value, interval = ours.drop - theirs.drop, (0.0, 0.0)
    if ours.predictions_hash is None or ours.predictions_hash != theirs.predictions_hash:
        half = math.hypot(*((p.interval[1] - p.interval[0]) / 2 for p in (ours, theirs)))
        interval = (value - half, value + half)
    known = all(map(math.isfinite, (value, *interval, ours.pruned, theirs.pruned)))
    lost = math.isfinite(theirs.pruned) and not math.isfinite(ours.pruned)
    outcome: Outcome = "fail" if lost else "inconclusive"
    return Gate(
        name="baseline-accuracy",
        outcome=judge(interval, limit) if known else outcome,
        value=value if known else None,
        limit=limit,
        interval=interval if known else None,
        unit=POINTS,
        detail=f"{points(ours.drop)} here, {points(theirs.drop)} in the baseline"
        + ("" if known else f"; {ours.metric} cannot be computed on this evaluation set"),
    )


def _baseline_latency(ours: LatencyPart, theirs: LatencyPart) -> Gate:
    """Ours over theirs, both as shares of the dense model measured beside them. A latency of ours
    that is no number fails; one of the baseline's alone tells nothing."""
    mine, other = (_is_ratio(p) for p in (ours, theirs))
    value, interval = math.nan, (math.nan, math.nan)
    if mine and other:
        value = ours.ratio / theirs.ratio
        half = math.hypot(*((p.interval[1] - p.interval[0]) / 2 / p.ratio for p in (ours, theirs)))
        interval = (value * (1 - half), value * (1 + half))
    known = mine and other
    outcome: Outcome = "inconclusive" if mine else "fail"
    return Gate(
        name="baseline-latency",
        outcome=judge(interval, 1 + BASELINE_SLACK) if known else outcome,
        value=value if known else None,
        limit=1 + BASELINE_SLACK,
        interval=interval if known else None,
        unit="of the baseline",
        detail=f"{ours.ratio:.3f} of dense here, {theirs.ratio:.3f} in the baseline"
        if known
        else f"the latency {'of the baseline' if mine else 'measured here'} is not known",
    )


def _is_ratio(part: LatencyPart) -> bool:
    return all(map(math.isfinite, (part.ratio, *part.interval))) and part.ratio > 0
