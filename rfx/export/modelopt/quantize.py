"""INT8 or FP8 by explicit Q/DQ: `python -m rfx.quantize build/model.onnx --calibration inputs.npz
--precision int8 --out model.int8.onnx`.

For an environment of its own, beside that of rfx: nvidia-modelopt pins an older onnx and
onnxruntime-gpu. NumPy, onnx, ONNX Runtime and modelopt are all it needs; no transformers, no typer.
docs/pages/how-to/quantization.md says when it is worth it.

A linear (MatMul or Gemm with a weight) gets int8 or fp8 on both sides: QuantizeLinear and
DequantizeLinear around what enters it, one scale a tensor, and its weight stored quantized with one
scale a column before a DequantizeLinear. The products of the attention (scores and context) get
them too with --attention. All the rest is left as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfx.core.errors import UnsupportedModelError, UsageError
from rfx.core.files import atomic_write_bytes, require_file_place
from rfx.export.modelopt.files import (
    PRODUCTS,
    PROPERTY,
    quantized_products,
    read_calibration,
    read_model,
)
from rfx.export.modelopt.library import (
    INSTALL,
    METHODS,
    PRECISIONS,
    name_products,
    require,
    run_modelopt,
)
from rfx.export.modelopt.proof import check, compare, run_source

if TYPE_CHECKING:
    import onnx

__all__ = [
    "INSTALL",
    "METHODS",
    "PRECISIONS",
    "quantize",
    "quantized_products",
    "read_calibration",
    "read_model",
]


def quantize(
    source: Path,
    calibration: Path,
    out: Path,
    *,
    precision: str,
    attention: bool = False,
    method: str = "max",
    note: Callable[[str], None] = lambda text: None,
    chatter: Any = None,
) -> dict[str, Any]:
    """Write `source` with explicit Q/DQ to `out`, whole or not at all; `source` itself is only
    read.

    Args:
        calibration: npz file with an int64 array [examples, tokens] for every input of the model;
            other arrays in it are not looked at.
        precision: of the products, one of `PRECISIONS`.
        attention: quantize the products of two activations too, not only the linears.
        method: how ranges are chosen: "max" takes the largest value that was seen, "entropy" may
            cut off outliers.
        note: told what is being done.
        chatter: where modelopt's own messages go; None: nowhere.

    Returns:
        What was done, as the command line prints it.

    Raises:
        UsageError: a file that is not there or not what it should be, calibration that does not fit
            the model.
        EnvironmentMissingError: modelopt, or what it needs, is not installed.
        UnsupportedModelError: nothing in the model can be quantized.
        InternalCheckError: modelopt failed, or its result does not pass the checks.
    """
    for given, what in ((source, "model"), (calibration, "calibration file")):
        if out.exists() and given.exists() and out.samefile(given):
            raise UsageError(
                f"The output would overwrite the {what}.",
                got=str(out),
                next_step="give another --out",
            )
    require_file_place(out, ours=_is_quantized, kind="a model that rfx.quantize wrote")
    require("numpy", "onnx", "onnxruntime")
    model = read_model(source)
    inputs = read_calibration(calibration, [v.name for v in model.graph.input])
    require("modelopt")
    examples, tokens = next(iter(inputs.values())).shape
    note(f"running the model on {examples} examples of {tokens} tokens")
    before = run_source(model, source, inputs)
    note(f"calibrating and quantizing to {precision}")
    result, version = run_modelopt(
        model,
        inputs,
        precision,
        leave_out=_left_out(model, attention),
        method=method,
        chatter=chatter,
    )
    done, products = (
        len(quantized_products(result)),
        [n for n in model.graph.node if n.op_type in PRODUCTS],
    )
    if not done:
        raise UnsupportedModelError(
            "Nothing in this model was quantized.",
            got=f"{len(products)} matrix products",
            allowed="products whose sides are all at least 16, on more than one row",
            next_step="serve the file as it is",
        )
    _restore(
        result,
        model,
        {
            PROPERTY: precision,
            f"{PROPERTY}_tool": f"nvidia-modelopt {version}, {method}, {examples} examples",
        },
    )
    check(result, model)
    data = result.SerializeToString()
    note("running the quantized model on the same examples")
    differences = compare(before, data, inputs)
    atomic_write_bytes(out, data)
    return {
        "written": str(out),
        "quantization": precision,
        "method": method,
        "examples": examples,
        "tokens": tokens,
        "products": len(products),
        "quantized_products": done,
        "bytes_before": source.stat().st_size,
        "bytes": len(data),
        "difference": differences,
        "tool": f"nvidia-modelopt {version}",
    }


def _is_quantized(file: Path) -> bool:
    return PROPERTY.encode() in file.read_bytes()


def _left_out(model: onnx.ModelProto, attention: bool) -> list[str]:
    """Products of two activations, by the names that modelopt knows nodes by."""
    weights = {i.name for i in model.graph.initializer}
    name_products(model)
    return [
        n.name
        for n in model.graph.node
        if n.op_type in PRODUCTS and not attention and not weights.intersection(n.input[:2])
    ]


def _restore(result: onnx.ModelProto, source: onnx.ModelProto, facts: Mapping[str, str]) -> None:
    """The metadata, which modelopt drops, with `facts` added."""
    from onnx import helper

    helper.set_model_props(result, {p.key: p.value for p in source.metadata_props} | dict(facts))
    for node in result.graph.node:
        node.doc_string = ""
