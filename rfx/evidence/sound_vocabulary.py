"""Whether what evidence says of a smaller vocabulary can be what rfx wrote."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from rfx.core.values import short
from rfx.evidence.gates import of_another_file, vocabulary_gate
from rfx.evidence.limits import verdict
from rfx.evidence.records import Evidence, VocabularyPart

PAIR = "full-sliced"  # the difference that proves that rows of the table were copied
MOST_TOLERANCE = 0.2  # of the outputs' scale: no precision is that inexact
_HAIR = 1e-9


def vocabulary_contradictions(e: Evidence) -> Iterator[str]:
    """Everything that cannot be so, each in words."""
    part, gate = e.vocabulary, next((g for g in e.gates if g.name == "vocabulary"), None)
    section = e.recipe.get("vocabulary")
    asked = section.get("prune") if isinstance(section, Mapping) else False
    proved = PAIR in e.parity
    if not isinstance(asked, bool):
        yield f"recipe.vocabulary.prune is {short(asked)}"
        return
    if not asked and (part is not None or gate is not None or proved):
        yield "the vocabulary was pruned, and the recipe does not ask for it"
    if asked and (part is None or gate is None):
        gone = "part" if part is None else "gate"
        yield f"the vocabulary was pruned, and there is no {gone} of it"
    if part is None:
        if gate is not None:
            yield "of the vocabulary there is a gate and no part"
        return
    trained = e.compensation is not None and e.compensation.trained
    if not proved and not trained:
        yield "nothing says that the smaller table gives what the full one gives"
    yield from _counts(e, part)
    yield from _numbers(e, part)
    limits = e.recipe.get("limits")
    least = limits.get("min_vocabulary_agreement") if isinstance(limits, Mapping) else None
    if part.min_agreement != least:
        yield f"min_vocabulary_agreement is {part.min_agreement}, the recipe says {short(least)}"
    if gate is None:
        return
    own = vocabulary_gate(part)
    if (gate.value, gate.limit, gate.interval) != (own.value, own.limit, own.interval):
        yield "the gate vocabulary has other numbers than what was measured"
    yield from verdict(gate, {own.outcome})


def _counts(e: Evidence, part: VocabularyPart) -> Iterator[str]:
    if not 1 <= part.after <= part.before:
        yield f"the vocabulary keeps {part.after} of {part.before} entries"
    if not re.fullmatch("[0-9a-f]{16}", part.hash):
        yield f"the entries that stay have the hash {short(part.hash)}"
    if part.training < e.data.calibration and not e.data.repeated_calibration:
        yield (
            f"the entries that stay are of {part.training} training examples, and "
            f"{e.data.calibration} were calibrated on"
        )
    if part.texts != e.data.evaluation or not 0 <= part.otherwise <= part.texts:
        yield (
            f"{part.otherwise} of {part.texts} evaluation examples are encoded otherwise, there "
            f"are {e.data.evaluation}"
        )
    for name in ("", "full_"):
        pieces, unknown = getattr(part, f"{name}pieces"), getattr(part, f"{name}unknown")
        if not 0 <= unknown <= pieces or pieces < part.texts:
            yield f"{unknown} of {pieces} pieces of {part.texts} examples are unknown"
    if not part.otherwise and (part.pieces, part.unknown) != (part.full_pieces, part.full_unknown):
        yield "no evaluation example is encoded otherwise, and their pieces differ in number"
    if part.bytes < 1 or part.full_bytes < part.bytes:
        yield (
            f"the files have {part.bytes} bytes with the smaller vocabulary, and "
            f"{part.full_bytes} with the full one"
        )
    if not 0 < part.tolerance <= MOST_TOLERANCE or part.difference < 0:
        yield (
            f"with either vocabulary the outputs differ by {part.difference:g}, the tolerance is "
            f"{part.tolerance:g}"
        )
    if part.after < part.before and part.full_bytes == part.bytes:
        yield "a smaller vocabulary saves no byte"
    if e.size is not None and not of_another_file(e.gates) and e.size.bytes != part.bytes:
        yield (
            f"the files have {part.bytes} bytes with the smaller vocabulary, and what is served "
            f"{e.size.bytes}"
        )


def _numbers(e: Evidence, part: VocabularyPart) -> Iterator[str]:
    drop = 100 * (part.full_metric - part.metric)
    if math.isfinite(drop) and not abs(drop - part.drop) <= 1e-4:
        yield (
            f"{part.drop:.4g} points are lost by the vocabulary, but the metrics differ by "
            f"{drop:.4g}"
        )
    if e.accuracy is not None and not of_another_file(e.gates):
        own = e.accuracy.pruned
        trained = e.compensation is not None and e.compensation.trained
        if not trained and math.isfinite(own) and abs(own - part.metric) > _HAIR:
            yield f"the metric is {own:.6g}, and {part.metric:.6g} where the vocabulary is judged"
    yield from _inside("the points lost by the vocabulary", part.drop, part.interval, -200, 200)
    if part.agreement is None or part.agreement_interval is None:
        yield "the agreement with the full vocabulary is missing"
        return
    what = "the agreement with the full vocabulary"
    yield from _inside(what, part.agreement, part.agreement_interval, 0, 1)


def _inside(
    what: str, value: float, interval: tuple[float, float], least: float, most: float
) -> Iterator[str]:
    low, high = interval
    if not all(map(math.isfinite, (value, low, high))):
        return  # a gate over it does not pass
    hair = 0.1 * abs(high - low) + 1e-6  # a bootstrap's interval may miss the value
    if low > high or not low - hair <= value <= high + hair:
        yield f"{what}: {value:.4g}, their interval {low:.4g} to {high:.4g}"
    if not (least - _HAIR <= min(low, value) and max(high, value) <= most + _HAIR):
        yield f"{what}: {value:.4g}, {low:.4g} to {high:.4g}"
