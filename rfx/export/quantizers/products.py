"""The products of an fp32 file that are quantized: those with a weight."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from rfx.core.errors import UnsupportedModelError

if TYPE_CHECKING:
    import onnx

PRODUCTS = ("MatMul", "Gemm")


def products_with_weight(
    model: onnx.ModelProto, keep: Collection[str] = ()
) -> Iterator[tuple[onnx.NodeProto, str, np.ndarray]]:
    """The products of a file that have a weight: node, name and values of the weight, [inputs,
    outputs]. Emptied products, with no inputs or no outputs, are none.

    Args:
        keep: paths of modules that are left out.
    """
    from onnx import numpy_helper

    constants = {i.name: i for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in PRODUCTS or node.input[1] not in constants:
            continue
        weight = constants[node.input[1]]
        if module_of(weight.name) in keep:
            continue
        if len(weight.dims) == 2 and 0 not in weight.dims:
            array = numpy_helper.to_array(weight)
            yield node, weight.name, array.T if is_turned(node) else array


def is_turned(node: onnx.NodeProto) -> bool:
    """Whether a product reads its weight as [outputs, inputs]."""
    return any(a.name == "transB" and a.i for a in node.attribute)


def weights_of_products(
    model: onnx.ModelProto, keep: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """The weights of `products_with_weight`, by name: what is quantized. [inputs, outputs] each."""
    return {name: weight for _, name, weight in products_with_weight(model, keep)}


def module_of(weight: str) -> str:
    """The path of the module that a weight of a file belongs to (see `rfx.export.names`)."""
    return weight.removesuffix(".T").removesuffix(".weight")


def require_finite(weights: Iterable[tuple[str, np.ndarray]]) -> None:
    """Raises UnsupportedModelError for a weight with a value that is not finite."""
    for name, array in weights:
        if not np.isfinite(array).all():
            raise UnsupportedModelError(
                f"The weight {name} has a value that is not finite.",
                next_step="check the checkpoint",
            )
