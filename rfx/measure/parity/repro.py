"""The `polygraphy run` that repeats a difference."""

from __future__ import annotations

import os
from collections.abc import Mapping

from rfx.measure.parity.difference import INPUTS, OUTPUTS
from rfx.measure.parity.locate import Found
from rfx.measure.parity.sides import Side
from rfx.runtimes.tensorrt.build import is_rtx, library


def repro_commands(
    left: Side, right: Side, at: Found, limits: Mapping[str, float]
) -> tuple[tuple[str, ...], ...]:
    """The words of the `polygraphy run`s that fail where a tensor differs by more than `limits`
    ({name or "": x})."""
    marks: list[list[str]] = [[], []]
    if at.inside and left.tensors.keys() == right.tensors.keys() and not left.bf16 | right.bf16:
        marks = [["*"], ["*"]]
    elif at.inside:
        # A tensor without a partner would be held against another, and bfloat16 cannot be saved.
        pair = (
            ([at.name], [at.other])
            if not {at.name, at.other} & (left.bf16 | right.bf16)
            else ([], [])
        )
        marks = [list(dict.fromkeys(s.outputs + p)) for s, p in zip((left, right), pair)]
    onnxrt = [["--onnxrt", *(["--onnx-outputs", *m] if m else [])] for m in marks]
    runs = [
        ["polygraphy", "run", os.path.abspath(s.path), "--load-inputs", INPUTS]  # noqa: PTH100 - a link keeps its name
        for s in (left, right)
    ]
    judge = ["--check-error-stat", "max", "--infinities-compare-equal", "--rtol", "0", "--atol"]
    judge += [f"{name}:{limit:.9g}" for name, limit in limits.items()]
    second, setting = onnxrt[1], []
    if right.compiled:
        setting = ["POLYGRAPHY_USE_TENSORRT_RTX=1"] if is_rtx(library(right.runtime)) else []
        second = [
            "--trt",
            "--strongly-typed",
            "--tf32",
            *(["--trt-outputs", *marks[1]] if marks[1] else []),
        ]
        for i, end in enumerate(("min", "opt", "max")):
            shapes = right.profile([at.feed]).items()
            second += [
                f"--trt-{end}-shapes",
                *(f"{n}:[{','.join(map(str, s[i]))}]" for n, s in shapes),
            ]
        if left.path == right.path:  # one run has both
            return ((*setting, *runs[0], *onnxrt[0], *second, *judge),)
    # The reference last: Polygraphy looks for partners of what ran last, and TensorRT has tensors
    # of its own.
    kept = (*runs[0], *onnxrt[0], "--load-outputs", OUTPUTS, *judge)
    return (*setting, *runs[1], *second, "--save-outputs", OUTPUTS), kept
