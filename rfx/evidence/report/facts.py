"""Evidence in words: the lines that several reports share."""

from __future__ import annotations

from pathlib import Path

from rfx.evidence.records import Evidence, Gate

GATE_TITLES = {
    "shrunk": "really smaller",
    "same": "the same function in every form",
    "accuracy": "accurate enough",
    "latency": "fast enough",
    "baseline-accuracy": "as accurate as the baseline",
    "baseline-latency": "as fast as the baseline",
}


def model_name(evidence: Evidence) -> str:
    """A short name of the dense model: a hub name as it is, a folder by its last part."""
    source = str(evidence.model.get("source") or evidence.recipe.get("name") or "model")
    if Path(source).is_absolute() or source.count("/") != 1 or Path(source).exists():
        name = Path(source).name
        return (
            str(evidence.recipe.get("name"))
            if name in ("model", "") and evidence.recipe.get("name")
            else name
        )
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
    if gate.value is None:
        return "not a number" if gate.outcome == "fail" else ""
    if gate.unit == "mismatches":
        return f"{gate.value:.0f} mismatches"
    return (
        f"{gate.value:.1e} {gate.unit}"
        if 0 < abs(gate.value) < 1e-3
        else f"{gate.value:.3f} {gate.unit}"
    )


def interval_text(gate: Gate) -> str:
    return f"{gate.interval[0]:.3f} to {gate.interval[1]:.3f}" if gate.interval else ""


def limit_text(gate: Gate) -> str:
    return "" if gate.limit is None else f"at most {gate.limit:.4g}"


def headline(evidence: Evidence) -> str:
    """One sentence: how much faster, how much less accurate."""
    parts = []
    if evidence.latency:
        parts.append(
            f"{evidence.latency.speedup:.2f}x as fast ({evidence.latency.ratio:.3f} of dense "
            "latency)"
        )
    if evidence.accuracy:
        a = evidence.accuracy
        parts.append(
            f"{a.metric} {100 * a.dense:.2f} -> {100 * a.pruned:.2f} ({0.0 - a.drop:+.2f} points)"
        )
    parts.append(f"{evidence.params_ratio:.0%} of the parameters")
    parts.append(f"{evidence.flops_ratio:.0%} of the FLOPs")
    return ", ".join(parts)


def budget_text(evidence: Evidence) -> str:
    budget = evidence.recipe.get("budget") or {}
    if budget.get("latency") is not None:
        return f"latency at most {budget['latency']:g} of dense"
    if budget.get("flops") is not None:
        return f"FLOPs at most {budget['flops']:g} of dense"
    return "none"


def workload_text(evidence: Evidence) -> str:
    """Under which conditions the latencies were measured, to follow "measured with"."""
    if evidence.latency is None:
        return "accuracy alone; latency was not measured here"
    c = evidence.latency.workload
    threads = c.get("threads", 1)
    return (
        f"{c.get('version', c.get('runtime', '?'))} on {c.get('device', '?')}, batch "
        f"{c.get('batch')}, "
        f"{c.get('sequence')} tokens, {threads} thread{'s' if threads != 1 else ''}, "
        f"{c.get('precision')}; "
        f"{evidence.latency.clock}"
    )


def layer_rows(evidence: Evidence) -> list[tuple[int, int, int, int, int]]:
    """(layer, kept heads, heads, kept filters, filters)."""
    rows = zip(evidence.kept_layers, evidence.dense_layers, strict=True)
    return [
        (
            i,
            kept.get("heads", 0),
            dense.get("heads", 0),
            kept.get("filters", 0),
            dense.get("filters", 0),
        )
        for i, (kept, dense) in enumerate(rows)
    ]
