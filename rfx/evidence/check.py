"""Judging evidence again, from its numbers alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from rfx.core.errors import UsageError
from rfx.core.values import short
from rfx.evidence.baseline import baseline_gates
from rfx.evidence.gates import (
    accuracy_gate,
    agreement_gate,
    latency_gate,
    predicted_latency_gate,
    quantized_gate,
    size_gate,
    vocabulary_gate,
)
from rfx.evidence.records import Evidence, Gate

# The gates that `check` judges again from numbers; it keeps every other one as it was recorded.
JUDGED = (
    *("quantized", "accuracy", "agreement", "vocabulary", "latency", "size"),
    *("baseline-accuracy", "baseline-latency"),
)
# Of the recipe.
LIMITS = (
    *("max_drop", "min_speedup", "min_agreement", "max_quantization_loss"),
    "min_vocabulary_agreement",
)
# Each number that is judged by: whether it is above 0, and the most that it can be.
_BOUNDS = {
    "max_drop": (False, math.inf),
    "min_speedup": (True, math.inf),
    "min_agreement": (False, 1.0),
    "max_regression": (False, math.inf),
    "max_quantization_loss": (False, math.inf),
    "min_vocabulary_agreement": (False, 1.0),
    "latency": (True, 1.0),
    "flops": (True, 1.0),
}


def check(
    evidence: Evidence,
    *,
    max_drop: float | None = None,
    min_speedup: float | None = None,
    min_agreement: float | None = None,
    max_quantization_loss: float | None = None,
    min_vocabulary_agreement: float | None = None,
    baseline: Evidence | None = None,
    max_regression: float = 0.5,
) -> list[Gate]:
    """Judge evidence again, from its numbers alone.

    Args:
        max_drop, min_speedup, min_agreement, max_quantization_loss, min_vocabulary_agreement: new
            limits; None keeps the recorded one.
        baseline: evidence that this one must not be worse than, measured under the same conditions.
        max_regression: points that it may lose against the baseline.

    Raises:
        UsageError: a limit that is none, evidence without measurements, or a baseline that cannot
            be compared with.
    """
    given = {
        "max_drop": max_drop,
        "min_speedup": min_speedup,
        "min_agreement": min_agreement,
        "max_quantization_loss": max_quantization_loss,
        "min_vocabulary_agreement": min_vocabulary_agreement,
    }
    for name, value in {**given, "max_regression": max_regression}.items():
        _require_limit(f"--{name.replace('_', '-')}", name, value)
    limits = evidence.recipe.get("limits")
    if isinstance(limits, Mapping):
        for name in LIMITS:
            _require_limit(f"recipe.limits.{name} of the evidence", name, limits.get(name))
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
    gates = [g for g in evidence.gates if g.name not in JUDGED]
    part = evidence.accuracy
    quantized = evidence.quantization
    if quantized is None and max_quantization_loss is not None:
        raise UsageError(
            "There is no loss by quantizing to judge: this evidence says nothing of a quantized "
            "file.",
            got=f"--max-quantization-loss {max_quantization_loss:g}",
            allowed="evidence of a model that is served in int8",
            next_step="leave --max-quantization-loss out",
        )
    vocabulary = evidence.vocabulary
    if vocabulary is None and min_vocabulary_agreement is not None:
        raise UsageError(
            "There is no vocabulary to judge: that of this model was not pruned.",
            got=f"--min-vocabulary-agreement {min_vocabulary_agreement:g}",
            allowed="evidence of a model that was made with --prune-vocabulary",
            next_step="leave --min-vocabulary-agreement out",
        )
    if quantized is not None:
        if max_quantization_loss is not None:
            quantized = quantized.model_copy(update={"max_loss": max_quantization_loss})
        gates.append(quantized_gate(quantized))
    gates.append(accuracy_gate(part, part.max_drop if max_drop is None else max_drop))
    gates.append(agreement_gate(part, min_agreement))
    if vocabulary is not None:
        gates.append(vocabulary_gate(vocabulary, min_vocabulary_agreement))
    wanted = recorded_limit(evidence, "min_speedup") if min_speedup is None else min_speedup
    if evidence.latency is None:  # the target was not at hand: there is the table's word alone
        gates.append(
            predicted_latency_gate(
                None if unmeasured is None else unmeasured.value,
                target=recorded_target(evidence),
                min_speedup=wanted,
                why="run `rfx verify` on the device",
            )
        )
    else:
        gates.append(
            latency_gate(evidence.latency, target=evidence.latency.target, min_speedup=wanted)
        )
    if evidence.size is not None and (sized := size_gate(evidence.size)) is not None:
        gates.append(sized)
    if baseline is not None:
        gates += baseline_gates(evidence, baseline, max_regression)
    return gates


def recorded_limit(evidence: Evidence, name: str) -> float | None:
    """A limit of the recipe that the evidence was made with."""
    return _number(evidence.recipe.get("limits"), name)


def recorded_target(evidence: Evidence) -> float | None:
    """The share of the dense latency that was asked for; None under another budget."""
    return _number(evidence.recipe.get("budget"), "latency")


def _number(part: Any, name: str) -> float | None:
    value = part.get(name) if isinstance(part, Mapping) else None
    return float(value) if is_number(value) else None


def wrong_limit(name: str, value: object) -> str:
    """What a limit has to be, where a value is none; "" where it is one, or nothing."""
    above, most = _BOUNDS[name]
    if value is None:
        return ""
    if is_number(value) and (value > 0 if above else value >= 0) and value <= most:
        return ""
    least = "a number above 0" if above else "a number, 0 or more"
    if math.isinf(most):
        return least
    return f"a number above 0, {most:g} at most" if above else f"a number from 0 to {most:g}"


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value of a document is a number that can be reckoned with."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:  # an integer that is larger than any number with a point
        return False


def _require_limit(what: str, name: str, value: object) -> None:
    """Raises UsageError for a limit that is no number within its bounds."""
    if allowed := wrong_limit(name, value):
        raise UsageError(
            f"{what} is no limit.",
            got=short(value),
            allowed=allowed,
            next_step=f"correct {what}",
        )
