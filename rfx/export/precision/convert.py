"""An fp32 file at another precision, whichever is registered."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from rfx.core.errors import UsageError
from rfx.core.plan import FULL
from rfx.core.registry import find
from rfx.export.find import default_quantizer, quantizer_class
from rfx.export.precision.base import Precision, QuantizedPrecision
from rfx.export.precision.graphs import check as check_converted
from rfx.export.quantizers.base import Feed

if TYPE_CHECKING:
    import onnx

PROPERTY = "rfx.precision"  # of the file's metadata


def is_quantized(precision: str) -> bool:
    """Whether files of a precision are made by a quantizer.

    Raises:
        UsageError: there is no such precision.
    """
    return issubclass(find("precision", precision), QuantizedPrecision)


def convert_precision(
    model: onnx.ModelProto,
    precision: str,
    *,
    check: bool = True,
    keep_fp32: Collection[str] = (),
    quantizer: str | None = None,
    calibration: Sequence[Feed] = (),
) -> onnx.ModelProto:
    """`model` (fp32) with its matrix products at `precision`: a new model, or `model` itself for
    "fp32".

    Inputs and outputs keep names, types and shapes; initializers keep names and shapes, but for
    those that are quantized. `rfx.precision` is added to the metadata.

    Args:
        keep_fp32: paths of modules whose products a quantized precision leaves in fp32.
        check: hold the result against ONNX's checker; it takes its time on many files of one
            pattern.
        quantizer: what makes a file of a quantized precision; None: the first that needs no
            calibration inputs.
        calibration: inputs that a quantizer chooses its scales by (see `Quantizer.convert`).

    Raises:
        UsageError: not a precision, modules to keep at one that quantizes nothing, a model that was
            converted before, or no quantizer and none that would do.
        EnvironmentMissingError: the quantizer's library is not installed.
        UnsupportedModelError: a weight is not finite, or too large for the type.
        InternalCheckError: the quantizer failed, or the result does not pass the checker.
    """
    from onnx import helper

    quantized = is_quantized(precision)
    if keep_fp32 and not quantized:
        raise UsageError(
            "This precision quantizes nothing, so that nothing can be kept from it.",
            got=f"{precision}, keep_fp32: {', '.join(sorted(keep_fp32))}",
            allowed="a quantized precision, such as int8",
            next_step="leave --keep-fp32 out",
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
    if quantized:
        name = quantizer or default_quantizer(precision)
        if name is None:
            raise UsageError(
                "No quantizer writes this precision without calibration inputs.",
                got=precision,
                allowed="a quantizer's name, with calibration inputs",
                next_step="export for a runtime with --target, which names its quantizer",
            )
        result = quantizer_class(name)(precision, keep_fp32).convert(model, calibration)
    else:
        wanted: Precision = find("precision", precision)()
        result = wanted.convert(model)
    if result is model:  # nothing in it was converted; the caller's stays what it was
        result = type(model)()
        result.CopyFrom(model)
    helper.set_model_props(result, metadata | {PROPERTY: precision})
    if check:
        check_converted(result, precision)
    return result
