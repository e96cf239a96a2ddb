"""The sum before a normalisation, written as `Sum` instead of `Add`.

ONNX Runtime fuses `Add` and `LayerNormalization` into one kernel, `SkipLayerNormalization`. On a
CPU that is a scalar loop: at 128 tokens of 384 values it takes several times as long as the two
kernels that it replaces. It fuses them in every default session, and no option of a session can be
written into a file. `Sum` of two tensors is standard ONNX, computes the same, and is left alone.
`python -m benchmarks.exports` measures what it gains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def write_sums(model: onnx.ModelProto) -> int:
    """Make a `Sum` of every `Add` that a `LayerNormalization` normalises, in place. Names, inputs
    and outputs stay.

    Returns:
        How many there were.
    """
    normalised = {n.input[0] for n in model.graph.node if n.op_type == "LayerNormalization"}
    changed = 0
    for node in model.graph.node:
        if (
            node.op_type == "Add"
            and node.domain in ("", "ai.onnx")
            and node.output[0] in normalised
        ):
            node.op_type = "Sum"
            changed += 1
    return changed
