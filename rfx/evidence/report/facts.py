"""Evidence in words: the lines that several reports share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from rfx.core.environment import split_device
from rfx.core.kind import Kind
from rfx.core.sizes import size_words
from rfx.core.text import one_line
from rfx.evidence.precision import served_precision
from rfx.evidence.records import Evidence, Gate, Round, SearchPart
from rfx.evidence.report.rival import beaten, rival_headline
from rfx.evidence.size import size_round_text, size_text
from rfx.evidence.words import (
    ALIKE,
    BYTES,
    POINTS,
    milliseconds,
    percent,
    point_range,
    points,
    score,
    step,
)

GATE_TITLES = {
    "shrunk": "really smaller",
    "same": "the same function in every form",
    "quantized": "quantized rightly, and faster for it",
    "accuracy": "accurate enough",
    "agreement": "answers as the dense model does",
    "vocabulary": "answers as with the full vocabulary",
    "latency": "fast enough",
    "size": "small enough",
    "baseline-accuracy": "as accurate as the baseline",
    "baseline-latency": "as fast as the baseline",
}
LIMITS = {"accuracy": "--max-drop", "agreement": "--min-agreement", "latency": "--latency"}
# What a round of the closed loop means, by the note that it leaves in the evidence.
_ROUNDS = {
    "on target": "That is on target.",
    "too slow": "That is slower than the target.",
    "too near to the target": "That is within the target, but so near to it that another "
    "measurement may lie above it.",
    "faster than asked": "That is faster than it has to be, which costs accuracy for nothing.",
    "nothing has to be pruned": "The whole model is fast enough, so that nothing is pruned.",
    "no plan is faster: the search stops here": "No plan is faster, so the search stops here.",
}
_ENDS = ("on target", "nothing has to be pruned", "no plan is faster: the search stops here")


def gate_title(gate: Gate) -> str:
    """What a gate asks, in words; empty for a gate of a plug-in."""
    return GATE_TITLES.get(gate.name, "")


def model_name(evidence: Evidence) -> str:
    """A short name of the dense model: a hub name as it is, a folder by its last part."""
    source = str(evidence.model.get("source") or evidence.recipe.get("name") or "model")
    if Path(source).is_absolute() or source.count("/") != 1 or Path(source).exists():
        name = Path(source).name
        given = evidence.recipe.get("name")
        return str(given) if name in ("model", "") and given else name
    return source


def hub_name(evidence: Evidence) -> str | None:
    """The dense model's name on the hub, None for a local folder."""
    source = str(evidence.model.get("source") or "")
    local = (
        bool(evidence.model.get("local"))
        or source.startswith((".", "/", "~"))
        or "\\" in source
        or source.count("/") > 1
        or Path(source).exists()
    )
    return None if local or not source else source


def verdict(gate: Gate) -> str:
    """The outcome in words."""
    return gate.outcome.replace("-", " ")


def outcome_text(evidence: Evidence) -> str:
    """The verdict over all gates, and which of them were not judged."""
    said: list[str] = [evidence.outcome]
    for g in evidence.gates:
        if g.outcome == "not-judged":
            option = LIMITS.get(g.name)
            said.append(f"{g.name} was not judged" + (f": give {option}" if option else ""))
    return "; ".join(said)


def value_text(gate: Gate) -> str:
    """What was measured, with its unit and the right sign."""
    if gate.value is None:
        return "not known" if gate.outcome in ("fail", "inconclusive") else ""
    if gate.unit == "mismatches":
        return f"{gate.value:.0f} mismatches"
    if gate.unit == POINTS:
        return points(gate.value)
    if gate.unit == ALIKE:
        return f"{gate.value:.1%} {gate.unit}"
    if gate.unit == BYTES:
        return size_words(gate.value)
    small, unit = 0 < abs(gate.value) < 1e-3, one_line(gate.unit, 40)
    return f"{gate.value:.1e} {unit}" if small else f"{gate.value:.3f} {unit}"


def interval_text(gate: Gate) -> str:
    """The 95 % interval of what was measured; empty where it is exact."""
    if gate.interval is None:
        return ""
    if gate.unit == POINTS:
        return point_range(*gate.interval)
    if gate.unit == ALIKE:
        return f"{gate.interval[0]:.1%} to {gate.interval[1]:.1%}"
    return f"{gate.interval[0]:.3f} to {gate.interval[1]:.3f}"


def limit_text(gate: Gate) -> str:
    """The limit; empty where there is none."""
    if gate.limit is None:
        return ""
    if gate.unit == ALIKE:
        return f"at least {gate.limit:.1%}"
    if gate.unit == BYTES:
        return f"at most {size_words(gate.limit)}"
    return f"at most {gate.limit:.4g}"


