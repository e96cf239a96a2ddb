"""Files with explicit quantization: what enters a product goes through QuantizeLinear and
DequantizeLinear, and its weight is stored in integers or in FP8 before a DequantizeLinear of its
own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rfx.export.quantizers.products import is_turned, module_of, products_with_weight
from rfx.export.quantizers.tables import ROUNDING, TINY

if TYPE_CHECKING:
    import onnx

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
FP8 = "fp8"  # as `compared` calls what is not in integers


@dataclass(frozen=True)
class Stored:
    """A quantized tensor as the numbers that it stands for, with half a step of each."""

    values: np.ndarray
    half: np.ndarray
    floating: bool = False  # in FP8, and not in integers


class QdqFile:
    """What is quantized in a file."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.constants = {i.name: i for i in model.graph.initializer}
        self.makers = {out: node for node in model.graph.node for out in node.output}
        self.nodes = {_name(node): node for node in model.graph.node}

    def stored(self, name: str) -> Stored | None:
        """A tensor that is stored quantized, by the name of what comes out of its
        DequantizeLinear; None where it is stored otherwise."""
        from onnx import numpy_helper

        node = self.makers.get(name)
        if node is None or node.op_type != DEQUANTIZE or node.input[0] not in self.constants:
            return None
        if any(i not in self.constants for i in node.input):
            return None
        whole, scale, *zero = (numpy_helper.to_array(self.constants[i]) for i in node.input)
        floating = self.constants[node.input[0]].data_type in _floats()
        if scale.size > 1:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            sizes = [1] * whole.ndim
            sizes[axis] = -1
            scale, zero = scale.reshape(sizes), [z.reshape(sizes) for z in zero]
        offset = zero[0].astype(np.float32) if zero else np.float32(0)
        scale = scale.astype(np.float32)
        whole = whole.astype(np.float32)
        values, half = (whole - offset) * scale, np.abs(scale) / 2
        if floating:
            half = half * _steps(whole)
        return Stored(values, np.broadcast_to(half, values.shape), floating)

    def weight(self, name: str, *, smooth: bool = True) -> Stored | None:
        """The weight of the product that makes the tensor of this name: [inputs, outputs]; None
        where that is no product both of whose sides are quantized.

        Args:
            smooth: the quantizer may divide what enters a product by a factor a channel and
                multiply the weight by it (Smooth Quant): the weight is given as it is without that
                factor.
        """
        from onnx import numpy_helper

        node = self.nodes.get(name)
        if node is None or len(node.input) < 2:
            return None
        own, entering = self.stored(node.input[1]), self._quantized(node.input[0])
        if own is None or entering is None or own.values.ndim != 2:
            return None
        values, half = own.values, own.half
        if is_turned(node):
            values, half = values.T, half.T
        before = self.makers.get(entering)
        if smooth and before is not None and before.op_type == "Mul":
            for name_ in before.input:
                if name_ not in self.constants:
                    continue
                factor = numpy_helper.to_array(self.constants[name_]).reshape(-1, 1)
                if factor.shape[0] in (1, values.shape[0]):
                    values, half = values * factor, half * np.abs(factor)
        return Stored(values, half, own.floating)

    def has(self, name: str, expected: np.ndarray) -> bool:
        """Whether the product that makes the tensor of this name has this weight, [inputs,
        outputs], in fp32."""
        from onnx import numpy_helper

        node = self.nodes.get(name)
        if node is None or len(node.input) < 2 or node.input[1] not in self.constants:
            return False
        own = numpy_helper.to_array(self.constants[node.input[1]])
        return own.dtype == expected.dtype and np.array_equal(
            own.T if is_turned(node) else own, expected
        )

    def _quantized(self, name: str) -> str | None:
        """The tensor that goes through QuantizeLinear and DequantizeLinear to become this one."""
        node = self.makers.get(name)
        node = (
            None if node is None or node.op_type != DEQUANTIZE else self.makers.get(node.input[0])
        )
        return None if node is None or node.op_type != QUANTIZE else str(node.input[0])


