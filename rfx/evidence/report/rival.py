"""The rival in words: how a result or a sweep stands beside the dense model quantized alone, and
what quantizing the served file did."""

from __future__ import annotations

import math

from rfx.core.text import one_line
from rfx.evidence.curve import Curve, recommend
from rfx.evidence.precision import Considered, RivalLosses, RivalPart, SweepRival, served_precision
from rfx.evidence.records import Evidence, QuantizationPart
from rfx.evidence.words import points, score

MB = 1e6  # bytes


def beaten(evidence: Evidence) -> bool:
    """Whether the rival is faster than the result, beyond doubt."""
    rival = evidence.rival
    return rival is not None and rival.latency is not None and rival.latency.pruned_interval[0] > 1


def rival_headline(evidence: Evidence) -> str:
    """How the result stands beside the rival, for the first line of a report; empty where there is
    none, or its latency was not measured."""
    rival = evidence.rival
    if rival is None or rival.latency is None or not _known(rival.latency.pruned_ratio):
        return ""
    ratio, (low, high) = rival.latency.pruned_ratio, rival.latency.pruned_interval
    name = f"the dense model in {one_line(rival.precision)}"
    if low > 1:
        lost = f"{name} alone, without pruning, is {ratio:.2f}x as fast as this"
        return f"{lost} ({_losses(rival)})"
    if high < 1:
        return f"{1 / ratio:.2f}x as fast as {name} alone"
    return f"about as fast as {name} alone"


def rival_texts(evidence: Evidence) -> list[str]:
    """The rival and the quantization, each text a sentence or two. Empty where the evidence does
    not know of them."""
    said = []
    rival, part = evidence.rival, evidence.quantization
    if rival is not None:
        said.append(_described(rival) + _own(evidence))
    if part is not None:
        text = (
            f"The served file has {part.products} quantized products and {part.bytes / MB:.1f} "
            f"MB; in fp32 it has {part.fp32_bytes / MB:.1f} MB"
        )
        if part.ratio is not None and _known(part.ratio):
            text += f" and takes {1 / part.ratio:.2f} times as long"
        said.append(text + ".")
        if part.pruning is not None and part.quantization is not None:
            said.append(
                f"Of the divergence from the dense model pruning alone makes {part.pruning:.2g}, "
                f"and the quantized file diverges by {part.quantization:.2g} from the same model "
                "in fp32."
            )
        said += _sites(part)
    if evidence.considered:
        rows = "; ".join(_tried(c) for c in evidence.considered)
        at = one_line(served_precision(evidence.recipe))
        said.append(
            f"--precision auto took {at}. It prefers what passes its gates to what fails, then "
            "fp32 to what was not measured faster quantized, then what stays nearest to the dense "
            f"model: {rows}."
        )
    return said


def _sites(part: QuantizationPart) -> list[str]:
    """Which sites are kept in fp32 and why, and which cost most."""
    said = []
    if part.excluded:
        rows = "; ".join(
            f"{one_line(x.site)} (for {' and '.join(map(one_line, x.why))}; alone it cost "
            f"{x.divergence:.2g} and saved {x.saved_ms:.3g} ms)"
            for x in part.excluded
        )
        said.append(
            "rfx kept these sites in fp32 of itself, because a limit failed with them quantized "
            f"and not in fp32: {rows}."
        )
    if part.kept_fp32:
        said.append(f"Kept in fp32 on request: {', '.join(map(one_line, part.kept_fp32))}.")
    if part.by_site is not None and part.by_site.sites:
        worst = sorted(part.by_site.sites, key=lambda row: -row.divergence)[:3]
        rows = ", ".join(f"{one_line(row.site)} {row.divergence:.2g}" for row in worst)
        said.append(
            f"Quantized alone, these sites cost most: {rows}; all of them together cost "
            f"{part.by_site.together:.2g} on the same {part.by_site.examples} calibration examples."
        )
    return said


def _tried(c: Considered) -> str:
    name = one_line(c.precision)
    if c.outcome is None:
        return f"{name} was not made ({one_line(c.note)})"
    parts = [f"gates: {one_line(c.outcome)}"]
    if c.ratio is not None and _known(c.ratio):
        parts.append(f"{c.ratio:.3f} of the dense latency")
    if c.divergence is not None and math.isfinite(c.divergence):
        parts.append(f"divergence {c.divergence:.2g}")
    return f"{name} ({', '.join(parts)})"


def sweep_rival_text(curve: Curve) -> str:
    """The rival of a sweep, and how many targets are behind it; empty where there is none."""
    rival = curve.rival
    if rival is None:
        return ""
    if curve.rival_cost is None or not curve.rows:
        return _described(rival)
    rows, name = curve.rows, f"the dense model in {one_line(rival.precision)}"
    behind = [r for r in rows if r.dominated_by == rival.precision]
    by = "by their divergence" if curve.by_divergence else "by the metric"
    words = ("smaller", "larger") if curve.by_size else ("faster", "slower")
    if not behind:
        each = "Each target" if len(rows) > 1 else "The target"
        return f"{_described(rival)} {each} is {words[0]} than {name} or loses less ({by})."
    best, _ = recommend(rows, curve.max_drop)
    those = f"{len(behind)} of {len(rows)} targets" if len(rows) > 1 else "The target"
    verbs = ("are", "lose") if len(behind) > 1 else ("is", "loses")
    said = f"{those} {verbs[0]} {words[1]} than {name} and {verbs[1]} no less ({by})"
    if best is not None and any(r.target == best.target for r in behind):
        said += ", the recommended one too"
    return f"{_described(rival)} {said}: {_instead(curve, rival)}."


def _instead(curve: Curve, rival: SweepRival) -> str:
    """What to ask for in place of targets that the rival dominates."""
    served = served_precision(curve.recipe)
    if served == rival.precision:
        return "ask for lower targets"
    below = (
        ""
        if rival.latency is None or curve.by_size
        else f" and --latency below {rival.latency.ratio:.2f}"
    )
    return f"prune and quantize in one, with --precision {one_line(rival.precision)}{below}"


def _described(rival: RivalPart | SweepRival) -> str:
    """What the rival is, how fast, and what it loses."""
    text = f"The dense model in {one_line(rival.precision)}, not pruned ({one_line(rival.method)})"
    if rival.latency is not None:
        text += f", takes {rival.latency.ratio:.3f} of the dense latency and"
    return f"{text} has {_losses(rival)}; its file is {rival.bytes / MB:.1f} MB."


def _losses(rival: RivalLosses) -> str:
    parts = [f"a metric of {score(rival.metric)}, {points(rival.drop)}"]
    if rival.divergence is not None and _known(rival.divergence):
        parts.append(f"divergence {rival.divergence:.2g}")
    return ", ".join(parts)


def _own(evidence: Evidence) -> str:
    """What to think of it."""
    rival, own = evidence.rival, evidence.accuracy
    if rival is None or rival.latency is None or own is None:
        return ""
    if not beaten(evidence):
        return ""
    better = (
        rival.divergence is not None
        and own.divergence is not None
        and rival.divergence <= own.divergence
    )
    served = served_precision(evidence.recipe)
    if served == rival.precision:
        return " It is faster than this result: ask for a lower latency."
    then = "and diverges no more from the dense model" if better else "but diverges more"
    return (
        f" It is faster than this result, {then}: prune and quantize in one, with --precision "
        f"{one_line(rival.precision)} and a --latency below {rival.latency.ratio:.2f}."
    )


def _known(value: float) -> bool:
    return math.isfinite(value) and value > 0
