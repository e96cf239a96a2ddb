"""With every tensor an output on both sides: the first in topological order that differs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rfx.export.precision.halves import HALVES
from rfx.measure.parity.measure import Measure, run
from rfx.measure.parity.sides import Side
from rfx.runtimes.base import Arrays

# `x.fp16` is the half form of `x` (see rfx.export.precision)
_HALF = re.compile(rf"\.({'|'.join(HALVES)})$")


@dataclass(frozen=True)
class Found:
    name: str
    other: str  # what the right side calls it
    measure: Measure
    feed: Arrays
    compared: int
    skipped: int
    largest_scale: float
    inside: bool = True  # with every tensor an output


def example(feed: Arrays, row: int | None) -> list[Arrays]:
    """The worst example alone, then its batch: all tensors of a large batch may not fit into
    memory."""
    lengths = {len(x) if x.ndim else 0 for x in feed.values()}
    if row is None or len(lengths) != 1 or not row < max(lengths) > 1:
        return [feed]
    return [{n: np.ascontiguousarray(x[row : row + 1]) for n, x in feed.items()}, feed]


def locate(left: Side, right: Side, feeds: Sequence[Arrays], tolerance: float) -> Found | None:
    """With every tensor an output on both sides, the first that differs on the first of `feeds`
    that shows one."""
    import torch

    pairs = {n: p for n in left.tensors if (p := _partner(n, right.tensors)) is not None}
    alone = sum(
        n not in pairs.values() and _HALF.sub("", n) not in left.tensors for n in right.tensors
    )
    runners = [s.runner(feeds, inside=True) for s in (left, right)]
    for feed in feeds:
        fed: Mapping[str, Any] = feed
        if right.bf16 and right.compiled:  # its runner then answers in torch, which has bfloat16
            fed = {n: torch.from_numpy(x) for n, x in feed.items()}
        measures = run(runners, [fed], pairs)[0]
        # NaN on both sides is no difference; but where there is none it is what is wrong.
        over = [n for n, m in measures.items() if m.difference > tolerance * m.scale]
        if over := over or [n for n, m in measures.items() if m.nan]:
            scale = max(
                [1.0, *(m.scale for m in measures.values() if m.values[0][0].startswith("float"))]
            )
            skipped = len(left.tensors) - len(measures) + alone
            return Found(
                over[0], pairs[over[0]], measures[over[0]], feed, len(measures), skipped, scale
            )
    return None


def _partner(name: str, others: Mapping[str, Any]) -> str | None:
    """The tensor of this name, or its other form: `x.fp16` for `x`, `x` for `x.fp16`."""
    return next(
        (x for x in (name, *(f"{name}.{h}" for h in HALVES), _HALF.sub("", name)) if x in others),
        None,
    )
