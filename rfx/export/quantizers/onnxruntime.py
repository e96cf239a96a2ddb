"""INT8 as ONNX Runtime's dynamic quantization writes it: the products with a weight in integers.

Activations are quantized at run time, one scale a tensor (`DynamicQuantizeLinear`), and weights are
stored as signed integers with one scale a channel (`MatMulInteger`). Nothing is calibrated. One
scale a tensor, the library's default, costs several times the divergence for the same latency, so
it is not offered. Large embedding tables are stored in integers too (`tables.py`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rfx.core.environment import int8_products
from rfx.core.errors import (
    EnvironmentMissingError,
    InternalCheckError,
    first_line,
    is_interrupt,
)
from rfx.core.registry import register
from rfx.export.quantizers.base import Feed, Quantizer
from rfx.export.quantizers.products import module_of, require_finite, weights_of_products
from rfx.export.quantizers.tables import (
    ROUNDING,
    TINY,
    compared_tables,
    large_tables,
    quantize_tables,
)
from rfx.export.quiet import quiet

if TYPE_CHECKING:
    import onnx

ENDING = "_quantized"  # of an integer weight's name: what the library appends
PRODUCT = "MatMulInteger"
TURNED = "_Transposed"  # what the library appends where it makes a MatMul of a Gemm


@register("quantizer", "onnxruntime")
class OnnxRuntimeDynamic(Quantizer):
    """Integers in the products that have a weight: dynamic quantization, a scale a channel."""

    precisions = ("int8",)
    portable: ClassVar[str | None] = "onnxruntime-portable"

    @classmethod
    def require(cls) -> None:
        """See `Quantizer.require`."""
        try:
            import onnxruntime.quantization  # noqa: F401 - whether it is there
        except ImportError as error:
            raise EnvironmentMissingError(
                "INT8 files are written by ONNX Runtime, which is not installed.",
                got=first_line(error),
                next_step="pip install 'rfx-exporter[cpu]'",
            ) from error

    def convert(self, model: onnx.ModelProto, calibration: Sequence[Feed] = ()) -> onnx.ModelProto:
        """See `Quantizer.convert`; calibration inputs are not looked at. Initializers of quantized
        weights get the ending `_quantized`, with their scales and zero points beside them."""
        import onnx

        self.require()
        from onnxruntime.quantization import QuantType, quantize_dynamic

        weights = weights_of_products(model, self.keep_fp32)
        if not weights:  # emptied sublayers alone, as a latency table has them
            return model
        require_finite((*weights.items(), *large_tables(model).items()))
        with tempfile.TemporaryDirectory(prefix="rfx-int8-") as folder, quiet():
            file = Path(folder) / "int8.onnx"
            try:
                quantize_dynamic(
                    model,
                    file,
                    op_types_to_quantize=["MatMul"],
                    per_channel=True,
                    reduce_range=self.seven_bits or reduced_range(),
                    weight_type=QuantType.QInt8,
                    nodes_to_exclude=_nodes_of(model, self.keep_fp32),
                    extra_options={"MatMulConstBOnly": True},
                )
                result = onnx.load(str(file))
            except Exception as error:  # the library raises many kinds
                if is_interrupt(error):
                    raise KeyboardInterrupt from None
                raise InternalCheckError(
                    "ONNX Runtime could not quantize the file.",
                    got=first_line(error),
                    next_step="use --precision fp32, and report it with `rfx env`",
                ) from error
        quantize_tables(result)
        result.ir_version = model.ir_version
        return result

    def method(self) -> str:
        """See `Quantizer.method`."""
        import onnxruntime

        bits = 7 if self.seven_bits or reduced_range() else 8
        return (
            f"onnxruntime {onnxruntime.__version__}, dynamic, {bits} bits, a scale a channel, "
            "large tables by rows"
        )

    def table_method(self) -> str:
        """Nothing: the library is the runtime, and the CPU decides on the bits."""
        return ""

    def compare(self, plain: onnx.ModelProto, quantized: onnx.ModelProto) -> tuple[int, list[str]]:
        """See `Quantizer.compare`. A weight may lie half a step of its channel's scale away."""
        expected = weights_of_products(plain, self.keep_fp32)
        found = integer_weights(quantized)
        wrong = [f"the product of {name} is not in integers" for name in expected.keys() - found]
        extra = found.keys() - expected
        wrong += [f"{name} is in integers, and no weight in fp32" for name in extra]
        if not found:
            wrong.append("nothing in the file is in integers")
        wrong += compared_tables(plain, quantized)
        steps = scales(quantized)
        for name in sorted(expected.keys() & found.keys()):
            a, b, half = expected[name], found[name], steps[name] / 2
            if a.shape != b.shape:
                wrong.append(f"{name} has the shape {b.shape} in place of {a.shape}")
            elif not (np.abs(a - b) <= half * ROUNDING + TINY).all():
                wrong.append(f"{name} lies more than half a step from its fp32 values")
        return len(found), sorted(wrong)


@register("quantizer", "onnxruntime-portable")
class PortableOnnxRuntimeDynamic(OnnxRuntimeDynamic):
    """The same with weights of 7 bits, whatever this CPU has."""

    portable: ClassVar[str | None] = None
    seven_bits = True


def reduced_range() -> bool:
    """Whether weights have to keep to 7 bits on this machine, because its CPU sums products in 16
    bits: an x86 CPU without VNNI or AMX."""
    return int8_products() == "saturating"


def _nodes_of(model: onnx.ModelProto, modules: Collection[str]) -> list[str]:
    """Names of the products of these modules, by which the library leaves them out. Of a Gemm it
    makes a MatMul of another name first."""
    return [
        name
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm") and module_of(node.input[1]) in modules
        for name in (node.name, f"{node.name}_MatMul")
    ]


def integer_weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The integer weights of a quantized file as the numbers that they stand for, under the names
    that they had in fp32. [inputs, outputs] each."""
    from onnx import numpy_helper

    constants = {i.name: i for i in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type != PRODUCT or not node.input[1].endswith(ENDING):
            continue
        name = node.input[1].removesuffix(ENDING)
        parts = (constants[f"{name}{end}"] for end in (ENDING, "_scale", "_zero_point"))
        whole, scale, zero = map(numpy_helper.to_array, parts)
        found[name.removesuffix(TURNED)] = (
            whole.astype(np.float32) - zero.astype(np.float32)
        ) * scale
    return found


def scales(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The scale of each channel of the integer weights, by the name of the weight. [outputs]."""
    from onnx import numpy_helper

    ending = "_scale"
    names = {n.input[1].removesuffix(ENDING) for n in model.graph.node if n.op_type == PRODUCT}
    return {
        i.name.removesuffix(ending).removesuffix(TURNED): np.atleast_1d(numpy_helper.to_array(i))
        for i in model.graph.initializer
        if i.name.endswith(ending) and i.name.removesuffix(ending) in names
    }
