"""PyTorch -> ONNX: named inputs, dynamic batch and sequence, checked, with the plan in its
metadata.

Weights are named after their modules (see `rfx.export.names`), so that the shapes in the file can
be held against the plan.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rfx.core.artefact import Artefact
from rfx.core.errors import InternalCheckError, UnsupportedModelError, first_line, is_interrupt
from rfx.core.inputs import BATCH, InputSpec, TensorInput
from rfx.core.plan import Plan, Site
from rfx.core.registry import register
from rfx.export import traced
from rfx.export.facts import read_model
from rfx.export.names import name_values, name_weights
from rfx.export.one_position import PROPERTY as ONE_POSITION
from rfx.export.one_position import choose_early
from rfx.export.precision.convert import convert_precision
from rfx.export.quantizers.base import Feed
from rfx.export.quiet import quiet
from rfx.export.sums import write_sums

if TYPE_CHECKING:
    import onnx
    import torch
    from transformers import PreTrainedModel

LARGEST_FILE = 2 * 2**30  # bytes: protobuf's
# LayerNormalization and Gelu-free graphs every runtime of ours parses; 23 emits Attention, which
# RTX refuses
OPSET = 20
IR_VERSION = 10  # read by ONNX Runtime from 1.18 on
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
        opset: int = OPSET,
        ir_version: int = IR_VERSION,
        keep_fp32: Collection[str] = (),
        quantizer: str | None = None,
        calibration: Sequence[Feed] = (),
    ) -> Artefact:
        """Raises as `export_onnx`."""
        file = export_onnx(
            model,
            folder / name,
            inputs=inputs,
            output_names=outputs,
            metadata=metadata,
            precision=precision,
            opset=opset,
            ir_version=ir_version,
            keep_fp32=keep_fp32,
            quantizer=quantizer,
            calibration=calibration,
        )
        facts = {p.key: p.value for p in read_model(file).metadata_props}
        return Artefact.of_model(file, inputs, tuple(outputs), facts)


def export_onnx(
    model: PreTrainedModel,
    path: str | Path,
    *,
    inputs: InputSpec,
    output_names: Sequence[str],
    metadata: Mapping[str, str] | None = None,
    precision: str = "fp32",
    opset: int = OPSET,
    ir_version: int = IR_VERSION,
    keep_fp32: Collection[str] = (),
    one_position: bool = True,
    quantizer: str | None = None,
    calibration: Sequence[Feed] = (),
) -> Path:
    """Write `model` (eval mode, fp32) to `path`, its products at `precision` (see
    `precision.convert_precision`).

    Args:
        inputs: names, types and axes of what the graph is fed; named axes are dynamic.
        output_names: fields of the model's output that the graph gives, in this order.
        metadata: facts that are written into the file, under keys that begin with `rfx.`.
        precision: of the matrix products.
        opset: version of the operators, 18 to 20. Below 18 PyTorch's exporter forgets which
            module a weight belongs to.
        ir_version: version of the file's format, 8 to 10.
        keep_fp32: paths of modules whose products a quantized precision leaves in fp32.
        one_position: where one position of the last layer is read alone, as a classifier does,
            compute it there alone (see `rfx.export.one_position`).
        quantizer: the name of what makes a file of a quantized precision; None: the first that
            needs no calibration inputs.
        calibration: inputs of the graph, by name, that a quantizer chooses its scales by.

    Returns:
        `path`, as a Path.

    Raises:
        UsageError: there is no such precision.
        UnsupportedModelError: the model does not fit into one ONNX file (2 GiB), or computes with
            the length of what it is traced with.
        InternalCheckError: the exporter failed, or its result does not pass the checker.

    Examples:
        >>> file = rfx.export_onnx(
        ...     subject.model, "dense.onnx", inputs=subject.inputs, output_names=("logits",)
        ... )
    """
    import onnx

    path = Path(path)
    if precision == "fp32":  # known before the work
        _require_size(4 * sum(p.numel() for p in model.parameters()), precision)
    graph = _graph(model, inputs, output_names, opset)
    _require_dynamic(model, graph, inputs)
    write_sums(graph)
    at_one = choose_early(graph) if one_position else ()
    proto = convert_precision(
        graph, precision, keep_fp32=keep_fp32, quantizer=quantizer, calibration=calibration
    )
    proto.ir_version = ir_version
    _require_size(sum(len(i.raw_data) for i in proto.graph.initializer), precision)
    onnx.helper.set_model_props(
        proto,
        {METADATA_PREFIX + k: v for k, v in {"precision": precision, **(metadata or {})}.items()}
        | ({ONE_POSITION: " ".join(at_one)} if at_one else {}),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        onnx.save(proto, temporary)
        onnx.checker.check_model(str(temporary), full_check=False)
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
        temporary.replace(path)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InternalCheckError(
            "The exported ONNX file does not pass the checker.",
            got=first_line(error),
            next_step="report it with the output of `rfx env`; another --opset may do meanwhile",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _graph(
    model: PreTrainedModel, inputs: InputSpec, outputs: Sequence[str], opset: int
) -> onnx.ModelProto:
    """The graph of a model with its weights, in fp32: traced, or that of an earlier model of the
    same structure (see `rfx.export.traced`)."""
    import torch

    implementation = model.config._attn_implementation
    model.config._attn_implementation = (
        "eager"  # sdpa adds IsNaN/Where nodes; the Attention op is not parsed everywhere
    )
    try:
        key = traced.structure(model, inputs, outputs, (opset, torch.__version__))
        proto = traced.with_weights(key, model, inputs, outputs)
        if proto is None:
            proto = _traced(model, inputs, outputs, opset)
            name_weights(proto)
            for node in proto.graph.node:
                # Stack traces of the exporter name files of this machine.
                del node.metadata_props[:]
                node.doc_string = ""
            name_values(proto)
            traced.keep(key, proto, model)
        return proto
    finally:
        model.config._attn_implementation = implementation


def _traced(
    model: PreTrainedModel, inputs: InputSpec, outputs: Sequence[str], opset: int
) -> onnx.ModelProto:
    """What PyTorch's exporter makes of a model. Raises InternalCheckError where it fails."""
    import onnx
    import torch

    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            out = self.model(**dict(zip(inputs.names, tensors)))
            return tuple(getattr(out, name) for name in outputs)

    dims = {axis: _dimension(axis, inputs.limits.get(axis)) for axis in inputs.dynamic_axes}
    example = tuple(_example(tensor) for tensor in inputs.inputs)
    try:
        with quiet():
            program = torch.onnx.export(
                Wrapper().eval(),
                example,
                dynamo=True,
                opset_version=opset,
                verbose=False,
                input_names=list(inputs.names),
                output_names=list(outputs),
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
        assert isinstance(proto, onnx.ModelProto)
        return proto
    except Exception as error:
        # torch.onnx raises many kinds; none may reach the user as a traceback.
        if is_interrupt(error):
            raise KeyboardInterrupt from None
        raise InternalCheckError(
            f"The ONNX export of {type(model).__name__} failed.",
            got=first_line(error),
            next_step="report it with `rfx env` and the model's configuration",
        ) from error


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


def _require_dynamic(model: torch.nn.Module, graph: onnx.ModelProto, inputs: InputSpec) -> None:
    """Raises UnsupportedModelError where the exporter has fixed an axis that is to be free: the
    model's own code makes a number of it."""
    axes = {i.name: i.axes for i in inputs.inputs}
    fixed = [
        f"{given.name}: {axis} is {dim.dim_value}"
        for given in graph.graph.input
        for axis, dim in zip(axes.get(given.name, ()), given.type.tensor_type.shape.dim)
        if isinstance(axis, str) and dim.HasField("dim_value")
    ]
    if fixed:
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be exported with inputs of any length: its code makes "
            "a fixed number of the length that it is traced with.",
            got=", ".join(fixed),
            allowed="a model whose forward pass works on every length as it is traced",
            next_step="fine-tune a model of another family for your task, and prune that",
        )


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


