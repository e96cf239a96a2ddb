"""Whether evidence can be what rfx wrote: its numbers within their ranges and intervals, in keeping
with one another, and every recorded verdict the one that they give.

A document that was edited in one place contradicts itself in another. One that was made up with
care does not: against that there is the signature (`rfx.evidence.signature`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from rfx.core.errors import UsageError, first_line
from rfx.core.plan import Plan
from rfx.core.text import one_line
from rfx.core.values import short
from rfx.core.workload import SEQUENCE
from rfx.evidence.gates import accuracy_gate, agreement_gate, latency_gate
from rfx.evidence.limits import knows_agreement, limit_contradictions, verdict
from rfx.evidence.records import AccuracyPart, Evidence, Gate, LatencyPart, Percentiles
from rfx.evidence.sound_precision import precision_contradictions
from rfx.evidence.sound_size import size_contradictions
from rfx.evidence.sound_vocabulary import vocabulary_contradictions
from rfx.evidence.words import points

REQUIRED = ("shrunk", "same", "accuracy", "latency")
# Evidence of earlier versions has no agreement.
KNOWN = (
    *(*REQUIRED, "quantized", "agreement", "vocabulary", "size"),
    *("baseline-accuracy", "baseline-latency"),
)
AHEAD = timedelta(hours=1)  # by which clocks may differ
MOST_TOLERANCE = 0.2  # of the outputs' scale: no precision is that inexact
SAID = 5  # contradictions that a message lists
# Metrics that can be negative; the others are shares.
_SIGNED = ("matthews", "spearman", "pearson")


def require_sound(evidence: Evidence, what: str = "evidence") -> None:
    """Raises UsageError where evidence contradicts itself, naming how.

    Args:
        what: which evidence, in words.
    """
    found = list(contradictions(evidence))
    if found:
        more = f"; and {len(found) - SAID} more" if len(found) > SAID else ""
        raise UsageError(
            f"The {what} contradicts itself: it is not what rfx wrote.",
            got="; ".join(one_line(f) for f in found[:SAID]) + more,
            allowed="evidence.json as rfx prune-export or rfx verify wrote it",
            next_step="measure the output again: rfx verify FOLDER --out DIR",
        )


def contradictions(evidence: Evidence) -> Iterator[str]:
    """Everything that cannot be so, each in words."""
    yield from _gates(evidence)
    yield from _recorded(evidence)
    if evidence.latency is not None:
        yield from _latency(evidence.latency)
        yield from _timed(evidence.latency.workload, evidence.recipe.get("workload"))
    if evidence.accuracy is not None:
        yield from _accuracy(evidence.accuracy)
    yield from precision_contradictions(evidence)
    yield from size_contradictions(evidence)
    yield from vocabulary_contradictions(evidence)
    yield from limit_contradictions(evidence)
    yield from _data(evidence)
    yield from _baseline(evidence)
    yield from _layers(evidence)
    yield from _shares(evidence)
    yield from _when(evidence)
    yield from _listed(evidence)


def _gates(e: Evidence) -> Iterator[str]:
    names = [g.name for g in e.gates]
    new = e.accuracy is not None and knows_agreement(e.accuracy)
    for name in (*REQUIRED, *(["agreement"] if new else [])):
        if name not in names:
            yield f"the gate {name} is missing"
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"the gate {short(name)} is there {names.count(name)} times"
        if name not in KNOWN:
            yield f"there is no gate {short(name)}"


def _recorded(e: Evidence) -> Iterator[str]:
    """Each recorded gate against the numbers that it was judged from."""
    for gate in e.gates:
        if gate.name == "shrunk":
            yield from _shrunk(gate)
        elif gate.name == "same":
            yield from _same(gate, e)
        elif gate.name == "accuracy" and e.accuracy is not None:
            yield from _same_number(gate, e.accuracy.drop, e.accuracy.interval)
            yield from _there(gate, accuracy_gate(e.accuracy, None))
        elif gate.name == "agreement" and e.accuracy is not None:
            a = e.accuracy
            yield from _same_number(gate, a.agreement, a.agreement_interval)
            if knows_agreement(a):
                yield from _there(gate, agreement_gate(a))
        elif gate.name == "latency" and e.latency is not None:
            yield from _same_number(gate, e.latency.ratio, e.latency.interval)
            yield from _there(gate, latency_gate(e.latency, target=1.0, min_speedup=None))


def _there(gate: Gate, own: Gate) -> Iterator[str]:
    """What a gate over the same numbers has, the recorded one has too."""
    for what in ("value", "interval"):
        if getattr(own, what) is not None and getattr(gate, what) is None:
            yield f"the gate {gate.name} has no {what}"


def _shrunk(gate: Gate) -> Iterator[str]:
    if gate.value is None or gate.value < 0 or gate.limit != 0:
        yield "the gate shrunk counts no mismatches"
    else:
        yield from verdict(gate, {"fail" if gate.value > 0 else "pass"})


def _same(gate: Gate, e: Evidence) -> Iterator[str]:
    value, limit = gate.value, gate.limit
    if limit is None or not 0 < limit <= MOST_TOLERANCE:
        yield f"the tolerance of the gate same is {limit}"
        return
    known = value is not None and math.isfinite(value) and value >= 0
    yield from verdict(gate, {"pass" if value is not None and known and value <= limit else "fail"})
    if value is not None and not any(_near(value, d) for d in e.parity.values()):
        yield f"the gate same has a difference of {value:.3g} that was not measured"
    if gate.outcome == "pass" and not all(0 <= d <= MOST_TOLERANCE for d in e.parity.values()):
        yield "the forms of the model differ by more than the gate same says"


def _same_number(
    gate: Gate, value: float | None, interval: tuple[float, float] | None
) -> Iterator[str]:
    """The gate has the number that was measured, and its interval."""
    if gate.value is None:
        return
    if value is None or not _near(gate.value, value):
        yield f"the gate {gate.name} has {gate.value:.6g}, measured was {value}"
    if gate.interval is None or interval is None:  # `_there` says where it has to be
        return
    if not all(_near(a, b) for a, b in zip(gate.interval, interval, strict=True)):
        yield f"the gate {gate.name} has another interval than what was measured"


def _latency(part: LatencyPart) -> Iterator[str]:
    for name, ms in (("dense", part.dense_ms), ("pruned", part.pruned_ms)):
        if ms <= 0:
            yield f"the {name} model takes {ms:g} ms"
    if part.ratio <= 0:
        yield f"the ratio of latencies is {part.ratio:g}"
    elif part.dense_ms > 0 and abs(part.pruned_ms / part.dense_ms - part.ratio) > 1e-3 * part.ratio:
        yield (
            f"the ratio of latencies is {part.ratio:.4g}, but {part.pruned_ms:.4g} ms of "
            f"{part.dense_ms:.4g} ms is {part.pruned_ms / part.dense_ms:.4g}"
        )
    yield from _interval("the ratio of latencies", part.ratio, part.interval, 0.0, math.inf)
    for name, times, median in (
        ("dense", part.dense, part.dense_ms),
        ("pruned", part.pruned, part.pruned_ms),
    ):
        yield from _percentiles(name, times, median)


def _timed(timed: Mapping[str, Any], asked: Any) -> Iterator[str]:
    """What was timed is what the recipe asks for, which is resolved before anything is timed. Where
    either says nothing of a size, there is nothing to compare."""
    if not isinstance(asked, Mapping):
        return
    axes = timed.get("axes")
    sizes = {**timed, **(axes if isinstance(axes, Mapping) else {})}
    for name in ("batch", SEQUENCE, "threads", "precision"):
        if name in asked and name in sizes and asked[name] != sizes[name]:
            yield (
                f"recipe.workload.{name} is {short(asked[name])}, the latency was measured at "
                f"{short(sizes[name])}"
            )


def _percentiles(name: str, times: Percentiles, median: float) -> Iterator[str]:
    row = (times.p50, times.p90, times.p95, times.p99)
    if times.samples < 1:
        yield f"{times.samples} inferences of the {name} model were timed"
    if not all(map(math.isfinite, (*row, times.mean))):
        return
    if list(row) != sorted(row) or times.p50 <= 0 or times.mean <= 0:
        yield f"the percentiles of the {name} model are not in order"
    if math.isfinite(median) and abs(times.p50 - median) > 1e-3 * abs(median):
        yield f"the {name} model's median is {median:.4g} ms, its 50th percentile {times.p50:.4g}"


def _accuracy(part: AccuracyPart) -> Iterator[str]:
    least = -1.0 if part.metric in _SIGNED else 0.0
    for name, value in (
        ("dense model's metric", part.dense),
        ("pruned model's metric", part.pruned),
        ("metric by chance", part.chance),
    ):
        if value is not None and not _within(value, least, 1.0):
            yield f"the {name} is {value:g}"
    drop = 100 * (part.dense - part.pruned)
    if math.isfinite(drop) and not abs(drop - part.drop) <= 1e-4:
        yield f"the drop is {part.drop:.4g} points, but the metrics differ by {drop:.4g}"
    if math.isfinite(part.drop):
        yield from _interval("the drop", part.drop, part.interval, -200.0, 200.0)
        if part.metric == "accuracy" and part.distinct and part.interval[0] == part.interval[1]:
            yield f"the interval of the drop is a point, on {part.distinct} examples"
    # Only where the two models answer otherwise can one be right and the other wrong.
    otherwise = 1.0 if part.agreement is None else 1 - part.agreement
    if part.metric == "accuracy" and math.isfinite(drop) and abs(drop) > 100 * otherwise + 1e-6:
        yield f"{points(drop)}, and only {otherwise:.4g} of the answers are otherwise"
    most = 2.0 if part.divergence_kind == "cosine distance" else math.inf
    if part.divergence is not None and not -1e-6 <= part.divergence <= most + 1e-6:
        yield f"the {part.divergence_kind or 'divergence'} is {part.divergence:g}"
    for name, share in (
        ("agreement", part.agreement),
        ("agreement by chance", part.chance_agreement),
        ("least agreement", part.min_agreement),
    ):
        if share is not None and not _within(share, 0.0, 1.0):
            yield f"the {name} is {share:g}"
    if knows_agreement(part):
        for name in ("agreement", "agreement_interval", "chance_agreement"):
            if getattr(part, name) is None:
                yield f"accuracy.{name} is missing"
    if part.agreement is not None and part.agreement_interval is not None:
        yield from _interval("the agreement", part.agreement, part.agreement_interval, 0.0, 1.0)
    if part.examples < 1:
        yield f"the accuracy was measured on {part.examples} examples"
    # What stands there twice counts once.
    if part.distinct is not None and part.distinct != part.examples and part.examples > 0:
        yield f"{part.distinct} of {part.examples} examples are distinct"


def _data(e: Evidence) -> Iterator[str]:
    data = e.data
    counts = data.model_dump(include={"overlap", "dropped_overlap", "duplicates", "near_copies"})
    counts |= {"repeated_calibration": data.repeated_calibration, "skipped": data.skipped}
    counts["contradictory"] = data.contradictory
    for name, count in counts.items():
        if count < 0:
            yield f"data.{name} is {count}"
    if data.overlap > 0:
        yield f"{data.overlap} evaluation examples were calibrated on"
    if data.calibration < 1 or data.evaluation < 1:
        yield f"there are {data.calibration} calibration and {data.evaluation} evaluation examples"
    if data.evaluation_hash in (data.calibration_hash, data.training_hash):
        yield "the evaluation examples are those of calibration or training: their hashes are equal"
    if e.accuracy is not None and e.accuracy.examples != data.evaluation:
        yield f"{e.accuracy.examples} examples were evaluated, there are {data.evaluation}"


def _baseline(e: Evidence) -> Iterator[str]:
    """A dense model no better than a constant answer stops a run, unless that is allowed."""
    part, limits = e.accuracy, e.recipe.get("limits")
    allowed = limits.get("allow_weak_baseline") if isinstance(limits, Mapping) else None
    if part is None:
        return
    if part.weak_baseline and allowed is False:
        yield "the dense model is no better than a constant answer, which was not allowed"
    if part.chance is None or part.weak_baseline or allowed or not math.isfinite(part.dense):
        return
    # By less it may be chance, which a run goes on with: no interval of a share reaches further.
    far = 2 / math.sqrt(max(part.examples, 1))
    if part.metric == "accuracy" and part.chance < 1 and part.dense < part.chance - far:
        yield (
            f"the dense model has {part.dense:.4g} and a constant answer {part.chance:.4g}, with "
            "which no run goes on"
        )


def _layers(e: Evidence) -> Iterator[str]:
    if len(e.dense_layers) != len(e.kept_layers):
        yield f"{len(e.kept_layers)} layers are kept of {len(e.dense_layers)}"
        return
    for i, (dense, kept) in enumerate(zip(e.dense_layers, e.kept_layers, strict=True)):
        if set(dense) != set(kept):
            yield f"layer {i} has other units than the dense model's"
            return
        wrong = [name for name, units in kept.items() if not 0 <= units <= dense[name]]
        if wrong:
            yield f"layer {i} keeps {kept[wrong[0]]} of {dense[wrong[0]]} {wrong[0]}"
    yield from _plan(e)


def _plan(e: Evidence) -> Iterator[str]:
    try:
        plan = Plan.from_json(e.plan)
        rows, own = plan.layers, plan.hash
        dense: dict[int, dict[str, int]] = {}
        for site in plan.sites:
            dense.setdefault(site.layer, {})[site.kind.plural] = site.units
            kept = list(site.kept)
            if kept != sorted(set(kept)) or (kept and not 0 <= kept[0] <= kept[-1] < site.units):
                yield f"the plan keeps units of {short(site.name)} that it does not have"
        units = [dense[i] for i in sorted(dense)]
    except (UsageError, KeyError, TypeError, ValueError, AttributeError) as error:
        yield f"the plan cannot be read ({first_line(error)})"
        return
    if rows != e.kept_layers or units != e.dense_layers:
        yield "the plan keeps other units than kept_layers says"
    if e.plan.get("hash") != own:
        yield "the plan has another hash than its units give"


def _shares(e: Evidence) -> Iterator[str]:
    if not _within(e.flops_ratio, 0.0, 1.0) or math.isnan(e.flops_ratio):
        yield f"the share of FLOPs is {e.flops_ratio:g}"
    budget = e.recipe.get("budget")
    asked = budget.get("flops") if isinstance(budget, Mapping) else None
    if isinstance(asked, (int, float)) and e.flops_ratio > asked + 1e-6:
        yield f"the share of FLOPs is {e.flops_ratio:g}, and at most {asked:g} was asked for"
    # Compensation may add a bias to a layer.
    if not 0 < e.params_ratio <= 1.05:
        yield f"the share of parameters is {e.params_ratio:g}"
    for name, difference in e.parity.items():
        if difference < 0:
            yield f"the outputs of {short(name)} differ by {difference:g}"


def _when(e: Evidence) -> Iterator[str]:
    try:
        made = datetime.fromisoformat(e.created.replace("Z", "+00:00"))
    except ValueError:
        yield f"it was made at {short(e.created)}, which is no time"
        return
    made = made if made.tzinfo is not None else made.replace(tzinfo=timezone.utc)
    if made > datetime.now(timezone.utc) + AHEAD:
        yield f"it was made in the future, at {e.created}"


def _interval(
    what: str, value: float, interval: tuple[float, float], least: float, most: float
) -> Iterator[str]:
    low, high = interval
    if not all(map(math.isfinite, (value, low, high))):
        return  # a gate over it does not pass
    # A bootstrap's interval may miss the value by a hair.
    hair = 0.1 * abs(high - low) + 1e-6
    if low > high:
        yield f"the interval of {what} runs from {low:.4g} down to {high:.4g}"
    elif not low - hair <= value <= high + hair:
        yield f"{what} is {value:.4g}, outside its own interval from {low:.4g} to {high:.4g}"
    if not (_within(low, least, most) and _within(high, least, most)):
        yield f"the interval of {what} reaches from {low:.4g} to {high:.4g}"


def _within(value: float, least: float, most: float) -> bool:
    """Whether a number is within its range; one that is not finite is judged by its gate."""
    return not math.isfinite(value) or least - 1e-9 <= value <= most + 1e-9


def _near(a: float, b: Any) -> bool:
    return isinstance(b, (int, float)) and math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)


def _listed(e: Evidence) -> Iterator[str]:
    """Of evidence that is new enough to know agreement: it speaks of an exported model."""
    new = e.accuracy is not None and knows_agreement(e.accuracy)
    if new and not any(name.endswith(".onnx") for name in e.files):
        yield "it lists no exported model among its files"
