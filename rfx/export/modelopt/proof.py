"""That the quantized file is the model it was made of: the checker, shapes and names, and its
outputs beside the others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rfx.core.errors import InternalCheckError, UsageError, first_line
from rfx.export.modelopt.files import PRODUCTS

if TYPE_CHECKING:
    import numpy as np
    import onnx

_BATCH = 16  # rows of a run of the comparison


def check(result: onnx.ModelProto, source: onnx.ModelProto) -> None:
    """Valid, the same inputs and outputs, the same products, weights under the same names and of
    the same shapes.

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
            (
                v.name,
                v.type.tensor_type.elem_type,
                [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim],
            )
            for v in (*model.graph.input, *model.graph.output)
        ]

    if ends(result) != ends(source):
        raise _wrong("has other inputs or outputs", f"{ends(result)} in place of {ends(source)}")

    def weights(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
        return {i.name: tuple(i.dims) for i in model.graph.initializer if len(i.dims) > 1}

    lost = [
        f"{name} {list(dims)}" for name, dims in weights(source).items() - weights(result).items()
    ]
    if lost:
        raise _wrong("lacks weights, or has them in another shape", ", ".join(lost[:5]))
    counts = [sum(n.op_type in PRODUCTS for n in m.graph.node) for m in (source, result)]
    if counts[0] != counts[1]:
        raise _wrong(
            "has another number of matrix products", f"{counts[1]} in place of {counts[0]}"
        )


def compare(
    before: list[dict[str, np.ndarray]], data: bytes, inputs: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """How far each output of the quantized file is from the unquantized one's, and the largest
    value of the latter."""
    import numpy as np

    try:
        after = _outputs(data, inputs)
    except Exception as error:  # as above; this file is ours
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


def run_source(
    model: onnx.ModelProto, path: Path, inputs: Mapping[str, np.ndarray]
) -> list[dict[str, np.ndarray]]:
    """Outputs of the unquantized file; what does not fit it shows here, before the calibration."""
    import numpy as np

    try:
        found = _outputs(str(path), inputs)
    except Exception as error:
        # ONNX Runtime's errors are of many kinds, all of them of these two files.
        known = next((p.value for p in model.metadata_props if p.key == "rfx.max_length"), None)
        raise UsageError(
            "The model does not run on the calibration inputs.",
            got=first_line(error),
            allowed="token ids of the model's vocabulary, not more tokens than it takes"
            + (f" ({known})" if known else ""),
            next_step="tokenize with the model's own tokenizer, as "
            "docs/pages/how-to/quantization.md shows",
        ) from None
    broken = sorted(
        {name for part in found for name, value in part.items() if not np.isfinite(value).all()}
    )
    if broken:
        raise UsageError(
            "The unquantized model's own output is not finite on the calibration inputs.",
            got=", ".join(broken),
            next_step="check the checkpoint, and that no row of attention_mask is all 0",
        )
    return found


def _outputs(model: str | bytes, inputs: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Outputs of each batch, by ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised
    # The file as it stands: fused int8 kernels round as the CPU has them, and fusing FP8 makes an
    # invalid graph (1.24 to 1.31).
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names, starts = (
        [o.name for o in session.get_outputs()],
        range(0, len(next(iter(inputs.values()))), _BATCH),
    )
    return [
        dict(zip(names, session.run(names, {k: v[i : i + _BATCH] for k, v in inputs.items()})))
        for i in starts
    ]


def _wrong(what: str, got: str) -> InternalCheckError:
    return InternalCheckError(
        f"The quantized file {what}.",
        got=got,
        next_step="report it with the version of nvidia-modelopt; the unquantized file still "
        "serves",
    )
