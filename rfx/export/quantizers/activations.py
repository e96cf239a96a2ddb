"""Whether the activations of a model are finite on its calibration inputs: no scale fits others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rfx.core.errors import UsageError
from rfx.export.quantizers.base import Feed
from rfx.export.quantizers.products import module_of, products_with_weight

if TYPE_CHECKING:
    import onnx
    import onnxruntime


def require_finite_activations(model: onnx.ModelProto, feeds: Sequence[Feed]) -> None:
    """Run the model on its calibration inputs.

    Raises:
        UsageError: what enters a product with a weight, or comes out of the model, is not finite;
            the first such place is named.
    """
    import onnx
    from onnx import TensorProto, helper

    watched: dict[str, str] = {}
    for node, name, _ in products_with_weight(model):
        watched.setdefault(node.input[0], module_of(name))
    own = {v.name: f"the output {v.name}" for v in model.graph.output}
    places = {n: f"the input of {m}" for n, m in watched.items() if n not in own}
    given = {v.name for v in model.graph.input}
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    seen.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in places
        if name not in given
    )
    names = [*(n for n in places if n not in given), *own]
    session = _session(seen)
    for number, feed in enumerate(feeds, 1):
        for name, array in zip(names, session.run(names, dict(feed)), strict=True):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                where = places.get(name) or own[name]
                raise UsageError(
                    "An activation of the model is not finite, so that no scale fits it.",
                    got=f"{where}, on calibration example {number} of {len(feeds)}",
                    allowed="a model whose activations are finite numbers",
                    next_step="check the checkpoint and its data, or use --precision fp32",
                )


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
