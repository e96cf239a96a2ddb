"""The largest difference of two tensors, and the scale that it is held against."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# What lies below on both sides is masked attention (-65504 in fp16, -3.4e38 in fp32): no
# difference, and no scale.
MASKED = -3e4
# Of one array: its dtype, the range of its finite numbers, how many are not finite.
Values = tuple[str, tuple[float, float], int]


@dataclass(frozen=True)
class Measure:
    """Of two arrays the largest difference (inf where one is not finite), and the scale."""

    difference: float
    scale: float
    values: tuple[Values, Values]
    row: int | None = None  # that has the difference, in the batch
    nan: bool = False  # on both sides
    output1_name = (
        None  # Polygraphy then takes no statistics of the pair, which cost more than all the rest
    )


def measure(left: Any, right: Any, outputs: bool = False) -> Measure | None:
    """Compare two arrays (or torch tensors) as float32. `outputs` as the gate does it: what is not
    finite or of another shape differs. Inside a model NaN and inf may be on both sides, what is
    masked is left out, and tensors of other shapes cannot be compared (None).
    """
    (a, of_a), (b, of_b) = _read(left), _read(right)
    if a.shape != b.shape:
        return Measure(math.inf, 1.0, (of_a, of_b)) if outputs else None
    with np.errstate(all="ignore"):
        nan = np.isnan(a) & np.isnan(b)
        same = np.zeros_like(nan) if outputs else (a == b) | nan | ((a <= MASKED) & (b <= MASKED))
        gaps = np.where(same, 0.0, np.nan_to_num(np.abs(a - b), nan=np.inf, posinf=np.inf))
        counted = np.abs(a[np.isfinite(a) & (outputs | (a > MASKED))])
    row = int(gaps.argmax()) // (gaps.size // len(gaps)) if gaps.ndim and gaps.size else None
    largest, scale = float(gaps.max(initial=0.0)), max(1.0, float(counted.max(initial=0.0)))
    return Measure(largest, scale, (of_a, of_b), row, bool(nan.any()))


def _read(x: Any) -> tuple[np.ndarray, Values]:
    dtype = str(x.dtype).removeprefix("torch.")
    if hasattr(x, "detach"):  # torch, which has bfloat16 and NumPy has not
        x = (x.float() if x.is_floating_point() else x).detach().cpu().numpy()
    x = np.asarray(x, dtype=np.float64 if x.dtype.kind in "iub" else np.float32)
    finite = x[np.isfinite(x)]
    ends = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return x, (dtype, ends, x.size - finite.size)


def run(
    runners: Sequence[Any],
    feeds: Sequence[Mapping[str, Any]],
    pairs: Mapping[str, str],
    outputs: bool = False,
) -> list[dict[str, Measure]]:
    """For each of `feeds` the `Measure` of each of the pairs {left name: right name}, in their
    order."""
    from polygraphy.comparator import Comparator

    found: list[dict[str, Measure]] = []

    def compare(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Measure]:
        measures = (
            (n, measure(left[n], right[p], outputs))
            for n, p in pairs.items()
            if n in left and p in right
        )
        found.append({n: m for n, m in measures if m is not None})
        return found[-1]

    Comparator.compare_accuracy(
        Comparator.run(list(runners), data_loader=list(feeds)), compare_func=compare
    )
    return found
