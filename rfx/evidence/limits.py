"""Whether the limits and verdicts that an evidence records are those that its own numbers and its
recipe give.

`rfx gate` takes every limit that it is not given from the evidence. A limit that was edited must
therefore show: the recorded gates have been judged by the true one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from rfx.core.values import short
from rfx.evidence.check import LIMITS, recorded_limit, recorded_target, wrong_limit
from rfx.evidence.gates import accuracy_gate, agreement_gate, judge, predicted_latency_gate
from rfx.evidence.records import AccuracyPart, Evidence, Gate


def limit_contradictions(e: Evidence) -> Iterator[str]:
    """Everything that is wrong with the recorded limits, each in words; where the limits are sound,
    what is wrong with the gates over them."""
    wrong = list(_no_limits(e))
    yield from wrong
    if wrong:
        return
    yield from _two_places(e)
    for gate in e.gates:
        if gate.name == "accuracy" and e.accuracy is not None:
            yield from _accuracy(gate, e.accuracy)
        elif gate.name == "agreement" and e.accuracy is not None:
            yield from _same_verdict(gate, agreement_gate(e.accuracy))
        elif gate.name == "latency":
            yield from _latency(gate, e)


def knows_agreement(part: AccuracyPart) -> bool:
    """Whether an evidence is of an rfx that measures agreement: it has one of the numbers that came
    with it. Evidence of earlier versions has none of them."""
    later = (part.agreement_interval, part.chance_agreement, part.chance, part.distinct)
    return any(value is not None for value in later)


def verdict(gate: Gate, allowed: set[str]) -> Iterator[str]:
    """The recorded outcome of a gate against those that its numbers allow."""
    if gate.outcome not in allowed:
        right = " or ".join(sorted(allowed))
        yield f"the gate {gate.name} is recorded as {gate.outcome}, its numbers say {right}"


def _no_limits(e: Evidence) -> Iterator[str]:
    """Recorded limits that no option would take."""
    for part, names in (("limits", LIMITS), ("budget", ("latency", "flops"))):
        given = e.recipe.get(part)
        if given is None:
            continue
        if not isinstance(given, Mapping):
            yield f"recipe.{part} is {short(given)}"
            continue
        for name in names:
            if why := wrong_limit(name, given.get(name)):
                yield f"recipe.{part}.{name} is {short(given[name])}, and not {why}"
    if e.accuracy is not None:
        for name in ("max_drop", "min_agreement"):
            value = getattr(e.accuracy, name)
            if why := wrong_limit(name, value):
                yield f"accuracy.{name} is {short(value)}, and not {why}"
    if e.latency is not None and (why := wrong_limit("latency", e.latency.target)):
        yield f"the target is {short(e.latency.target)}, and not {why}"


def _two_places(e: Evidence) -> Iterator[str]:
    """The limits beside the numbers are those of the recipe."""
    rows: list[tuple[str, float | None, float | None]] = []
    if e.accuracy is not None and isinstance(e.recipe.get("limits"), Mapping):
        for name in ("max_drop", "min_agreement"):
            rows.append((name, getattr(e.accuracy, name), recorded_limit(e, name)))
    if e.latency is not None and isinstance(e.recipe.get("budget"), Mapping):
        rows.append(("target", e.latency.target, recorded_target(e)))
    for name, here, asked in rows:
        if here != asked:
            yield f"{name} is {here}, the recipe says {asked}"


def _accuracy(gate: Gate, part: AccuracyPart) -> Iterator[str]:
    right = accuracy_gate(part, part.max_drop)
    if knows_agreement(part):
        yield from _same_verdict(gate, right)
        return
    # Earlier versions did not judge ruin, and said otherwise what cannot be computed.
    if not (_equal(gate.limit, part.max_drop) or _equal(gate.limit, right.limit)):
        yield _other_limit(gate, part.max_drop)
    low, high = part.interval
    if not all(map(math.isfinite, (part.dense, part.pruned, part.drop, low, high))):
        yield from verdict(gate, {"fail", "inconclusive"})
    elif gate.limit is None:
        yield from verdict(gate, {"not-judged"})
    else:
        yield from verdict(gate, {judge((low, high), gate.limit), right.outcome})


def _latency(gate: Gate, e: Evidence) -> Iterator[str]:
    part, least = e.latency, recorded_limit(e, "min_speedup")
    target = recorded_target(e) if part is None else part.target
    right = predicted_latency_gate(None, target=target, min_speedup=least, why="").limit
    if not _equal(gate.limit, right):
        yield _other_limit(gate, right)
    if part is None:
        yield from verdict(gate, {"inconclusive"})
    elif gate.limit is not None:
        finite = math.isfinite(part.ratio)
        yield from verdict(gate, {judge(part.interval, gate.limit) if finite else "fail"})


def _same_verdict(gate: Gate, right: Gate) -> Iterator[str]:
    if not _equal(gate.limit, right.limit):
        yield _other_limit(gate, right.limit)
    yield from verdict(gate, {right.outcome})


def _other_limit(gate: Gate, right: float | None) -> str:
    return (
        f"the limit of the gate {gate.name} is {_said(gate.limit)}, the recorded limits and "
        f"numbers give {_said(right)}"
    )


def _said(limit: float | None) -> str:
    return "none" if limit is None else f"{limit:.6g}"


def _equal(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)
