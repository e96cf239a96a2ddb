"""INT8 and FP8 as NVIDIA's Model Optimizer writes them for TensorRT: an ONNX file with explicit
quantization (see `qdq.py`).

It is called by the code of `python -m rfx.quantize` (`rfx.export.modelopt.library`). The scales of
activations are fixed beforehand, by calibration inputs: the largest value that was seen. Quantized
are the products with a weight inside of layers, those of the last one too, whether it is computed
at every token or at the one position that is read (`rfx.export.one_position`). What TensorRT is not
expected to gain by stays in fp32: products after the tokens are left (the pooler, the classifier),
weights with a side below 16, the attention's products of two activations, and embedding tables.
`python -m rfx.quantize` lets modelopt leave out more: what it expects to be slower quantized.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rfx.core.errors import EnvironmentMissingError, InternalCheckError, UsageError
from rfx.core.registry import register
from rfx.export.modelopt.library import name_products, run_modelopt
from rfx.export.precision.graphs import without_weights
from rfx.export.quantizers.activations import require_finite_activations
from rfx.export.quantizers.base import Feed, Quantizer, package_version
from rfx.export.quantizers.products import products_with_weight, require_finite
from rfx.export.quantizers.qdq import FP8, QdqFile, compared, other_constants, weak_scales

if TYPE_CHECKING:
    import onnx

LEAST_SIDE = 16  # of a weight: with less, the tensor cores of a GPU gain nothing
PACKAGES = ("modelopt", "onnx_graphsurgeon", "onnxruntime")
FORMS = {"int8": "integers", "fp8": FP8}
INSTALL = (
    "make an environment for it: python -m venv rfx-trt && rfx-trt/bin/pip install "
    "'rfx-exporter[modelopt]', with TensorRT as docs/pages/how-to/install.md says and without the "
    "extra cpu; or export with --precision fp16"
)


@register("quantizer", "modelopt")
class Modelopt(Quantizer):
    """modelopt's post-training quantization: a scale a tensor for what enters a product, a scale a
    column for its weight."""

    precisions = ("int8", "fp8")
    least_examples = 32

    @classmethod
    def require(cls) -> None:
        """See `Quantizer.require`."""
        missing = [p for p in PACKAGES if importlib.util.find_spec(p) is None]
        if missing:
            raise EnvironmentMissingError(
                "INT8 and FP8 files for TensorRT are written by nvidia-modelopt, which is not "
                "installed here. It brings onnxruntime-gpu 1.24 and onnx 1.21, and the first "
                "shares its folder with onnxruntime, so that it belongs into an environment "
                "without the extra cpu.",
                got=f"no {', '.join(missing)}",
                next_step=INSTALL,
            )

    def method(self) -> str:
        """See `Quantizer.method`."""
        version = package_version("nvidia-modelopt")
        return f"nvidia-modelopt {version}, {self.precision}, max, a scale a column"

    def convert(self, model: onnx.ModelProto, calibration: Sequence[Feed] = ()) -> onnx.ModelProto:
        """See `Quantizer.convert`. Each weight keeps its name and is stored quantized before a
        DequantizeLinear, its scales and zero points beside it."""
        import onnx

        self.require()
        weights = {name: array for _, name, array in chosen(model, self.keep_fp32)}
        if not weights:  # emptied sublayers alone, as a latency table has them
            return model
        require_finite(weights.items())
        if not calibration:
            raise UsageError(
                "modelopt chooses the scales of activations by calibration inputs, and there are "
                "none.",
                allowed="inputs of the model, by name",
                next_step="give calibration inputs",
            )
        names = [i.name for i in model.graph.input]
        feeds = [{name: feed[name] for name in names} for feed in calibration]
        require_finite_activations(model, feeds)
        source = onnx.ModelProto()
        source.CopyFrom(model)
        name_products(source)
        only = [node.name for node, _, _ in chosen(source, self.keep_fp32)]
        result, _ = run_modelopt(source, feeds, self.precision, only=only)
        self._require_all(result, [node.output[0] for node, _, _ in chosen(model, self.keep_fp32)])
        result.ir_version = max(model.ir_version, result.ir_version)
        return result

    def compare(self, plain: onnx.ModelProto, quantized: onnx.ModelProto) -> tuple[int, list[str]]:
        """See `Quantizer.compare`. A weight may lie half a step of its column's scale away; one
        that is not quantized is that of the fp32 file, and so is every bias."""
        wanted = {name for _, name, _ in chosen(plain, self.keep_fp32)}
        count, wrong = compared(
            plain, quantized, self.keep_fp32, only=wanted, form=FORMS[self.precision], smooth=False
        )
        weights = {name for _, name, _ in products_with_weight(plain)}  # those were compared
        return count, sorted({*wrong, *other_constants(plain, quantized, weights)})

    def _require_all(self, result: onnx.ModelProto, products: Collection[str]) -> None:
        """Raises InternalCheckError where a product was left as it was, or has a scale that is no
        positive number."""
        file = QdqFile(result)
        wrong = [f"{p} was not quantized" for p in products if file.weight(p, smooth=False) is None]
        wrong += [f"the scale {name} is not positive and finite" for name in weak_scales(result)]
        if wrong:
            raise InternalCheckError(
                "modelopt did not quantize the file as it was asked to.",
                got="; ".join(wrong[:3]),
                next_step="use --precision fp16, and report it with `rfx env`",
            )


def chosen(
    model: onnx.ModelProto, keep: Collection[str] = ()
) -> Iterator[tuple[onnx.NodeProto, str, np.ndarray]]:
    """The products of an fp32 file that are quantized: node, name and values of the weight,
    [inputs, outputs].

    Args:
        keep: paths of modules that are left out.
    """
    ranks = _ranks(model)
    for node, name, weight in products_with_weight(model, keep):
        at_tokens = node.op_type != "Gemm" and ranks.get(node.output[0], 3) > 2
        if at_tokens and min(weight.shape) >= LEAST_SIDE:
            yield node, name, weight


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    """How many axes tensors have, by name, where that can be told."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(without_weights(model)).graph
    return {
        v.name: len(v.type.tensor_type.shape.dim)
        for v in (*graph.value_info, *graph.output)
        if v.type.tensor_type.HasField("shape")
    }
