"""PyTorch -> ONNX: named inputs, dynamic batch and sequence, checked, with the plan in its
metadata.

The exporter folds the transposes of Linear weights into anonymous constants; they get their
module's name back here (`<module>.weight.T`), so that the shapes in the file can be held against
the plan.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rfx.core.artefact import Artefact
from rfx.core.errors import InternalCheckError, UnsupportedModelError, first_line, is_interrupt
from rfx.core.inputs import BATCH, InputSpec, TensorInput
from rfx.core.plan import Plan, Site
from rfx.core.registry import register
from rfx.export.precision.convert import convert_precision

if TYPE_CHECKING:
    import onnx
    import torch
    from transformers import PreTrainedModel

LARGEST_FILE = 2 * 2**30  # bytes: protobuf's
# LayerNormalization and Gelu-free graphs every runtime of ours parses; 23 emits Attention, which
# RTX refuses
OPSET = 20
METADATA_PREFIX = "rfx."
_LARGEST_BATCH, _USUAL_LIMIT = 65535, 512
_TRACED, _TRACED_AXIS = {BATCH: 2}, 8  # sizes of the axes while the model is traced


@register("exporter", "onnx")
class OnnxExporter:
    """One ONNX graph of the role "model" (see `rfx.export.base.Exporter`)."""

    def export(
        self,
        model: PreTrainedModel,
        folder: Path,
        *,
        inputs: InputSpec,
        outputs: Sequence[str],
        metadata: Mapping[str, str],
        precision: str,
        name: str = "model.onnx",
    ) -> Artefact:
        """Raises as `export_onnx`."""
        file = export_onnx(
            model,
            folder / name,
            inputs=inputs,
            output_names=outputs,
            metadata=metadata,
            precision=precision,
        )
        facts = {METADATA_PREFIX + k: v for k, v in {"precision": precision, **metadata}.items()}
        return Artefact.of_model(file, inputs, tuple(outputs), facts)


def export_onnx(
    model: PreTrainedModel,
    path: str | Path,
    *,
    inputs: InputSpec,
    output_names: Sequence[str],
    metadata: Mapping[str, str] | None = None,
    precision: str = "fp32",
) -> Path:
    """Write `model` (eval mode, fp32) to `path`, its products at `precision` (see
    `precision.convert_precision`).

    Args:
        inputs: names, types and axes of what the graph is fed; named axes are dynamic.
        output_names: fields of the model's output that the graph gives, in this order.
        metadata: facts that are written into the file, under keys that begin with `rfx.`.
        precision: of the matrix products.

    Returns:
        `path`, as a Path.

    Raises:
        UsageError: there is no such precision.
        UnsupportedModelError: the model does not fit into one ONNX file (2 GiB).
        InternalCheckError: the exporter failed, or its result does not pass the checker.

    Examples:
        >>> file = rfx.export_onnx(
        ...     subject.model, "dense.onnx", inputs=subject.inputs, output_names=("logits",)
        ... )
    """
    import onnx
    import torch

    path = Path(path)

    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            out = self.model(**dict(zip(inputs.names, tensors)))
            return tuple(getattr(out, name) for name in output_names)

    if precision == "fp32":  # known before the work
        _require_size(4 * sum(p.numel() for p in model.parameters()), precision)
    implementation = model.config._attn_implementation
    dims = {axis: _dimension(axis, inputs.limits.get(axis)) for axis in inputs.dynamic_axes}
    example = tuple(_example(tensor) for tensor in inputs.inputs)
    model.config._attn_implementation = (
        "eager"  # sdpa adds IsNaN/Where nodes; the Attention op is not parsed everywhere
    )
    try:
        with _quiet():
            program = torch.onnx.export(
                Wrapper().eval(),
                example,
                dynamo=True,
                opset_version=OPSET,
                verbose=False,
                input_names=list(inputs.names),
                output_names=list(output_names),
                dynamic_shapes=(
                    tuple(
                        {n: dims[a] for n, a in enumerate(i.axes) if isinstance(a, str)}
                        for i in inputs.inputs
                    ),
                ),
            )
        if program is None:
            raise RuntimeError("torch.onnx.export gave nothing")
        proto = program.model_proto
    except Exception as error:
        # torch.onnx raises many kinds; none may reach the user as a traceback.
        if is_interrupt(error):
            raise KeyboardInterrupt from None
        raise InternalCheckError(
            f"The ONNX export of {type(model).__name__} failed.",
            got=first_line(error),
            next_step="report it with `rfx env` and the model's configuration",
        ) from error
    finally:
        model.config._attn_implementation = implementation

    name_weights(proto)
    proto = convert_precision(proto, precision)
    _require_size(sum(len(i.raw_data) for i in proto.graph.initializer), precision)
    onnx.helper.set_model_props(
        proto,
        {METADATA_PREFIX + k: v for k, v in {"precision": precision, **(metadata or {})}.items()},
    )
    for node in proto.graph.node:  # stack traces of the exporter name files of this machine
        del node.metadata_props[:]
        node.doc_string = ""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        onnx.save(proto, temporary)
        onnx.checker.check_model(str(temporary), full_check=False)
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
        temporary.replace(path)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InternalCheckError(
            "The exported ONNX file does not pass the checker.", got=first_line(error)
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _dimension(axis: str, limit: int | None) -> torch.export.Dim:
    """A dynamic axis of the exported graph, clear of the end of what the model takes."""
    import torch

    most = _LARGEST_BATCH if axis == BATCH else max(2, (limit or _USUAL_LIMIT) - 2)
    return torch.export.Dim(axis, min=1, max=most)


def _example(tensor: TensorInput) -> torch.Tensor:
    """What the model is traced with: the values do not matter, the sizes must differ from 1."""
    import torch

    sizes = [_TRACED.get(a, _TRACED_AXIS) if isinstance(a, str) else a for a in tensor.axes]
    make = torch.zeros if tensor.fill == "zeros" else torch.ones
    return make(sizes, dtype=getattr(torch, tensor.dtype))


def _require_size(size: int, precision: str) -> None:
    """`size` bytes of weights. One file holds at most 2 GiB (protobuf), and weights beside it are
    not what rfx writes."""
    if size >= LARGEST_FILE:
        raise UnsupportedModelError(
            "The model does not fit into one ONNX file.",
            got=f"{size / 2**30:.2f} GiB of weights at {precision}",
            allowed=f"less than {LARGEST_FILE / 2**30:.3g} GiB",
            next_step="start from a smaller model"
            if precision != "fp32"
            else "export it with --precision fp16, or start from a smaller model",
        )


def name_weights(proto: onnx.ModelProto) -> None:
    """Rename folded weights after their module: the scope of the MatMul or Gemm that reads one says
    which."""
    initializers = {i.name: i for i in proto.graph.initializer}
    renames: dict[str, str] = {}
    for node in proto.graph.node:
        if node.op_type not in ("MatMul", "Gemm") or len(node.input) < 2:
            continue
        weight = node.input[1]
        if (
            weight not in initializers
            or weight in renames
            or not re.fullmatch(r"val_\d+|t_?\d*|.*_t", weight)
        ):
            continue
        scope = _scope(node)
        if scope:
            renames[weight] = f"{scope}.weight.T"
    for old, new in renames.items():
        initializers[old].name = new
    for node in proto.graph.node:
        for i, name in enumerate(node.input):
            if name in renames:
                node.input[i] = renames[name]
    strip = {
        i.name: i.name.removeprefix("model.")
        for i in proto.graph.initializer
        if i.name.startswith("model.")
    }
    for initializer in proto.graph.initializer:
        initializer.name = strip.get(initializer.name, initializer.name)
    for node in proto.graph.node:
        for i, name in enumerate(node.input):
            if name in strip:
                node.input[i] = strip[name]
    # Recorded shapes of the exporter speak of the old names; shape inference makes its own.
    kept = [v for v in proto.graph.value_info if v.name not in renames and v.name not in strip]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)


def _scope(node: onnx.NodeProto) -> str:
    """Path of the module a node came from, e.g. `bert.encoder.layer.0.attention.self.query`; ""
    where not known."""
    import ast

    for prop in node.metadata_props:
        if prop.key == "pkg.torch.onnx.name_scopes":
            try:
                scopes = [s for s in ast.literal_eval(prop.value) if s.startswith("model.")]
            except (ValueError, SyntaxError):
                return ""
            return scopes[-1].removeprefix("model.") if scopes else ""
    return ""


def site_shapes(path: Path, sites: Sequence[Site]) -> dict[str, dict[str, int]]:
    """Channels of each site as they stand in an exported file: {site: {module path: channels}}.

    For q, k, v and the first FFN linear the output channels, for the output projection its input
    channels; a module without a weight in the file counts 0 (an emptied sublayer).
    """
    import onnx

    shapes = {
        i.name: list(i.dims)
        for i in onnx.load(str(path), load_external_data=False).graph.initializer
    }

    def outputs_inputs(module: str) -> tuple[int, int]:
        if f"{module}.weight.T" in shapes:
            n_in, n_out = shapes[f"{module}.weight.T"]
        elif f"{module}.weight" in shapes:
            n_out, n_in = shapes[f"{module}.weight"]
        else:
            return 0, 0
        return n_out, n_in

    found = {}
    for site in sites:
        rows = {module: outputs_inputs(module)[0] for module in site.inputs}
        found[site.name] = {**rows, site.output: outputs_inputs(site.output)[1]}
    return found


def shape_mismatches(paths: Path | Sequence[Path], sites: Sequence[Site], plan: Plan) -> list[str]:
    """What a file has against what the plan says, one sentence a module; [] is the proof that it
    is shrunk. Of several files each site is in one at least, and has the plan's shape in all that
    it is in."""
    paths = [paths] if isinstance(paths, Path) else paths
    found = [site_shapes(path, sites) for path in paths]
    wrong = []
    for site in sites:
        expected = plan[site.name].count * plan[site.name].width
        for module in (*site.inputs, site.output):
            counts = {shapes[site.name][module] for shapes in found}
            for n in sorted(counts - {0} or counts):
                if n != expected:
                    wrong.append(f"{module} has {n} channels, the plan keeps {expected}")
    return wrong + [line for path in paths for line in _unnamed_weights(path)]


def _unnamed_weights(path: Path) -> list[str]:
    """Matrices whose module is not known: one of them could be a weight that should be gone."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    shapes = {i.name: list(i.dims) for i in graph.initializer}
    read = {n for node in graph.node if node.op_type in ("MatMul", "Gemm") for n in node.input}
    return [
        f"the weight {name} {dims} belongs to no known module"
        for name, dims in shapes.items()
        if len(dims) == 2 and name in read and not name.endswith((".weight", ".weight.T"))
    ]


def plan_metadata(plan: Plan, **more: object) -> dict[str, str]:
    """Metadata of an exported file: plan hash and kept counts, with what else is given."""
    from rfx.core.version import __version__

    layers = plan.layers
    kinds = dict.fromkeys(["heads", "filters", *(units for row in layers for units in row)])
    return {
        "tool": f"rfx {__version__}",
        "plan": plan.hash,
        **{units: ",".join(str(row.get(units, "")) for row in layers) for units in kinds},
        **{k: str(v) for k, v in more.items()},
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.onnx logs and warns on every export, to no use for our users."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
