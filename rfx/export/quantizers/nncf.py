"""INT8 as NNCF's post-training quantization writes it for OpenVINO: an ONNX file with explicit
quantization (see `qdq.py`).

The scales of activations are fixed beforehand, by calibration inputs. NNCF moves factors between
what enters a product and its weight (Smooth Quant) and corrects biases. The products of two
activations in the attention and the embedding tables are quantized too. OpenVINO reads the file
like any other and computes its products in integers; an OpenVINO IR of the same quantization is no
faster and no nearer to fp32 (docs/pages/how-to/quantization.md has the figures), so none is
written.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rfx.core.environment import int8_products
from rfx.core.errors import (
    EnvironmentMissingError,
    InternalCheckError,
    UsageError,
    first_line,
    is_interrupt,
)
from rfx.core.registry import register
from rfx.export.quantizers.activations import require_finite_activations
from rfx.export.quantizers.base import Feed, Quantizer, package_version
from rfx.export.quantizers.onnxruntime import ENDING
from rfx.export.quantizers.products import (
    PRODUCTS,
    module_of,
    products_with_weight,
    require_finite,
    weights_of_products,
)
from rfx.export.quantizers.qdq import compared
from rfx.export.quiet import silent

if TYPE_CHECKING:
    import onnx

NAMES = {"q_output_": ENDING, "scale_": "_scale", "zero_point_": "_zero_point"}
INSTALL = "pip install 'rfx-exporter[openvino]'"


@register("quantizer", "nncf")
class Nncf(Quantizer):
    """NNCF's post-training quantization: model type transformer, mixed preset."""

    precisions = ("int8",)
    least_examples = 32
    portable: ClassVar[str | None] = "nncf-portable"

    @classmethod
    def require(cls) -> None:
        """See `Quantizer.require`."""
        for package, install in (("nncf", INSTALL), ("onnxruntime", "pip install onnxruntime")):
            if importlib.util.find_spec(package) is None:
                raise EnvironmentMissingError(
                    "INT8 files for OpenVINO are written by NNCF, which runs the model in ONNX "
                    "Runtime, and one of the two is not installed.",
                    got=f"no {package}",
                    next_step=install,
                )

    def method(self) -> str:
        """See `Quantizer.method`."""
        version = package_version("nncf")
        bits = 7 if self.seven_bits or _reduced() else 8
        return f"nncf {version}, post-training, mixed, {bits} bits, a scale a channel"

    def convert(self, model: onnx.ModelProto, calibration: Sequence[Feed] = ()) -> onnx.ModelProto:
        """See `Quantizer.convert`. Each weight is stored with the ending `_quantized` before a
        DequantizeLinear, its scales and zero points beside it."""
        import onnx

        self.require()
        weights = weights_of_products(model, self.keep_fp32)
        if not weights:  # emptied sublayers alone, as a latency table has them
            return model
        require_finite(weights.items())
        if not calibration:
            raise UsageError(
                "NNCF chooses the scales of activations by calibration inputs, and there are none.",
                allowed="inputs of the model, by name",
                next_step="give calibration inputs",
            )
        names = [i.name for i in model.graph.input]
        feeds = [{name: feed[name] for name in names} for feed in calibration]
        require_finite_activations(model, feeds)
        source = onnx.ModelProto()
        source.CopyFrom(model)
        for node in source.graph.node:  # NNCF tells them apart by name
            node.name = node.name or f"node_{node.output[0]}"
        with silent():
            try:
                result = self._quantized(source, feeds)
            except Exception as error:  # the library raises many kinds
                if is_interrupt(error):
                    raise KeyboardInterrupt from None
                raise InternalCheckError(
                    "NNCF could not quantize the file.",
                    got=first_line(error),
                    next_step="use --precision fp32, and report it with `rfx env`",
                ) from error
        _require_finite_scales(result)
        _name_as_elsewhere(result, [i.name for i in model.graph.initializer])
        result.ir_version = model.ir_version
        return result

    def compare(self, plain: onnx.ModelProto, quantized: onnx.ModelProto) -> tuple[int, list[str]]:
        """See `Quantizer.compare`. A weight may lie half a step of its channel's scale away, after
        the factor that Smooth Quant gave it is taken out again. Biases are corrected, and not
        compared."""
        return compared(plain, quantized, self.keep_fp32)

    def _quantized(self, model: onnx.ModelProto, feeds: list[dict[str, np.ndarray]]) -> Any:
        import nncf
        from nncf.quantization.advanced_parameters import (
            AdvancedQuantizationParameters,
            OverflowFix,
        )

        more: dict[str, Any] = {}
        if self.seven_bits or _reduced():
            more["advanced_parameters"] = AdvancedQuantizationParameters(
                overflow_fix=OverflowFix.ENABLE
            )
        kept = kept_nodes(model, self.keep_fp32)
        if kept:
            more["ignored_scope"] = nncf.IgnoredScope(names=kept)
        return nncf.quantize(
            model,
            nncf.Dataset(feeds),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(feeds),
            **more,
        )


@register("quantizer", "nncf-portable")
class PortableNncf(Nncf):
    """The same with weights of 7 bits, whatever this CPU has."""

    portable: ClassVar[str | None] = None
    seven_bits = True


def kept_nodes(model: onnx.ModelProto, modules: Collection[str]) -> list[str]:
    """Names of the products that stay in fp32 where these modules do: their own, and those of two
    activations on the way to them from the last products with a weight, which are scores and
    context of an attention whose output projection is kept."""
    makers = {out: node for node in model.graph.node for out in node.output}
    weighted = {node.name: module_of(name) for node, name, _ in products_with_weight(model)}
    own = [n for n in model.graph.node if weighted.get(n.name) in modules and n.name in weighted]
    found = {n.name: None for n in own}
    waiting, seen = [n.input[0] for n in own], set()
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or node.name in weighted or id(node) in seen:
            continue
        seen.add(id(node))
        if node.op_type in PRODUCTS:
            found[node.name] = None
        waiting += node.input
    return list(found)


def _reduced() -> bool:
    """Whether weights have to keep to 7 bits, because the CPU sums products in 16 bits."""
    return int8_products() == "saturating"


def _name_as_elsewhere(model: onnx.ModelProto, weights: Collection[str]) -> None:
    """Give what a quantized weight consists of the names that ONNX Runtime's quantizer gives it, by
    which the bytes of a module are counted: NNCF puts its words in front, and a number behind."""
    known, new = set(weights), {}
    for tensor in model.graph.initializer:
        for before, after in NAMES.items():
            name = tensor.name.removeprefix(before).rpartition("_")[0]
            if tensor.name.startswith(before) and name in known:
                new[tensor.name] = name + after
                tensor.name = name + after
                break
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = new.get(name, name)


def _require_finite_scales(model: onnx.ModelProto) -> None:
    """Raises InternalCheckError for a scale that is not finite."""
    from onnx import numpy_helper

    constants = {i.name: i for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[1] in constants:
            scale = numpy_helper.to_array(constants[node.input[1]])
            if not np.isfinite(scale).all():
                raise InternalCheckError(
                    "NNCF chose a scale that is not finite.",
                    got=node.input[1],
                    next_step="use --precision fp32, and report it with `rfx env`",
                )
