"""INT8 or FP8 by explicit Q/DQ: `python -m rfx.quantize build/model.onnx --calibration inputs.npz --precision int8 --out model.int8.onnx`.

For an environment of its own, beside that of rfx: nvidia-modelopt pins an older onnx and onnxruntime-gpu. NumPy, onnx,
ONNX Runtime and modelopt are all it needs; no transformers, no typer. docs/quantization.md says when it is worth it.

A linear (MatMul or Gemm with a weight) gets int8 or fp8 on both sides: QuantizeLinear and DequantizeLinear around what
enters it, one scale a tensor, and its weight stored quantized with one scale a column before a DequantizeLinear. The
products of the attention (scores and context) get them too with --attention. All the rest is left as it was.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfx.errors import (
    EnvironmentMissingError,
    ExitCode,
    InternalCheckError,
    UnsupportedModelError,
    UsageError,
    UserError,
    first_line,
)
from rfx.store import atomic_write_bytes, require_file_place

if TYPE_CHECKING:
    import numpy as np
    import onnx

PRECISIONS = ("int8", "fp8")
METHODS = ("max", "entropy")
PRODUCTS = ("MatMul", "Gemm")
PROPERTY = "rfx.quantization"
INSTALL = 'python -m venv modelopt && modelopt/bin/pip install "nvidia-modelopt[onnx]" && modelopt/bin/pip install --no-deps rfx-exporter'
_BATCH = 16  # rows of a run of the comparison


def quantize(source: Path, calibration: Path, out: Path, *, precision: str, attention: bool = False, method: str = "max",
             note=lambda text: None, chatter: Any = None) -> dict[str, Any]:
    """Write `source` with explicit Q/DQ to `out`, whole or not at all; `source` itself is only read.

    Args:
        calibration: npz file with an int64 array [examples, tokens] for every input of the model; other arrays in it
            are not looked at.
        precision: of the products, one of `PRECISIONS`.
        attention: quantize the products of two activations too, not only the linears.
        method: how ranges are chosen: "max" takes the largest value that was seen, "entropy" may cut off outliers.
        note: told what is being done.
        chatter: where modelopt's own messages go; None: nowhere.

    Returns:
        What was done, as the command line prints it.

    Raises:
        UsageError: a file that is not there or not what it should be, calibration that does not fit the model.
        EnvironmentMissingError: modelopt, or what it needs, is not installed.
        UnsupportedModelError: nothing in the model can be quantized.
        InternalCheckError: modelopt failed, or its result does not pass the checks.
    """  # fmt: skip
    require_file_place(out)
    for given, what in ((source, "model"), (calibration, "calibration file")):
        if out.exists() and given.exists() and os.path.samefile(out, given):
            raise UsageError(f"The output would overwrite the {what}.", got=str(out), next_step="give another --out")
    _require("numpy", "onnx", "onnxruntime")
    model = read_model(source)
    inputs = read_calibration(calibration, [v.name for v in model.graph.input])
    _require("modelopt")
    examples, tokens = next(iter(inputs.values())).shape
    note(f"running the model on {examples} examples of {tokens} tokens")
    before = _run_source(model, source, inputs)
    note(f"calibrating and quantizing to {precision}")
    result, version = _modelopt(model, inputs, precision, _left_out(model, attention), method, chatter)
    done, products = len(quantized_products(result)), [n for n in model.graph.node if n.op_type in PRODUCTS]
    if not done:
        raise UnsupportedModelError(
            "Nothing in this model was quantized.", got=f"{len(products)} matrix products",
            allowed="products whose sides are all at least 16, on more than one row", next_step="serve the file as it is",
        )  # fmt: skip
    _restore(result, model, {PROPERTY: precision, f"{PROPERTY}_tool": f"nvidia-modelopt {version}, {method}, {examples} examples"})
    _check(result, model)
    data = result.SerializeToString()
    note("running the quantized model on the same examples")
    differences = _compare(before, data, inputs)
    atomic_write_bytes(out, data)
    return {
        "written": str(out), "quantization": precision, "method": method, "examples": examples, "tokens": tokens,
        "products": len(products), "quantized_products": done,
        "bytes_before": source.stat().st_size, "bytes": len(data), "difference": differences,
        "tool": f"nvidia-modelopt {version}",
    }  # fmt: skip


def read_model(path: Path) -> onnx.ModelProto:
    """An fp32 ONNX file without Q/DQ.

    Raises:
        UsageError: no such file, not ONNX, weights beside the file, half precision, or quantized already.
    """
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import TensorProto

    if not path.is_file():
        raise UsageError("The ONNX file does not exist.", got=str(path), allowed="an ONNX file of rfx")
    try:
        model = onnx.load(str(path), load_external_data=False)
        if not model.graph.node:
            raise ValueError("it has no graph")
    except (DecodeError, ValueError, OSError) as error:
        raise UsageError(
            "This is not a valid ONNX file.", got=f"{path}: {first_line(error)}", allowed="an ONNX file of rfx",
            next_step="export it again",
        ) from None  # fmt: skip
    facts = {p.key: p.value for p in model.metadata_props}
    if PROPERTY in facts or any(n.op_type in ("QuantizeLinear", "DequantizeLinear") for n in model.graph.node):
        raise UsageError(
            "The file is quantized already.", got=f"{path}: {facts.get(PROPERTY, 'Q/DQ nodes')}", allowed="an fp32 file",
            next_step="quantize the file that it was made of",
        )  # fmt: skip
    half = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
    precisions = {facts.get("rfx.precision", "fp32"), *(half.get(i.data_type, "fp32") for i in model.graph.initializer)}
    if precisions != {"fp32"}:
        raise UsageError(
            "The file is of half precision; scales are found in fp32.", got=f"{path}: {max(precisions - {'fp32'})}",
            allowed="an fp32 file", next_step="export it with --precision fp32 and quantize that",
        )  # fmt: skip
    if any(i.data_location == TensorProto.EXTERNAL for i in model.graph.initializer):
        raise UsageError("The weights lie outside of the ONNX file.", got=str(path), allowed="one file, as rfx writes it")
    return model


def read_calibration(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of an npz file that the model's inputs are called after, int64 [examples, tokens].

    Raises:
        UsageError: no such file, not an npz file, an array missing, of another type or shape, empty, or negative.
    """
    import numpy as np

    allowed = f"an npz file with int64 arrays [examples, tokens]: {', '.join(names)}"

    def refuse(what: str, got: object) -> UsageError:
        return UsageError(what, got=got, allowed=allowed, next_step="write it as docs/quantization.md shows")

    if not path.is_file():
        raise refuse("The calibration file does not exist.", str(path))
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array without a name")
            missing = [n for n in names if n not in file.files]
            if missing:
                found = ", ".join(file.files) or "none"
                raise refuse("The calibration file lacks an input of the model.", f"no {', '.join(missing)}; it has {found}")
            arrays = {n: file[n] for n in names}
    # What NumPy raises for a file that is cut off, damaged, of pickled objects, or of another format.
    except (ValueError, OSError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise refuse("The calibration file cannot be read.", f"{path}: {first_line(error)}") from None
    first = arrays[names[0]]
    for name, array in arrays.items():
        if array.dtype != np.int64:
            raise refuse("A calibration array has the wrong type.", f"{name}: {array.dtype}")
        if array.ndim != 2 or array.size == 0:
            raise refuse("A calibration array is empty or has the wrong shape.", f"{name}: {list(array.shape)}")
        if array.shape != first.shape:
            raise refuse("The calibration arrays differ in shape.", f"{names[0]}: {list(first.shape)}, {name}: {list(array.shape)}")
        if array.min() < 0:  # Gather takes a negative index from the end: a wrong word, and nobody would notice
            raise refuse("A calibration array has negative numbers.", f"{name}: {array.min()}")
    return arrays


def quantized_products(model: onnx.ModelProto) -> list[str]:
    """Names of the MatMul and Gemm nodes that read a DequantizeLinear on both sides."""
    dequantized = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    return [n.name for n in model.graph.node if n.op_type in PRODUCTS and dequantized.issuperset(n.input[:2])]


def _require(*packages: str) -> None:
    missing = [p for p in packages if importlib.util.find_spec(p) is None]
    if missing:
        raise _no_modelopt(f"{', '.join(missing)} not installed for {sys.executable}")


def _no_modelopt(got: str) -> EnvironmentMissingError:
    return EnvironmentMissingError(
        "Quantization needs nvidia-modelopt[onnx], in an environment of its own: it pins an older onnx and onnxruntime-gpu, "
        "which would replace those that rfx runs with.",
        got=got, next_step=f"{INSTALL}\n           then run modelopt/bin/python -m rfx.quantize with the same arguments",
    )  # fmt: skip


def _left_out(model: onnx.ModelProto, attention: bool) -> list[str]:
    """Products of two activations, by the names that modelopt knows nodes by."""
    weights = {i.name for i in model.graph.initializer}
    taken: set[str] = set()
    for i, node in enumerate(model.graph.node):  # modelopt would name them itself, and then they could not be left out
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{i}_rfx"
        taken.add(node.name)
    return [n.name for n in model.graph.node if n.op_type in PRODUCTS and not attention and not weights.intersection(n.input[:2])]


def _modelopt(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray], precision: str, left_out: list[str], method: str,
              chatter: Any) -> tuple[onnx.ModelProto, str]:  # fmt: skip
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
                str(before), quantize_mode=precision, calibration_data=dict(inputs), calibration_method=method,
                calibration_eps=["cpu"], op_types_to_quantize=list(PRODUCTS), nodes_to_exclude=[re.escape(n) for n in left_out],
                high_precision_dtype="fp32", dq_only=True,  # weights stored quantized: a Q before them only makes the file larger
                output_path=str(after), log_level="WARNING",
            )  # fmt: skip
            return onnx.load(str(after)), str(getattr(modelopt, "__version__", "of an unknown version"))
        except Exception as error:  # noqa: BLE001 - modelopt raises many kinds; none may reach the user as a traceback
            raise InternalCheckError(
                "modelopt could not quantize the model.", got=f"{type(error).__name__}: {first_line(error)}",
                next_step="run again with --verbose for its messages; the unquantized file still serves",
            ) from error  # fmt: skip


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for all the files that modelopt makes on its way, those that it would forget in the system's among them."""
    folder, previous = Path(tempfile.mkdtemp(prefix="rfx-quantize-")), tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = previous
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _quiet(chatter: Any) -> Iterator[None]:
    """Standard output is for the one line of JSON: modelopt logs there, and shows a bar for every example."""
    stream = chatter or io.StringIO()
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream), warnings.catch_warnings():
        warnings.simplefilter("ignore" if chatter is None else "default")
        yield