def site_shapes(path: Path, sites: Sequence[Site]) -> dict[str, dict[str, int]]:
    """Channels of each site as they stand in an exported file: {site: {module path: channels}}.

    For the modules before an output projection (q, k, v; the first FFN linear) the output channels,
    for the projection its input channels; a module without a weight in the file counts 0 (an
    emptied sublayer).
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
        kept = plan[site.name].count
        channels = {m: site.rows(m).size(kept) if kept else 0 for m in site.inputs}
        for module, expected in {**channels, site.output: kept * site.width}.items():
            counts = {shapes[site.name][module] for shapes in found}
            if (
                counts == {0}
                and len(site.inputs) > 1
                and any(shapes[site.name][m] for m in site.inputs for shapes in found)
            ):
                continue  # what it gives hangs on no input, and was computed when the file was made
            for n in sorted(counts - {0} or counts):
                if n != expected:
                    wrong.append(f"{module} has {n} channels, the plan keeps {expected}")
    return wrong + [line for path in paths for line in _unnamed_weights(path)]


def row_mismatches(paths: Sequence[Path], module: str, rows: int) -> list[str]:
    """What a file has against the number of rows that the table of a module should have, one
    sentence a table."""
    import onnx

    wrong, found = [], False
    for path in paths:
        graph = onnx.load(str(path), load_external_data=False).graph
        for table in graph.initializer:
            if table.name.startswith(f"{module}.") and len(table.dims) == 2:
                found = True
                if table.dims[0] != rows:
                    wrong.append(f"{table.name} has {table.dims[0]} rows, the vocabulary {rows}")
    return wrong if found else [f"no file has the table of {module}"]


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
