"""The encoders of the GPU benchmark are made of the blocks that an exported model has."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from benchmarks.blocks import BlockShape, stack, stack_inputs
from rfx.core.workload import Workload
from rfx.export.onnx import export_onnx
from rfx.runtimes.find import runtime
from tests.families import make, text_inputs

NAMES = ("input_ids", "attention_mask")


def ops(model_bytes: bytes, optimized: bool, tmp_path) -> Counter:
    """Operators of a graph, as it is or after ONNX Runtime's optimisations."""
    if optimized:
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        options.log_severity_level = 4
        ort.InferenceSession(model_bytes, options, providers=["CPUExecutionProvider"])
        proto = onnx.load(tmp_path / "optimized.onnx")
    else:
        proto = onnx.load_from_string(model_bytes)
    return Counter(n.op_type for n in proto.graph.node)


@pytest.mark.parametrize("optimized", [False, True])
def test_a_block_of_a_stack_is_a_block_of_the_model(optimized, tmp_path):
    """What one more layer adds to the exported model is what it adds to a stack, before and after
    fusion."""
    per_layer = []
    for depth in (2, 3):
        model = make("bert", num_hidden_layers=depth)
        file = export_onnx(
            model, tmp_path / f"{depth}.onnx", inputs=text_inputs(NAMES), output_names=("logits",)
        )
        per_layer.append(ops(file.read_bytes(), optimized, tmp_path))
    added = per_layer[1] - per_layer[0]
    shape = BlockShape(32, 4, 8, 48)
    stacks = [
        ops(stack(shape, [(4, 48)] * d).SerializeToString(), optimized, tmp_path) for d in (2, 3)
    ]
    assert stacks[1] - stacks[0] == added
    if optimized:
        assert sum(added.values()) < sum((per_layer[0] - Counter()).values())


def test_blocks_of_which_there_are_none_are_refused():
    for more in ({"activation": "swish"}, {"layout": "sandwich"}):
        with pytest.raises(ValueError, match="there are blocks of"):
            BlockShape(32, 4, 8, 48, **more)
    with pytest.raises(ValueError):
        stack(BlockShape(32, 4, 8, 48), [(5, 48)])


def test_stacks_are_valid_and_smaller_with_fewer_units():
    shape = BlockShape(32, 4, 8, 64)
    here = runtime("ort")
    for layers in ([(4, 64)] * 2, [(1, 32), (0, 64), (4, 0), (0, 0)]):
        model = stack(shape, layers)
        onnx.checker.check_model(model, full_check=True)
        engine = here.build_model(model.SerializeToString(), Workload())
        for batch, sequence in ((1, 5), (3, 7)):
            out = engine.run(stack_inputs(shape, batch, sequence))["output"]
            assert out.shape == (batch, sequence, 32) and np.isfinite(out).all()
    assert stack(shape, [(2, 32)]).ByteSize() < stack(shape, [(4, 64)]).ByteSize()
