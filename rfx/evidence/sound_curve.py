"""Whether what a sweep says of sizes, and of the dense model quantized alone, can be what rfx
wrote."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rfx.core.errors import UsageError
from rfx.core.text import one_line
from rfx.evidence.curve import Curve
from rfx.evidence.precision import SweepRivalLatency
from rfx.evidence.sound_precision import of_medians, ratio_in_interval, rival_losses
from rfx.evidence.words import SIZE, target_text


def require_sound_curve(curve: Curve, file: str) -> None:
    """Raises UsageError where a sweep contradicts itself, naming how.

    Args:
        file: where it was read, for the message.
    """
    found = list(curve_contradictions(curve))
    if found:
        raise UsageError(
            "The sweep contradicts itself: it is not what rfx wrote.",
            got=f"{file}: " + "; ".join(one_line(said) for said in found),
            allowed="sweep.json as rfx sweep wrote it",
            next_step="make the sweep again: its points are in the cache",
        )


def curve_contradictions(curve: Curve) -> Iterator[str]:
    """Everything that cannot be so, each in words."""
    if curve.dense_bytes is not None and curve.dense_bytes < 1:
        yield f"the dense model's file has {curve.dense_bytes} bytes"
    for point in curve.points:
        if point.bytes is not None and point.bytes < 1:
            yield f"the file of {target_text(curve.budget, point.target)} has {point.bytes} bytes"
    if curve.budget == SIZE and curve.dense_bytes is None:
        yield "the targets are sizes, and the size of the dense model is missing"
    rival = curve.rival
    if rival is None:
        return
    dense = next((p.accuracy.dense for p in curve.points if p.accuracy is not None), None)
    yield from rival_losses(rival, dense)
    if rival.divergence is not None and rival.divergence < -1e-9:
        yield f"the rival's divergence is {rival.divergence:g}"
    if rival.latency is not None:
        yield from _latency(rival.latency)


def _latency(part: SweepRivalLatency) -> Iterator[str]:
    if not (part.ms > 0 and part.dense_ms > 0):  # what is no number is none either
        yield f"the rival takes {part.ms:g} ms, the dense model {part.dense_ms:g} ms"
        return
    if not math.isfinite(part.ratio):
        yield "the ratio of rival over dense is no number"
        return
    yield from of_medians("rival over dense", part.ratio, part.ms / part.dense_ms)
    yield from ratio_in_interval("rival over dense", part.ratio, part.interval)
