"""Whether what evidence says of quantization and of the rival can be what rfx wrote."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from rfx.core.plan import FULL
from rfx.core.values import short
from rfx.evidence.check import wrong_limit
from rfx.evidence.gates import of_another_file, quantized_gate
from rfx.evidence.limits import verdict
from rfx.evidence.precision import QUANTIZED, RivalLosses, served_precision
from rfx.evidence.records import Evidence, QuantizationPart, RivalPart

PLAIN = ".fp32.onnx"  # how the file ends that a quantized one was made of
_HAIR = 1e-9  # below nothing, by rounding
_REASONS = {"quantization", "accuracy", "agreement"}
_ENOUGH = 1e-3  # by which a ratio may differ from the medians that it is of


def precision_contradictions(e: Evidence) -> Iterator[str]:
    """Everything that cannot be so, each in words."""
    gate = next((g for g in e.gates if g.name == "quantized"), None)
    if (gate is None) != (e.quantization is None):
        there, gone = ("gate", "part") if gate is not None else ("part", "gate")
        yield f"of what is quantized there is a {there} and no {gone}"
    if e.quantization is not None:
        yield from _quantization(e.quantization)
        yield from _sites(e, e.quantization)
        yield from _limit(e, e.quantization)
        if gate is not None:
            own = quantized_gate(e.quantization)
            yield from verdict(gate, {own.outcome})
            if (gate.value, gate.interval) != (own.value, own.interval):
                yield "the gate quantized has another ratio than what was measured"
            if gate.limit != own.limit:
                yield f"the limit of the gate quantized is {gate.limit}, and not {own.limit:g}"
    if e.rival is not None:
        yield from _rival(e, e.rival)
    yield from _left_out(e)


def _left_out(e: Evidence) -> Iterator[str]:
    """What evidence of a quantized model has to say and does not. Four places say how the model is
    served: the recipe, the latency, the latency table and the list of files."""
    timed = "" if e.latency is None else str(e.latency.workload.get("precision", ""))
    served = served_precision(e.recipe) or timed
    of_table = None if e.table is None else e.table.key.get("precision")
    # Of quantized models the search may go by the latencies of those in fp32.
    fits = of_table == served or (of_table == FULL and served in QUANTIZED)
    if served and of_table is not None and not fits:
        yield (
            f"the latency table is of models in {short(of_table)}, what is served is in "
            f"{short(served)}"
        )
    quantized = served in QUANTIZED
    if quantized and e.rival is None:
        yield (
            f"the model is served in {short(served)}, and nothing says how the dense model does "
            "when it is quantized alone"
        )
    # Where another file is judged (--onnx), nothing is said of how model.onnx was quantized.
    if e.quantization is not None or of_another_file(e.gates):
        return
    if quantized:
        yield f"the model is served in {short(served)}, and nothing says how it was quantized"
    elif any(name.endswith(PLAIN) and "/" not in name for name in e.files):
        yield "a file in fp32 is listed beside the one that is served, which is not quantized"


def _quantization(part: QuantizationPart) -> Iterator[str]:
    if part.products < 1 and not part.mismatches:
        yield f"{part.products} products are in integers"
    if part.bytes < 1 or part.fp32_bytes < 1:
        yield f"the quantized file has {part.bytes} bytes, the fp32 file {part.fp32_bytes}"
    for name in ("pruning", "quantization"):
        value = getattr(part, name)
        if value is not None and value < -1e-9:
            yield f"the divergence by {name} is {value:g}"
    if part.ratio is not None:
        yield from ratio_in_interval("quantized over fp32", part.ratio, part.interval)


def _sites(e: Evidence, part: QuantizationPart) -> Iterator[str]:
    """Every site that has units is in integers, or was kept in fp32 on request or by rfx, and only
    one of these."""
    plan = e.plan.get("sites")
    rows = plan if isinstance(plan, list) else []
    has = {s["name"] for s in rows if isinstance(s, dict) and s.get("name") and s.get("kept")}
    known = {s["name"] for s in rows if isinstance(s, dict) and s.get("name")}
    excluded = [x.site for x in part.excluded]
    for name in dict.fromkeys([*part.sites, *part.kept_fp32, *excluded]):
        places = [part.sites.count(name), part.kept_fp32.count(name), excluded.count(name)]
        if name not in known:
            yield f"the plan has no site {short(name)}, which is named where it was quantized"
        elif sum(map(bool, places)) > 1 or max(part.sites.count(name), excluded.count(name)) > 1:
            yield f"the site {short(name)} is named twice where it was quantized"
    for name in sorted(has - {*part.sites, *part.kept_fp32, *excluded}):
        yield f"nothing says whether the site {short(name)} is in integers or in fp32"
    for name in sorted({*part.sites, *excluded} & known - has):
        yield f"the site {short(name)} has no units that could be quantized"
    quantization = e.recipe.get("quantization")
    asked = quantization.get("keep_fp32") if isinstance(quantization, Mapping) else None
    if isinstance(asked, (list, tuple)) and list(asked) != part.kept_fp32:
        yield "the recipe keeps other sites in fp32 than those that are said to be kept on request"
    for x in part.excluded:
        if not x.why or not {*x.why} <= _REASONS or not x.divergence >= -_HAIR:
            yield f"the site {short(x.site)} was kept in fp32 by rfx for no reason"
    if part.by_site is not None:
        own = part.by_site
        if [row.site for row in own.sites] != part.sites:
            yield "what quantizing costs by site is of other sites than those in integers"
        if own.examples < 1 or any(
            v < -_HAIR for v in (own.together, own.rest, *(row.divergence for row in own.sites))
        ):
            yield "what quantizing costs by site is below nothing, or was measured on no example"


def _limit(e: Evidence, part: QuantizationPart) -> Iterator[str]:
    limits = e.recipe.get("limits")
    asked = limits.get("max_quantization_loss") if isinstance(limits, Mapping) else None
    for value in (asked, part.max_loss):
        if why := wrong_limit("max_quantization_loss", value):
            yield f"max_quantization_loss is {short(value)}, and not {why}"
    if isinstance(limits, Mapping) and part.max_loss != asked:
        yield f"max_quantization_loss is {part.max_loss}, the recipe says {short(asked)}"


def rival_losses(part: RivalLosses, dense: float | None) -> Iterator[str]:
    """What of the rival's losses cannot be so.

    Args:
        dense: the dense model's metric; None: it is not known.
    """
    if dense is not None and math.isfinite(part.drop):
        drop = 100 * (dense - part.metric)
        if not abs(drop - part.drop) <= 1e-4:
            yield f"the rival loses {part.drop:.4g} points, but the metrics differ by {drop:.4g}"
    if part.agreement is not None and not 0 <= part.agreement <= 1:
        yield f"the rival's agreement is {part.agreement:g}"
    if part.bytes < 1:
        yield f"the rival's file has {part.bytes} bytes"


def _rival(e: Evidence, part: RivalPart) -> Iterator[str]:
    yield from rival_losses(part, None if e.accuracy is None else e.accuracy.dense)
    own = part.latency
    if own is None:
        return
    if own.ms <= 0:
        yield f"the rival takes {own.ms:g} ms"
        return
    if e.latency is not None and e.latency.dense_ms > 0:
        for what, ratio, ms in (
            ("rival over dense", own.ratio, own.ms / e.latency.dense_ms),
            ("pruned over rival", own.pruned_ratio, e.latency.pruned_ms / own.ms),
        ):
            yield from of_medians(what, ratio, ms)
    yield from ratio_in_interval("rival over dense", own.ratio, own.interval)
    yield from ratio_in_interval("pruned over rival", own.pruned_ratio, own.pruned_interval)


def of_medians(what: str, ratio: float, medians: float) -> Iterator[str]:
    """Whether a ratio is that of the medians that it is of."""
    if math.isfinite(ratio) and abs(medians - ratio) > _ENOUGH * abs(ratio):
        yield f"the ratio of {what} is {ratio:.4g}, but by their medians {medians:.4g}"


def ratio_in_interval(
    what: str, value: float, interval: tuple[float, float] | None
) -> Iterator[str]:
    """Whether a ratio is positive and within its own interval."""
    if math.isfinite(value) and value <= 0:
        yield f"the ratio of {what} is {value:g}"
    low, high = interval or (math.nan, math.nan)
    if not all(map(math.isfinite, (value, low, high))):
        return
    hair = 0.1 * abs(high - low) + 1e-6  # a bootstrap's interval may miss the value
    if low > high or not low - hair <= value <= high + hair:
        yield f"the ratio of {what} is {value:.4g}, its interval {low:.4g} to {high:.4g}"