def _restore(result: onnx.ModelProto, source: onnx.ModelProto, facts: Mapping[str, str]) -> None:
    """The metadata, which modelopt drops, with `facts` added."""
    from onnx import helper

    helper.set_model_props(result, {p.key: p.value for p in source.metadata_props} | dict(facts))
    for node in result.graph.node:
        node.doc_string = ""


def _check(result: onnx.ModelProto, source: onnx.ModelProto) -> None:
    """Valid, the same inputs and outputs, the same products, weights under the same names and of the same shapes.

    Raises:
        InternalCheckError: it is not so.
    """
    import onnx

    try:
        onnx.checker.check_model(result, full_check=True)
        onnx.shape_inference.infer_shapes(result, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise _wrong("does not pass the checker", first_line(error)) from error

    def ends(model: onnx.ModelProto) -> list[tuple]:
        return [
            (v.name, v.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim])
            for v in (*model.graph.input, *model.graph.output)
        ]

    if ends(result) != ends(source):
        raise _wrong("has other inputs or outputs", f"{ends(result)} in place of {ends(source)}")

    def weights(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
        return {i.name: tuple(i.dims) for i in model.graph.initializer if len(i.dims) > 1}

    lost = [f"{name} {list(dims)}" for name, dims in weights(source).items() - weights(result).items()]
    if lost:
        raise _wrong("lacks weights, or has them in another shape", ", ".join(lost[:5]))
    counts = [sum(n.op_type in PRODUCTS for n in m.graph.node) for m in (source, result)]
    if counts[0] != counts[1]:
        raise _wrong("has another number of matrix products", f"{counts[1]} in place of {counts[0]}")


def _wrong(what: str, got: str) -> InternalCheckError:
    return InternalCheckError(
        f"The quantized file {what}.", got=got, next_step="report it with the version of nvidia-modelopt; the unquantized file still serves"
    )


def _outputs(model: str | bytes, inputs: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Outputs of each batch, by ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised
    # The file as it stands: fused int8 kernels round as the CPU has them, and fusing FP8 makes an invalid graph (1.24 to 1.31).
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names, starts = [o.name for o in session.get_outputs()], range(0, len(next(iter(inputs.values()))), _BATCH)
    return [dict(zip(names, session.run(names, {k: v[i : i + _BATCH] for k, v in inputs.items()}))) for i in starts]


def _run_source(model: onnx.ModelProto, path: Path, inputs: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Outputs of the unquantized file; what does not fit it shows here, before the calibration."""
    import numpy as np

    try:
        found = _outputs(str(path), inputs)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors are of many kinds, all of them of these two files
        known = next((p.value for p in model.metadata_props if p.key == "rfx.max_length"), None)
        raise UsageError(
            "The model does not run on the calibration inputs.", got=first_line(error),
            allowed="token ids of the model's vocabulary, not more tokens than it takes" + (f" ({known})" if known else ""),
            next_step="tokenize with the model's own tokenizer, as docs/quantization.md shows",
        ) from None  # fmt: skip
    broken = sorted({name for part in found for name, value in part.items() if not np.isfinite(value).all()})
    if broken:
        raise UsageError(
            "The unquantized model's own output is not finite on the calibration inputs.", got=", ".join(broken),
            next_step="check the checkpoint, and that no row of attention_mask is all 0",
        )  # fmt: skip
    return found


def _compare(before: list[dict[str, np.ndarray]], data: bytes, inputs: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """How far each output of the quantized file is from the unquantized one's, and the largest value of the latter."""
    import numpy as np

    try:
        after = _outputs(data, inputs)
    except Exception as error:  # noqa: BLE001 - as above; this file is ours
        raise _wrong("does not run", first_line(error)) from error
    differences = {}
    for name in before[0]:
        was = np.concatenate([part[name].ravel() for part in before]).astype(np.float64)
        apart = np.abs(np.concatenate([part[name].ravel() for part in after]) - was)
        if not np.isfinite(apart).all():
            raise _wrong("has an output that is not finite", name)
        figures = {"largest": apart.max(), "mean": apart.mean(), "largest_value": np.abs(was).max()}
        differences[name] = {key: float(f"{value:.4g}") for key, value in figures.items()}
    return differences


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rfx.quantize", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="INT8 or FP8 by explicit Q/DQ, for an fp32 ONNX file of rfx. Runs in an environment of its own:\n"
                    f"  {INSTALL.replace(' && ', chr(10) + '  ')}",
        epilog="Faster is not promised and accuracy is not kept for sure: measure both, see docs/quantization.md.",
    )  # fmt: skip
    parser.add_argument("model", type=Path, help="fp32 ONNX file")
    parser.add_argument("--calibration", type=Path, required=True, help="npz: an int64 array [examples, tokens] for each input")
    parser.add_argument("--precision", choices=PRECISIONS, required=True, help="of the matrix products")
    parser.add_argument("--out", "-o", type=Path, required=True, help="the quantized ONNX file")
    parser.add_argument("--attention", action="store_true", help="the products of the attention too, not only the linears")
    parser.add_argument("--method", choices=METHODS, default="max", help="how ranges are chosen (max)")
    talk = parser.add_mutually_exclusive_group()
    talk.add_argument("--quiet", "-q", action="store_true", help="nothing but the result and errors")
    talk.add_argument("--verbose", "-v", action="store_true", help="modelopt's messages too")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Quantize one file and print one line of JSON; returns the exit code (those of `rfx.errors.ExitCode`)."""
    options = _parser().parse_args(argv)

    def note(text: str) -> None:
        if not options.quiet:
            print(text, file=sys.stderr, flush=True)

    try:
        facts = quantize(options.model, options.calibration, options.out, precision=options.precision, attention=options.attention,
                         method=options.method, note=note, chatter=sys.stderr if options.verbose else None)  # fmt: skip
    except UserError as error:
        print(f"error: {error.render()}", file=sys.stderr)
        return int(error.exit_code)
    except OSError as error:
        print(f"error: {error.strerror}: {error.filename}\n  next:    free space or permissions there, then run again", file=sys.stderr)
        return int(ExitCode.ENVIRONMENT)
    except KeyboardInterrupt:
        print("Interrupted. Nothing was written.", file=sys.stderr)
        return int(ExitCode.INTERRUPT)
    except Exception:  # a bug of rfx: said in full, and never with the exit code of a failed gate
        sys.excepthook(*sys.exc_info())
        return int(ExitCode.INTERNAL_CHECK)
    print(json.dumps(facts))
    return int(ExitCode.PASS)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