def headline(evidence: Evidence) -> str:
    """One sentence: how much faster, how much less accurate. Where the dense model quantized alone
    is faster, that comes first."""
    parts, first = [], ""
    beside = rival_headline(evidence)
    if beside and beaten(evidence):
        first = f"{beside}; this model: "
    if evidence.latency:
        part = evidence.latency
        parts.append(f"{part.speedup:.2f}x as fast ({part.ratio:.3f} of the dense latency)")
    if beside and not beaten(evidence):
        parts.append(beside)
    if evidence.accuracy:
        a = evidence.accuracy
        parts.append(f"{a.metric} {score(a.dense)} -> {score(a.pruned)} ({points(a.drop)})")
    if said := size_text(evidence.size):
        parts.append(said)
    parts.append(f"{evidence.params_ratio:.0%} of the parameters")
    parts.append(f"{evidence.flops_ratio:.0%} of the FLOPs")
    return first + ", ".join(parts)


def budget_text(evidence: Evidence) -> str:
    """What was asked for."""
    budget = evidence.recipe.get("budget") or {}
    given = next(((name, share) for name, share in budget.items() if share is not None), None)
    if given is None:
        return "none"
    name, share = given
    if name == "size":
        return f"file of at most {one_line(str(share), 40)}"
    return f"{'FLOPs' if name == 'flops' else name} at most {share:g} of dense"


def workload_text(evidence: Evidence) -> str:
    """The workload that the latencies were measured with, to follow "measured with"."""
    if evidence.latency is None:
        return "accuracy alone; latency was not measured here"
    c = evidence.latency.workload
    threads = c.get("threads", 1)
    sizes = [f"{n} {'tokens' if axis == 'sequence' else axis}" for axis, n in _axes(c).items()]
    phase = c.get("phase", "encode")
    return ", ".join(
        [
            f"{c.get('version', c.get('runtime', '?'))} on {_device(evidence)}",
            *([] if phase == "encode" else [str(phase)]),
            f"batch {c.get('batch')}",
            *sizes,
            f"{threads} thread{'s' if threads != 1 else ''}",
            f"{c.get('precision')}; {evidence.latency.clock}",
        ]
    )


def _device(evidence: Evidence) -> str:
    """The device that was timed; of this machine's CPU with the instruction sets that matter for
    its speed, where the evidence has them."""
    workload = evidence.latency.workload if evidence.latency else {}
    device, known = str(workload.get("device", "?")), evidence.environment
    features = known.get("cpu_features")
    if not features or device != known.get("cpu"):
        return device
    return f"{split_device(device)[0]} ({', '.join(features)})"


def _axes(workload: Mapping[str, Any]) -> Mapping[str, Any]:
    axes = workload.get("axes")
    return axes if isinstance(axes, Mapping) else {}


def unit_names(evidence: Evidence) -> tuple[str, ...]:
    """The names of all kinds of units, in the order in which the layers have them."""
    return tuple(dict.fromkeys(name for row in evidence.dense_layers for name in row))


def layer_rows(evidence: Evidence) -> list[tuple[int, dict[str, tuple[int, int]]]]:
    """For each layer its number and, by the name of the unit, how many are kept of how many."""
    rows = zip(evidence.kept_layers, evidence.dense_layers, strict=True)
    return [
        (i, {name: (kept.get(name, 0), units) for name, units in dense.items()})
        for i, (kept, dense) in enumerate(rows)
    ]


def unit_of(kind: str) -> str:
    """The name of the units of a kind of site, in the plural; the kind itself where it is one that
    this rfx does not know."""
    try:
        return Kind(kind).plural
    except ValueError:
        return kind


def label_of(kind: str) -> str:
    """What a sublayer of a kind is called."""
    try:
        return Kind(kind).label
    except ValueError:
        return kind


def search_text(evidence: Evidence) -> list[str]:
    """What the search of an evidence found, each line a sentence."""
    return search_sentences(evidence.search)


def search_sentences(s: SearchPart) -> list[str]:
    """What a search found, each line a sentence; what was not recorded is left out."""
    if s.value_kept is None:
        return []
    lines = [f"The search ({s.method}) kept {percent(s.value_kept)} of the importance."]
    if s.optimality_gap is not None:
        lines.append(
            "No choice within the budget keeps more."
            if s.optimality_gap == 0
            else "The best possible choice within the budget could keep at most "
            f"{percent(s.optimality_gap)} more."
        )
    if s.price is not None and s.importance_total:
        share = s.price / s.importance_total
        if s.budget_unit == "ms":
            more = step(s.budget)
            unit = "One millisecond" if more == 1 else f"{more:g} ms"
            lines.append(f"{unit} more would buy {percent(more * share)} of the importance.")
        elif s.budget_unit == BYTES:
            bought = percent(1e6 * share)
            lines.append(f"1 MB more would buy {bought} of the importance.")
        else:
            bought = percent(0.01 * s.budget * share)
            lines.append(f"1 % more of the budget would buy {bought} of the importance.")
    if s.stability is not None and s.value_kept_within_noise is not None:
        low, high = map(percent, s.value_kept_within_noise)
        lines.append(
            "Searched again under tables that differ by the noise of the measurement, "
            f"{percent(s.stability)} of the units have the same fate, and {low} to {high} of the "
            "importance stays."
        )
    return lines


