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

import contextlib
import importlib.util
import io
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfx.core.errors import (
    EnvironmentMissingError,
    InternalCheckError,
    UnsupportedModelError,
    UsageError,
    first_line,
)
from rfx.core.files import atomic_write_bytes, require_file_place
from rfx.export.modelopt.files import (
    PRODUCTS,
    PROPERTY,
    quantized_products,
    read_calibration,
    read_model,
)
from rfx.export.modelopt.proof import check, compare, run_source

if TYPE_CHECKING:
    import numpy as np
    import onnx

PRECISIONS = ("int8", "fp8")
METHODS = ("max", "entropy")
INSTALL = (
    'python -m venv modelopt && modelopt/bin/pip install "nvidia-modelopt[onnx]" && '
    "modelopt/bin/pip install --no-deps rfx-exporter"
)

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
    _require("numpy", "onnx", "onnxruntime")
    model = read_model(source)
    inputs = read_calibration(calibration, [v.name for v in model.graph.input])
    _require("modelopt")
    examples, tokens = next(iter(inputs.values())).shape
    note(f"running the model on {examples} examples of {tokens} tokens")
    before = run_source(model, source, inputs)
    note(f"calibrating and quantizing to {precision}")
    result, version = _modelopt(
        model, inputs, precision, _left_out(model, attention), method, chatter
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


def _require(*packages: str) -> None:
    missing = [p for p in packages if importlib.util.find_spec(p) is None]
    if missing:
        raise _no_modelopt(f"{', '.join(missing)} not installed for {sys.executable}")


def _no_modelopt(got: str) -> EnvironmentMissingError:
    return EnvironmentMissingError(
        "Quantization needs nvidia-modelopt[onnx], in an environment of its own: it pins an older "
        "onnx and onnxruntime-gpu, "
        "which would replace those that rfx runs with.",
        got=got,
        next_step=f"{INSTALL}\n           then run modelopt/bin/python -m rfx.quantize with the "
        "same arguments",
    )


def _left_out(model: onnx.ModelProto, attention: bool) -> list[str]:
    """Products of two activations, by the names that modelopt knows nodes by."""
    weights = {i.name for i in model.graph.initializer}
    taken: set[str] = set()
    for i, node in enumerate(model.graph.node):
        # modelopt would name them itself, and then they could not be left out.
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{i}_rfx"
        taken.add(node.name)
    return [
        n.name
        for n in model.graph.node
        if n.op_type in PRODUCTS and not attention and not weights.intersection(n.input[:2])
    ]


def _modelopt(
    model: onnx.ModelProto,
    inputs: Mapping[str, np.ndarray],
    precision: str,
    left_out: list[str],
    method: str,
    chatter: Any,
) -> tuple[onnx.ModelProto, str]:
    """The model as modelopt quantizes it, and modelopt's version."""
    import onnx

    with _scratch() as folder, _quiet(chatter):
        try:
            import modelopt
            from modelopt.onnx.quantization import quantize as run
        except ImportError as error:
            raise _no_modelopt(f"modelopt does not import: {first_line(error)}") from error
        # A copy: modelopt 0.47 writes into the file it is given.
        before, after = folder / "model.onnx", folder / "quantized.onnx"
        onnx.save(model, before)
        try:
            run(
                str(before),
                quantize_mode=precision,
                calibration_data=dict(inputs),
                calibration_method=method,
                calibration_eps=["cpu"],
                op_types_to_quantize=list(PRODUCTS),
                # Patterns, of which modelopt compares the beginning alone: node_1 is no node_10.
                nodes_to_exclude=[re.escape(n) + r"\Z" for n in left_out],
                high_precision_dtype="fp32",
                # weights stored quantized: a Q before them only makes the file larger
                dq_only=True,
                output_path=str(after),
                log_level="WARNING",
            )
            return onnx.load(str(after)), str(
                getattr(modelopt, "__version__", "of an unknown version")
            )
        except Exception as error:
            # modelopt raises many kinds; none may reach the user as a traceback.
            raise InternalCheckError(
                "modelopt could not quantize the model.",
                got=first_line(error),
                next_step="run again with --verbose for its messages; the unquantized file still "
                "serves",
            ) from error


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for all the files that modelopt makes on its way, those that it would forget in the
    system's among them."""
    folder, previous = Path(tempfile.mkdtemp(prefix="rfx-quantize-")), tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = previous
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _quiet(chatter: Any) -> Iterator[None]:
    """Standard output is for the one line of JSON: modelopt logs there, and shows a bar for every
    example."""
    stream = chatter or io.StringIO()
    with (
        contextlib.redirect_stdout(stream),
        contextlib.redirect_stderr(stream),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore" if chatter is None else "default")
        yield


def _restore(result: onnx.ModelProto, source: onnx.ModelProto, facts: Mapping[str, str]) -> None:
    """The metadata, which modelopt drops, with `facts` added."""
    from onnx import helper

    helper.set_model_props(result, {p.key: p.value for p in source.metadata_props} | dict(facts))
    for node in result.graph.node:
        node.doc_string = ""
