"""The files that `benchmarks.exports` times: one model, written in different ways."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfx.core.errors import first_line, is_interrupt
from rfx.core.inputs import InputSpec
from rfx.export.onnx import export_onnx
from rfx.export.quantizers.onnxruntime import reduced_range
from rfx.export.quiet import quiet

if TYPE_CHECKING:
    import transformers
    from torch import nn

OUTPUT = "logits"
OPSET = 17  # of the TorchScript export: the first with LayerNormalization
INT8 = "-int8"  # what the name of a quantized form ends in
FORMS = {
    "rfx": "rfx's file: the last layer at the position that is read, sums before norms as Sum",
    "rfx-all": "the same with the last layer at every position",
    "rfx-add": "that with the sums as Add, as PyTorch's exporter writes all of it",
    "torchscript": f"PyTorch's TorchScript exporter, opset {OPSET}, eager attention",
    "optimized": "the same after ONNX Runtime's optimizer of Transformers",
    "optimized-unskipped": "likewise, without the fusion of sums into normalisations",
}
# The optimizer fuses attention by one head count of all layers, which a pruned model has not got:
# ONNX Runtime refuses the file that it writes of one.
DENSE_ONLY = ("optimized", "optimized-unskipped")
QUANTIZED = ("rfx", "rfx-all", "rfx-add", "torchscript")


class Files:
    """The files of one model, by form, and why one could not be written."""

    def __init__(self) -> None:
        self.written: dict[str, Path] = {}
        self.failed: dict[str, str] = {}

    def write(self, form: str, file: Path, make: Callable[[Path], Any]) -> None:
        """Write a form that is somebody else's, whose failure is a result too."""
        try:
            with quiet():
                make(file)
            self.written[form] = file
        except Exception as error:  # the libraries raise many kinds
            if is_interrupt(error):
                raise KeyboardInterrupt from None
            self.failed[form] = f"{type(error).__name__}: {first_line(error)}"


def write_files(
    model: transformers.PreTrainedModel, inputs: InputSpec, folder: Path, *, dense: bool
) -> Files:
    """Write every form of a model into a folder.

    Args:
        dense: whether all its layers have one head count, as the optimizer expects.
    """
    files = Files()
    file = {form: folder / f"{form}.onnx" for form in FORMS}
    export_onnx(model, file["rfx"], inputs=inputs, output_names=(OUTPUT,))
    files.written["rfx"] = file["rfx"]
    export_onnx(model, file["rfx-all"], inputs=inputs, output_names=(OUTPUT,), one_position=False)
    files.written["rfx-all"] = file["rfx-all"]
    files.write("rfx-add", file["rfx-add"], lambda out: _with_add(file["rfx-all"], out))
    files.write("torchscript", file["torchscript"], lambda out: _torchscript(model, inputs, out))
    if dense and "torchscript" in files.written:
        for form in DENSE_ONLY:
            skip = form == "optimized"
            files.write(
                form,
                file[form],
                lambda out, skip=skip: _optimized(file["torchscript"], out, model.config, skip),
            )
    for form in QUANTIZED:
        if plain := files.written.get(form):
            out = folder / f"{form}{INT8}.onnx"
            files.write(form + INT8, out, lambda out, plain=plain: _int8(plain, out))
    return files


def operators(file: Path) -> dict[str, int]:
    """How many nodes a file has of each operator that is ONNX Runtime's own: what was fused."""
    import onnx

    nodes = onnx.load(str(file), load_external_data=False).graph.node
    return dict(sorted(Counter(n.op_type for n in nodes if n.domain == "com.microsoft").items()))


def _with_add(source: Path, out: Path) -> None:
    """The file of rfx as it was before `rfx.export.sums`."""
    import onnx

    model = onnx.load(str(source))
    normalised = {n.input[0] for n in model.graph.node if n.op_type == "LayerNormalization"}
    for node in model.graph.node:
        if node.op_type == "Sum" and len(node.input) == 2 and node.output[0] in normalised:
            node.op_type = "Add"
    onnx.save(model, str(out))


def _torchscript(model: transformers.PreTrainedModel, inputs: InputSpec, out: Path) -> None:
    import torch

    implementation = model.config._attn_implementation
    model.config._attn_implementation = "eager"
    sizes = {axis: 2 + 6 * n for n, axis in enumerate(inputs.dynamic_axes)}
    example = tuple(
        torch.ones([sizes.get(a, a) for a in i.axes], dtype=getattr(torch, i.dtype))
        for i in inputs.inputs
    )
    try:
        torch.onnx.export(
            _by_position(model, inputs.names),
            example,
            str(out),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs.names),
            output_names=[OUTPUT],
            dynamic_axes={
                **{
                    i.name: {n: a for n, a in enumerate(i.axes) if isinstance(a, str)}
                    for i in inputs.inputs
                },
                OUTPUT: {0: inputs.dynamic_axes[0]},
            },
        )
    finally:
        model.config._attn_implementation = implementation


def _by_position(model: nn.Module, names: tuple[str, ...]) -> nn.Module:
    """The model as a module whose arguments have no names, as the exporter gives them."""
    import torch

    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            return getattr(self.model(**dict(zip(names, tensors, strict=True))), OUTPUT)

    return Wrapper().eval()


def _optimized(source: Path, out: Path, config: Any, skip: bool) -> None:
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions("bert")
    options.enable_skip_layer_norm = skip
    options.enable_bias_skip_layer_norm = skip
    options.enable_embed_layer_norm = skip  # it has the same sum
    optimize_model(
        str(source),
        model_type="bert",
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        optimization_options=options,
        opt_level=0,
        use_gpu=False,
    ).save_model_to_file(str(out))


def _int8(source: Path, out: Path) -> None:
    """Dynamic quantization with the options of `rfx.export.precision.int8`, without its tables."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(source),
        str(out),
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        reduce_range=reduced_range(),
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True},
    )
