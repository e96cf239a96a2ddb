"""Evidence in words: the lines that several reports share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rfx.core.kind import Kind
from rfx.evidence.records import Evidence, Gate, Round, SearchPart
from rfx.evidence.words import POINTS, milliseconds, percent, point_range, points, step

GATE_TITLES = {
    "shrunk": "really smaller",
    "same": "the same function in every form",
    "accuracy": "accurate enough",
    "latency": "fast enough",
    "baseline-accuracy": "as accurate as the baseline",
    "baseline-latency": "as fast as the baseline",
}
# What a round of the closed loop means, by the note that it leaves in the evidence.
_ROUNDS = {
    "on target": "That is on target.",
    "too slow": "That is slower than the target.",
    "too near to the target": "That is within the target, but so near to it that another "
    "measurement may lie above it.",
    "faster than asked": "That is faster than it has to be, which costs accuracy for nothing.",
    "no plan is faster: the search stops here": "No plan is faster, so the search stops here.",
}
_ENDS = ("on target", "no plan is faster: the search stops here")


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
        source.startswith((".", "/", "~"))
        or "\\" in source
        or source.count("/") > 1
        or Path(source).exists()
    )
    return None if local or not source else source


def verdict(gate: Gate) -> str:
    """The outcome in words: what was measured without a limit was not judged."""
    return "no limit" if gate.outcome == "pass" and gate.limit is None else gate.outcome


def value_text(gate: Gate) -> str:
    """What was measured, with its unit and the right sign."""
    if gate.value is None:
        return "not a number" if gate.outcome == "fail" else ""
    if gate.unit == "mismatches":
        return f"{gate.value:.0f} mismatches"
    if gate.unit == POINTS:
        return points(gate.value)
    small = 0 < abs(gate.value) < 1e-3
    return f"{gate.value:.1e} {gate.unit}" if small else f"{gate.value:.3f} {gate.unit}"


def interval_text(gate: Gate) -> str:
    """The 95 % interval of what was measured; empty where it is exact."""
    if gate.interval is None:
        return ""
    if gate.unit == POINTS:
        return point_range(*gate.interval)
    return f"{gate.interval[0]:.3f} to {gate.interval[1]:.3f}"


def limit_text(gate: Gate) -> str:
    """The limit; empty where there is none."""
    return "" if gate.limit is None else f"at most {gate.limit:.4g}"


def headline(evidence: Evidence) -> str:
    """One sentence: how much faster, how much less accurate."""
    parts = []
    if evidence.latency:
        part = evidence.latency
        parts.append(f"{part.speedup:.2f}x as fast ({part.ratio:.3f} of the dense latency)")
    if evidence.accuracy:
        a = evidence.accuracy
        parts.append(f"{a.metric} {100 * a.dense:.2f} -> {100 * a.pruned:.2f} ({points(a.drop)})")
    parts.append(f"{evidence.params_ratio:.0%} of the parameters")
    parts.append(f"{evidence.flops_ratio:.0%} of the FLOPs")
    return ", ".join(parts)


def budget_text(evidence: Evidence) -> str:
    """What was asked for."""
    budget = evidence.recipe.get("budget") or {}
    given = next(((name, share) for name, share in budget.items() if share is not None), None)
    if given is None:
        return "none"
    name, share = given
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
    return f"{device.split(' (avx')[0]} ({', '.join(features)})"


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
        else:
            bought = percent(0.01 * s.budget * share)
            lines.append(f"1 % more of the budget would buy {bought} of the importance.")
    return lines


def round_texts(evidence: Evidence) -> list[str]:
    """Each turn of the closed loop: what was asked, what was measured, and why another followed."""
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
    """How well the latency table predicts whole models; empty where that is not known."""
    if evidence.table is None or evidence.table.additivity_error is None:
        return ""
    return (
        f"The latency table was off by at most {percent(evidence.table.additivity_error)} on the "
        "whole models that it was checked on."
    )


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


def next_step(evidence: Evidence, out: Path | None = None) -> str:
    """What to do now, in one sentence.

    Args:
        out: the folder that the evidence lies in, whose files decide what can be served; None: it
            is called FOLDER.
    """
    folder = "FOLDER" if out is None else str(out)
    states = {g.name: g.outcome for g in evidence.gates}
    failed = [name for name, outcome in states.items() if outcome == "fail"]
    if "shrunk" in failed or "same" in failed:
        return (
            "Next: do not use this model. A proof of rfx failed; please report it with "
            "evidence.json and the output of `rfx env`."
        )
    if "latency" in failed:
        return (
            "Next: the model is too slow for its limit. Ask for a lower --latency, or allow more "
            "with a higher limit."
        )
    if "accuracy" in failed:
        return (
            "Next: the model loses too much. Raise the target (a higher --latency or --flops), or "
            "let `rfx sweep` look for the lowest target that keeps --max-drop."
        )
    if failed:
        return f"Next: the gate {failed[0]} failed; its line says why."
    if evidence.latency is None:
        return f"Next: measure the latency on the device that will serve it: rfx verify {folder}"
    if states.get("latency") == "inconclusive":
        return (
            "Next: the latency is too near to its limit to tell. Measure it again: "
            f"rfx verify {folder}"
        )
    if states.get("accuracy") == "inconclusive":
        return (
            "Next: the evaluation set is too small to tell whether the drop keeps its limit. Give "
            "more examples with --eval, or raise the target."
        )
    if not states:
        return f"Next: nothing was judged. Measure it: rfx verify {folder}"
    written = [name for name in evidence.files if name.endswith(".onnx") and "/" not in name]
    graphs = written or ["model.onnx"]
    served = " and ".join(str(out / name) for name in graphs) if out is not None else ""
    if out is not None and not any((out / name).exists() for name in graphs):
        # The reports of a measurement alone.
        return f"Next: `rfx gate {out}` judges these numbers by other limits, in CI for example."
    if out is not None and (out / "triton").is_dir():
        return (
            f"Next: serve {out / 'triton'} with Triton, or load {served}; "
            f"`rfx verify {out}` measures it again on another machine."
        )
    return (
        f"Next: serve model.onnx; `rfx verify {folder}` measures it again on the machine that will "
        "serve it."
    )
