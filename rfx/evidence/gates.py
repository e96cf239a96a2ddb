"""Gates: from measured numbers to pass, fail or inconclusive.

A gate passes when the bound of its interval is inside the limit, fails when the other bound is
outside, and is inconclusive between. A number that is not finite fails.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rfx.core.errors import ExitCode, UsageError
from rfx.evidence.records import AccuracyPart, Evidence, Gate, LatencyPart, Outcome
from rfx.evidence.words import points

# The gates that `check` judges again from numbers; it keeps every other one as it was recorded.
JUDGED = ("accuracy", "latency", "baseline-accuracy", "baseline-latency")
BASELINE_SLACK = 0.02  # of the latency: two measurements of one model differ by up to this


def judge(interval: tuple[float, float], limit: float) -> Outcome:
    """The outcome for a value that must be at most `limit`."""
    low, high = interval
    if not (math.isfinite(low) and math.isfinite(high)):
        return "fail"
    return "pass" if high <= limit else "fail" if low > limit else "inconclusive"


def shrunk_gate(mismatches: Sequence[str]) -> Gate:
    """The exported file's shapes against the plan; `mismatches` are sentences."""
    more = f" (and {len(mismatches) - 3} more)" if len(mismatches) > 3 else ""
    return Gate(
        name="shrunk",
        outcome="fail" if mismatches else "pass",
        value=len(mismatches),
        limit=0,
        unit="mismatches",
        detail="; ".join(mismatches[:3]) + more if mismatches else "every shape is the plan's",
    )


def same_gate(differences: Mapping[str, float], tolerances: Mapping[str, float] | float) -> Gate:
    """Largest difference of the outputs between the forms of the pruned model, as a share of the
    outputs' scale; each pair has a tolerance. The value and limit are those of the pair that comes
    nearest to its own."""
    if not isinstance(tolerances, Mapping):
        tolerances = dict.fromkeys(differences or ("outputs",), tolerances)
    finite = bool(differences) and all(math.isfinite(d) for d in differences.values())
    worst = (
        max(differences, key=lambda n: differences[n] / tolerances[n])
        if finite
        else next(iter(tolerances))
    )
    return Gate(
        name="same",
        outcome="pass" if finite and differences[worst] <= tolerances[worst] else "fail",
        value=differences[worst] if finite else None,
        limit=tolerances[worst],
        unit="of scale",
        detail="largest difference of the outputs, "
        + ", ".join(f"{n}: {d:.1e}" for n, d in differences.items()),
    )


def accuracy_gate(part: AccuracyPart, max_drop: float | None) -> Gate:
    """The drop of the metric against `max_drop`, in points. Without a limit it is measured and
    passes (reports say "no limit")."""
    finite = all(math.isfinite(x) for x in (part.dense, part.pruned, part.drop, *part.interval))
    if not finite:
        outcome: Outcome = "fail"
    else:
        outcome = "pass" if max_drop is None else judge(part.interval, max_drop)
    detail = (
        f"{part.metric} {100 * part.dense:.2f} -> {100 * part.pruned:.2f} on {part.examples} "
        f"examples{_likeness(part)}"
    )
    return Gate(
        name="accuracy",
        outcome=outcome,
        value=part.drop if finite else None,
        limit=max_drop,
        interval=part.interval if finite else None,
        unit="points lost",
        detail=detail + ("; no limit given (--max-drop)" if max_drop is None else ""),
    )


def _likeness(part: AccuracyPart) -> str:
    """How like the dense model's the outputs are, which is sharper than the metric and needs no
    labels."""
    said = (
        [] if part.agreement is None else [f"{part.agreement:.1%} predicted as by the dense model"]
    )
    if part.divergence is not None:
        said.append(
            f"{'squared difference' if part.agreement is None else 'KL'} {part.divergence:.2g}"
        )
    return "".join(f", {s}" for s in said)


def latency_gate(part: LatencyPart, *, target: float | None, min_speedup: float | None) -> Gate:
    """The ratio to dense against the target and the least speedup; never slower than dense."""
    limits = {"never slower than dense": 1.0}
    if target is not None:
        limits["target"] = target
    if min_speedup is not None:
        limits[f"speedup of {min_speedup:g}"] = 1 / min_speedup
    why, limit = min(limits.items(), key=lambda item: item[1])
    finite = math.isfinite(part.ratio)
    return Gate(
        name="latency",
        outcome=judge(part.interval, limit) if finite else "fail",
        value=part.ratio if finite else None,
        limit=limit,
        interval=part.interval if finite else None,
        unit="of dense",
        detail=f"{part.dense_ms:.3f} -> {part.pruned_ms:.3f} ms ({part.speedup:.2f}x); limit: "
        f"{why}"
        + (
            ""
            if min_speedup is None or why.startswith("speedup")
            else f"; that includes the speedup of {min_speedup:g}"
        ),
    )


