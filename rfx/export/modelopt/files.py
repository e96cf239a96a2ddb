"""What quantization is given: an fp32 ONNX file, and an npz file of inputs; refused by name where
they are not."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rfx.core.errors import UsageError, first_line

if TYPE_CHECKING:
    import numpy as np
    import onnx

PRODUCTS = ("MatMul", "Gemm")
PROPERTY = "rfx.quantization"


def read_model(path: Path) -> onnx.ModelProto:
    """An fp32 ONNX file without Q/DQ.

    Raises:
        UsageError: no such file, not ONNX, weights beside the file, half precision, or quantized
            already.
    """
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import TensorProto

    if not path.is_file():
        raise UsageError(
            "The ONNX file does not exist.",
            got=str(path),
            allowed="an ONNX file of rfx",
            next_step="correct the path",
        )
    try:
        # Whatever its name ends in.
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
        if not model.graph.node:
            raise ValueError("it has no graph")
    except (DecodeError, ValueError, OSError) as error:
        raise UsageError(
            "This is not a valid ONNX file.",
            got=f"{path}: {first_line(error)}",
            allowed="an ONNX file of rfx",
            next_step="give the model.onnx of an output of rfx prune-export",
        ) from None
    facts = {p.key: p.value for p in model.metadata_props}
    if PROPERTY in facts or any(
        n.op_type in ("QuantizeLinear", "DequantizeLinear") for n in model.graph.node
    ):
        raise UsageError(
            "The file is quantized already.",
            got=f"{path}: {facts.get(PROPERTY, 'Q/DQ nodes')}",
            allowed="an fp32 file",
            next_step="quantize the file that it was made of",
        )
    half = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
    precisions = {
        facts.get("rfx.precision", "fp32"),
        *(half.get(i.data_type, "fp32") for i in model.graph.initializer),
    }
    if precisions != {"fp32"}:
        raise UsageError(
            "The file is of half precision; scales are found in fp32.",
            got=f"{path}: {max(precisions - {'fp32'})}",
            allowed="an fp32 file",
            next_step="export it with --precision fp32 and quantize that",
        )
    if any(i.data_location == TensorProto.EXTERNAL for i in model.graph.initializer):
        raise UsageError(
            "The weights lie outside of the ONNX file.",
            got=str(path),
            allowed="one file, as rfx writes it",
            next_step="export it again with rfx, or save it as one file with onnx.save",
        )
    return model


def read_calibration(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of an npz file that the model's inputs are called after, int64 [examples, tokens].

    Raises:
        UsageError: no such file, not an npz file, an array missing, of another type or shape,
            empty, or negative.
    """
    import numpy as np

    allowed = f"an npz file with int64 arrays [examples, tokens]: {', '.join(names)}"

    def refuse(what: str, got: object) -> UsageError:
        return UsageError(
            what,
            got=got,
            allowed=allowed,
            next_step="write it as docs/pages/how-to/quantization.md shows",
        )

    if not path.is_file():
        raise refuse("The calibration file does not exist.", str(path))
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array without a name")
            missing = [n for n in names if n not in file.files]
            if missing:
                found = ", ".join(file.files) or "none"
                raise refuse(
                    "The calibration file lacks an input of the model.",
                    f"no {', '.join(missing)}; it has {found}",
                )
            arrays = {n: file[n] for n in names}
    # What NumPy raises for a file that is cut off, damaged, of pickled objects, or of another
    # format.
    except (
        ValueError,
        OSError,
        EOFError,
        KeyError,
        TypeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise refuse(
            "The calibration file cannot be read.", f"{path}: {first_line(error)}"
        ) from None
    first = arrays[names[0]]
    for name, array in arrays.items():
        if array.dtype != np.int64:
            raise refuse("A calibration array has the wrong type.", f"{name}: {array.dtype}")
        if array.ndim != 2 or array.size == 0:
            raise refuse(
                "A calibration array is empty or has the wrong shape.",
                f"{name}: {list(array.shape)}",
            )
        if array.shape != first.shape:
            raise refuse(
                "The calibration arrays differ in shape.",
                f"{names[0]}: {list(first.shape)}, {name}: {list(array.shape)}",
            )
        if array.min() < 0:
            # Gather takes a negative index from the end: a wrong word, and nobody would notice.
            raise refuse("A calibration array has negative numbers.", f"{name}: {array.min()}")
    return arrays


def quantized_products(model: onnx.ModelProto) -> list[str]:
    """Names of the MatMul and Gemm nodes that read a DequantizeLinear on both sides."""
    dequantized = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    return [
        n.name
        for n in model.graph.node
        if n.op_type in PRODUCTS and dequantized.issuperset(n.input[:2])
    ]