def round_texts(evidence: Evidence) -> list[str]:
    """Each turn of the closed loop: what was asked, what was measured, and why another followed."""
    if evidence.size is not None and evidence.size.rounds:
        return [size_round_text(i, r) for i, r in enumerate(evidence.size.rounds, 1)]
    rounds, target = evidence.search.rounds, _target(evidence)
    following = [*(r.budget_ms for r in rounds[1:]), None][: len(rounds)]  # a FLOPs budget has none
    return [
        round_text(i, r, target, budget)
        for i, (r, budget) in enumerate(zip(rounds, following, strict=True), 1)
    ]


def round_text(number: int, r: Round, target: float | None, next_budget_ms: float | None) -> str:
    """One turn of the closed loop, in words.

    Args:
        number: of the turn, from 1.
        target: share of the dense latency that is asked for; None: it is not known.
        next_budget_ms: what the next turn is given, ms; None: this was the last.
    """
    asked = "" if target is None else f"; the target is {target:g}"
    text = (
        f"Round {number} asked for a plan of at most {milliseconds(r.budget_ms)} by the table "
        f"and measured {r.measured_ratio:.3f} of the dense latency{asked}. "
        f"{_ROUNDS.get(r.note, r.note)}"
    )
    if r.note in _ENDS:
        return text
    if next_budget_ms is None:
        return f"{text} This was the last round."
    size = "smaller" if next_budget_ms < r.budget_ms else "larger"
    return f"{text} The next round is given a {size} budget."


def _target(evidence: Evidence) -> float | None:
    if evidence.latency is not None and evidence.latency.target is not None:
        return evidence.latency.target
    target = (evidence.recipe.get("budget") or {}).get("latency")
    return None if target is None else float(target)


def table_text(evidence: Evidence) -> str:
    """How well the latency table predicts whole models, and which sublayers cost less than it says
    of their kind; empty where neither is known."""
    table, said = evidence.table, []
    if table is not None and table.additivity_error is not None:
        said.append(
            f"The latency table was off by at most {percent(table.additivity_error)} on the whole "
            "models that it was checked on."
        )
    served = served_precision(evidence.recipe)
    if table is not None and served and table.key.get("precision") == "fp32" != served:
        said.append(
            "The table, and the milliseconds that the search speaks of, are of fp32 models: on "
            f"this runtime plans for {served} are as good by them."
        )
    if table is not None and table.shares:
        shown = ", ".join(f"{name} {share:.2f}" for name, share in table.shares.items())
        said.append(
            "One position of the last layer is read, so that it is computed there alone; its units "
            f"cost this part of what those of other layers do: {one_line(shown, 200)}."
        )
    return " ".join(said)


def compensation_text(evidence: Evidence) -> list[str]:
    """What compensation did, each line a sentence."""
    c = evidence.compensation
    if c is None:
        return []
    taken = sum(t.accepted for t in evidence.tuning)
    lines = [
        f"The compensation ({c.method}, schedule {c.schedule}) was taken at {taken} of "
        f"{len(evidence.tuning)} sublayers."
    ]
    if c.divergence_before is not None and c.divergence_after is not None:
        lines.append(
            "The output's divergence from the dense model's, on every fifth calibration example, "
            f"was {c.divergence_before:.4g} before it and {c.divergence_after:.4g} after it."
        )
        if not c.accepted:
            lines.append("It was dropped, because it does not lower that divergence.")
    if c.polish is not None and math.isfinite(c.polish):
        lines.append(f"The last step left {percent(c.polish)} of the error on left-out examples.")
    return lines


# The first minor version of ONNX Runtime 1 that reads files of an IR version, and of an opset;
# older ones refuse them. Files of opset 18 were run with 1.15, of 19 and 20 with 1.17, and
# 1.15 refuses the latter.
_READS_IR = {8: 15, 9: 15, 10: 18, 11: 22}
_READS_OPSET = {17: 15, 18: 15, 19: 17, 20: 17, 21: 18}


def runtime_texts(evidence: Evidence) -> list[str]:
    """What the exported file asks of a runtime, and what it takes no longer inputs than; each text
    a paragraph. Empty where the evidence does not know."""
    known, said = evidence.exported, []
    ir, opset = known.get("ir_version"), known.get("opset")
    if _is_whole(ir) and _is_whole(opset):
        firsts = (_READS_IR.get(ir), _READS_OPSET.get(opset))
        least = None if None in firsts else f"1.{max(n for n in firsts if n is not None)}"
        said.append(
            f"The file has ONNX IR version {ir} and opset {opset}"
            + (f": ONNX Runtime {least} or newer reads it." if least else ".")
        )
    longest, positions = evidence.recipe.get("max_length"), known.get("positions")
    if _is_whole(longest):
        text = (
            f"Inputs were cut to {longest} tokens when the accuracy was measured. The file does "
            "not cut inputs itself: the caller has to truncate them, for example with "
            f"`tokenizer(text, truncation=True, max_length={longest})`."
        )
        if _is_whole(positions):
            text += f" The model has {positions} positions, and a runtime fails on a longer input."
        said.append(text)
    return said


def _is_whole(value: object) -> TypeGuard[int]:
    """Whether a fact of a document is a number; a text in its place is not repeated."""
    return isinstance(value, int) and not isinstance(value, bool)
