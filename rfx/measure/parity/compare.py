"""Numerical parity through Polygraphy: the same numbers on ONNX Runtime and on another runtime, or
from two files?

First only the outputs are compared, as the `same` gate compares them. Where they differ, every
tensor is made an output on both sides, and the first in topological order that differs is named,
with the `polygraphy run` that repeats it. Polygraphy also times what it runs; those times are never
used: latency has its own clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rfx.core.errors import UsageError, first_line
from rfx.measure.parity.difference import Difference
from rfx.measure.parity.locate import Found, example, locate
from rfx.measure.parity.measure import run
from rfx.measure.parity.repro import repro_commands
from rfx.measure.parity.sides import REFERENCE, Side
from rfx.measure.parity.silence import require, silent_polygraphy
from rfx.runtimes.base import Arrays


def compare_runtimes(
    model: Path,
    inputs: Sequence[Arrays],
    *,
    against: Path | None = None,
    runtime: str = REFERENCE,
    tolerance: float,
) -> Difference | None:
    """`model` on ONNX Runtime (CPU) against `against` (None: the same file) on `runtime`: the first
    tensor that differs, or None where the outputs agree.

    Args:
        inputs: a mapping of named arrays [batch, sequence] for each batch.
        runtime: "ort", "trt" (TensorRT, else TensorRT-RTX, as everywhere in rfx) or "trt-rtx".
        tolerance: the largest difference as a share of the scale, as in the `same` gate.

    Raises:
        UsageError: no such runtime; no ONNX file; inputs that are missing or do not fit; no common
            output.
        EnvironmentMissingError: no Polygraphy; no GPU or TensorRT for this runtime; one side cannot
            run the file.
    """
    require(runtime)
    left, right = sides = Side(Path(model), REFERENCE), Side(Path(against or model), runtime)
    wanted = left.inputs | right.inputs
    wrong = [
        f for f in inputs if any(n not in f or f[n].ndim != rank for n, rank in wanted.items())
    ]
    if wrong or not inputs:
        got = ", ".join(f"{n} {list(x.shape)}" for n, x in wrong[0].items()) if wrong else "none"
        allowed = ", ".join(f"{n} with {rank} dimensions" for n, rank in wanted.items())
        raise UsageError(
            "The model needs inputs that were not given.",
            got=got,
            allowed=allowed,
            next_step="feed every input that the model has, by its name",
        )
    names = {n: n for n in left.outputs if n in right.outputs}
    if not names:
        raise UsageError(
            "The two files have no output in common.",
            got=", ".join(left.outputs + right.outputs),
            next_step="give two exports of one model, whose outputs are called alike",
        )
    feeds = [{n: np.ascontiguousarray(feed[n]) for n in wanted} for feed in inputs]
    with silent_polygraphy(runtime):
        found = run([s.runner(feeds) for s in sides], feeds, names, outputs=True)
        measured = [
            (m, feed, n) for feed, measures in zip(feeds, found) for n, m in measures.items()
        ]
        scale = max(m.scale for m, *_ in measured)
        worst, feed, output = max(measured, key=lambda x: x[0].difference)
        if worst.difference / scale <= tolerance:
            return None
        at = Found(output, output, worst, feed, len(names), 0, scale, inside=False)
        try:
            inside = locate(left, right, example(feed, worst.row), tolerance)
            at, note = (
                inside or at,
                "" if inside else "it is gone once every tensor is an output: fusions make it",
            )
        except Exception as error:  # the outputs differ, whatever fails on the way to the reason
            note = f"the tensors inside could not be compared ({first_line(error)})"
    scales = {"": at.largest_scale, **dict.fromkeys(names, scale), at.name: at.measure.scale}
    # Within the tolerance where NaN was named that both sides have.
    share = at.measure.difference / at.measure.scale
    operator, node, module = left.origin(at.name)
    of_left, of_right = at.measure.values
    return Difference(
        tensor=at.name,
        operator=operator,
        node=node,
        module=module,
        share=share if share > tolerance else math.inf,
        outputs_share=worst.difference / scale,
        tolerance=tolerance,
        files=(str(left.path), str(right.path)),
        runtimes=(REFERENCE, runtime),
        dtypes=(of_left[0], of_right[0]),
        ranges=(of_left[1], of_right[1]),
        not_finite=(of_left[2], of_right[2]),
        compared=at.compared,
        skipped=at.skipped,
        note=note,
        commands=repro_commands(left, right, at, {n: tolerance * s for n, s in scales.items()}),
        inputs=at.feed,
    )
