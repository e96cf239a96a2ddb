"""An fp32 file at another precision: each by a function of its own, which is all that a precision
is to the rest of rfx."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from rfx.core.errors import UsageError
from rfx.core.plan import FULL
from rfx.export.precision.graphs import check as check_converted
from rfx.export.precision.half import to_half
from rfx.export.precision.known import HALVES

if TYPE_CHECKING:
    import onnx

PROPERTY = "rfx.precision"  # of the file's metadata
# By name what makes a new model of an fp32 one. Inputs and outputs keep names, types and shapes.
PRECISIONS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    FULL: lambda model: model,
    **{name: partial(to_half, half=half) for name, half in HALVES.items()},
}


def convert_precision(
    model: onnx.ModelProto, precision: str, *, check: bool = True
) -> onnx.ModelProto:
    """`model` (fp32) with its matrix products at `precision`: a new model, or `model` itself for
    "fp32".

    Inputs and outputs keep names, types and shapes; initializers keep names and shapes.
    `rfx.precision` is added to the metadata.

    Args:
        check: hold the result against ONNX's checker; it takes its time on many files of one
            pattern.

    Raises:
        UsageError: not a precision, or a model converted before.
        UnsupportedModelError: a weight is not finite, or too large for the type.
        InternalCheckError: the result does not pass the checker.
    """
    from onnx import helper

    if precision not in PRECISIONS:
        raise UsageError(
            "There is no such precision.", got=precision, allowed=", ".join(PRECISIONS)
        )
    if precision == FULL:
        return model
    metadata = {p.key: p.value for p in model.metadata_props}
    if (written := metadata.get(PROPERTY, FULL)) != FULL:
        raise UsageError(
            "The file has its precision already.",
            got=written,
            next_step="convert the fp32 file instead",
        )
    result = PRECISIONS[precision](model)
    helper.set_model_props(result, metadata | {PROPERTY: precision})
    if check:
        check_converted(result, precision)
    return result