def compared(
    plain: onnx.ModelProto,
    quantized: onnx.ModelProto,
    keep_fp32: Collection[str] = (),
    *,
    only: Collection[str] | None = None,
    form: str = "integers",
    smooth: bool = True,
) -> tuple[int, list[str]]:
    """See `Quantizer.compare`: every product with a weight is quantized, but for those of the
    modules that are kept, and its weight lies within half a step of the fp32 file's.

    Args:
        only: names of the weights whose products are quantized, where not all of them are. The
            others have to be those of the fp32 file.
        form: what products are quantized to, in words.
        smooth: see `QdqFile.weight`.
    """
    file, wrong, count = QdqFile(quantized), [], 0
    for node, weight, expected in products_with_weight(plain):
        found = file.weight(_name(node), smooth=smooth)
        kept = _kept(weight, keep_fp32) if only is None else weight not in only
        if found is None:
            if not kept:
                wrong.append(f"the product of {weight} is not in {form}")
            elif only is not None and not file.has(_name(node), expected):
                wrong.append(f"{weight} should be in fp32, and is not that of the fp32 file")
            continue
        count += 1
        if kept:
            wrong.append(f"{weight} is in {form}, and should be in fp32")
        elif found.floating != (form == FP8):
            wrong.append(f"the product of {weight} is not in {form}")
        elif found.values.shape != expected.shape:
            wrong.append(
                f"{weight} has the shape {found.values.shape} in place of {expected.shape}"
            )
        elif not _near(found, expected):
            wrong.append(f"{weight} lies more than half a step from its fp32 values")
    if not count:
        wrong.append(f"nothing in the file is in {form}")
    return count, sorted({*wrong, *_compared_tables(plain, file)})


def other_constants(
    plain: onnx.ModelProto, quantized: onnx.ModelProto, without: Collection[str]
) -> list[str]:
    """What is in floats in both files and not the same, one sentence each: biases and norms.

    Args:
        without: names that are not looked at.
    """
    from onnx import numpy_helper

    ours = {i.name: i for i in plain.graph.initializer}
    return [
        f"{i.name} is not that of the fp32 file"
        for i in quantized.graph.initializer
        if i.name in ours.keys() - without
        and i.data_type == ours[i.name].data_type
        and not np.array_equal(numpy_helper.to_array(i), numpy_helper.to_array(ours[i.name]))
    ]


def weak_scales(model: onnx.ModelProto) -> list[str]:
    """Names of the scales in a file that are no positive numbers: TensorRT refuses them."""
    from onnx import numpy_helper

    constants = {i.name: i for i in model.graph.initializer}
    names = {n.input[1] for n in model.graph.node if n.op_type in (QUANTIZE, DEQUANTIZE)}
    arrays = {n: numpy_helper.to_array(constants[n]) for n in names & constants.keys()}
    return sorted(n for n, a in arrays.items() if not (np.isfinite(a) & (a > 0)).all())


def _floats() -> tuple[int, ...]:
    from onnx import TensorProto

    return (TensorProto.FLOAT8E4M3FN,)


def _steps(whole: np.ndarray) -> np.ndarray:
    """The distance from each number in FP8 (e4m3) to the next larger one: it has three bits of the
    fraction, and below 2^-6 the distance stays the same."""
    exponent = np.floor(np.log2(np.maximum(np.abs(whole), np.float32(2.0**-6))))
    return np.exp2(exponent - 3).astype(np.float32)


def _compared_tables(plain: onnx.ModelProto, file: QdqFile) -> list[str]:
    """What in the tables of embeddings is not that of the fp32 file, each in words."""
    from onnx import numpy_helper

    constants, wrong = {i.name: i for i in plain.graph.initializer}, []
    for node in plain.graph.node:
        if node.op_type != "Gather" or node.input[0] not in constants:
            continue
        expected = numpy_helper.to_array(constants[node.input[0]])
        ours = file.nodes.get(_name(node))
        if expected.ndim != 2 or expected.dtype != np.float32 or ours is None:
            continue
        found = file.stored(ours.input[0])
        if found is None:
            same = file.constants.get(ours.input[0])
            near = same is not None and np.array_equal(numpy_helper.to_array(same), expected)
        else:
            near = found.values.shape == expected.shape and _near(found, expected)
        if not near:
            wrong.append(
                f"the table {node.input[0]} lies more than half a step from its fp32 values"
            )
    return wrong


def _near(found: Stored, expected: np.ndarray) -> bool:
    return bool((np.abs(found.values - expected) <= found.half * ROUNDING + TINY).all())


def _kept(weight: str, keep_fp32: Collection[str]) -> bool:
    return module_of(weight) in keep_fp32


def _name(node: onnx.NodeProto) -> str:
    """By what a node is found again: what it makes keeps its name."""
    return str(node.output[0])