def predicted_latency_gate(
    predicted: float | None, *, target: float | None, min_speedup: float | None, why: str
) -> Gate:
    """Where the target runtime is not at hand: what the table says, which proves nothing. Always
    inconclusive."""
    limit = min(
        x for x in (1.0, target, None if min_speedup is None else 1 / min_speedup) if x is not None
    )
    return Gate(
        name="latency",
        outcome="inconclusive",
        value=predicted,
        limit=limit,
        unit="of dense",
        detail=f"predicted from the table, not measured: {why}",
    )


def exit_code(evidence: Evidence, allow_inconclusive: bool = False) -> ExitCode:
    """The worst outcome as an exit code; rfx's own proofs (shrunk, same) before the user's
    limits."""
    failed = {g.name for g in evidence.gates if g.outcome == "fail"}
    if failed & {"shrunk", "same"}:
        return ExitCode.INTERNAL_CHECK
    if failed:
        return ExitCode.GATE_FAILED
    if evidence.outcome == "inconclusive" and not allow_inconclusive:
        return ExitCode.INCONCLUSIVE
    return ExitCode.PASS


def check(
    evidence: Evidence,
    *,
    max_drop: float | None = None,
    min_speedup: float | None = None,
    baseline: Evidence | None = None,
    max_regression: float = 0.5,
) -> list[Gate]:
    """Judge evidence again, from its numbers alone.

    Args:
        max_drop, min_speedup: new limits; None keeps the recorded one.
        baseline: evidence that this one must not be worse than, measured under the same conditions.
        max_regression: points that it may lose against the baseline.

    Raises:
        UsageError: evidence without measurements, or a baseline that cannot be compared with.
    """
    for option, value, least in (
        ("--max-drop", max_drop, 0.0),
        ("--min-speedup", min_speedup, None),
        ("--max-regression", max_regression, 0.0),
    ):
        if value is not None and not (
            math.isfinite(value) and (value > 0 if least is None else value >= least)
        ):
            raise UsageError(
                f"{option} is no limit.",
                got=value,
                allowed="a number above 0" if least is None else "a number, 0 or more",
                next_step=f"correct {option}",
            )
    unmeasured = (
        next((g for g in evidence.gates if g.name == "latency"), None)
        if evidence.latency is None
        else None
    )
    if evidence.accuracy is None or (
        evidence.latency is None and (unmeasured is None or baseline is not None)
    ):
        raise UsageError(
            "This evidence has no measurements to judge.",
            got="accuracy or latency missing",
            next_step="run rfx prune-export or rfx verify first",
        )
    limits = evidence.recipe.get("limits") or {}
    gates = [g for g in evidence.gates if g.name not in JUDGED]
    gates.append(
        accuracy_gate(
            evidence.accuracy, evidence.accuracy.max_drop if max_drop is None else max_drop
        )
    )
    wanted = limits.get("min_speedup") if min_speedup is None else min_speedup
    if evidence.latency is None:  # the target was not at hand: there is the table's word alone
        target = (evidence.recipe.get("budget") or {}).get("latency")
        gates.append(
            predicted_latency_gate(
                None if unmeasured is None else unmeasured.value,
                target=target,
                min_speedup=wanted,
                why="run `rfx verify` on the device",
            )
        )
    else:
        gates.append(
            latency_gate(evidence.latency, target=evidence.latency.target, min_speedup=wanted)
        )
    if baseline is not None:
        gates += _baseline_gates(evidence, baseline, max_regression)
    return gates


def _baseline_gates(ours: Evidence, theirs: Evidence, max_regression: float) -> list[Gate]:
    """Two gates against a baseline that was measured alike."""
    accuracy, latency = (ours.accuracy, theirs.accuracy), (ours.latency, theirs.latency)
    if accuracy[0] is None or accuracy[1] is None or latency[0] is None or latency[1] is None:
        raise UsageError(
            "The baseline has no measurements to compare with.", got="accuracy or latency missing"
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
    on the same set."""
    value = ours.drop - theirs.drop
    if ours.predictions_hash is not None and ours.predictions_hash == theirs.predictions_hash:
        interval = (0.0, 0.0)
    else:
        half = math.hypot(*((p.interval[1] - p.interval[0]) / 2 for p in (ours, theirs)))
        interval = (value - half, value + half)
    return Gate(
        name="baseline-accuracy",
        outcome=judge(interval, limit),
        value=value,
        limit=limit,
        interval=interval,
        unit="points lost",
        detail=f"{points(ours.drop)} here, {points(theirs.drop)} in the baseline",
    )


def _baseline_latency(ours: LatencyPart, theirs: LatencyPart) -> Gate:
    """Ours over theirs, both as shares of the dense model measured beside them."""
    value = ours.ratio / theirs.ratio
    half = math.hypot(*((p.interval[1] - p.interval[0]) / 2 / p.ratio for p in (ours, theirs)))
    interval = (value * (1 - half), value * (1 + half))
    return Gate(
        name="baseline-latency",
        outcome=judge(interval, 1 + BASELINE_SLACK),
        value=value,
        limit=1 + BASELINE_SLACK,
        interval=interval,
        unit="of the baseline",
        detail=f"{ours.ratio:.3f} of dense here, {theirs.ratio:.3f} in the baseline",
    )
