"""An fp32 file at another precision, whichever is registered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rfx.core.errors import UsageError
from rfx.core.plan import FULL
from rfx.core.registry import find
from rfx.export.precision.base import Precision
from rfx.export.precision.graphs import check as check_converted

if TYPE_CHECKING:
    import onnx

PROPERTY = "rfx.precision"  # of the file's metadata


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

    wanted: Precision = find("precision", precision)()
    if precision == FULL:
        return model
    metadata = {p.key: p.value for p in model.metadata_props}
    if (written := metadata.get(PROPERTY, FULL)) != FULL:
        raise UsageError(
            "The file has its precision already.",
            got=written,
            next_step="convert the fp32 file instead",
        )
    result = wanted.convert(model)
    helper.set_model_props(result, metadata | {PROPERTY: precision})
    if check:
        check_converted(result, precision)
    return result
