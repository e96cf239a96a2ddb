"""What is timed and what a graph is fed are values that go through JSON unchanged."""

import json
from pathlib import Path

import numpy as np
import pytest

from rfx.core.artefact import Artefact, Graph
from rfx.core.inputs import InputSpec, TensorInput
from rfx.core.workload import Workload

TEXT = InputSpec.of_text(("input_ids", "attention_mask"), vocabulary=500, positions=64)
IMAGES = InputSpec(
    (TensorInput("pixel_values", "float32", ("batch", 3, "height", "width"), "normal"),),
    {"height": 64, "width": 64},
)


def test_a_workload_of_text_names_its_tokens():
    workload = Workload.of_text(batch=2, sequence=16, threads=4, precision="fp16")
    assert (workload.batch, workload.sequence, workload.phase) == (2, 16, "encode")
    assert Workload.from_json(json.loads(json.dumps(workload.to_json()))) == workload
    assert {workload, Workload.of_text(batch=2, sequence=16, threads=4, precision="fp16")} == {
        workload
    }


def test_a_workload_is_frozen_and_one_of_images_has_no_tokens():
    workload = Workload(1, {"height": 8, "width": 16})
    with pytest.raises(TypeError):
        workload.axes["height"] = 1
    with pytest.raises(KeyError):
        _ = workload.sequence


@pytest.mark.parametrize("spec", [TEXT, IMAGES], ids=["text", "images"])
def test_a_specification_goes_through_json(spec):
    assert InputSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_examples_have_the_workloads_shapes_and_the_inputs_types():
    found = IMAGES.example(Workload(2, {"height": 8, "width": 16}), seed=3)
    assert found["pixel_values"].shape == (2, 3, 8, 16)
    assert found["pixel_values"].dtype == np.float32 and found["pixel_values"].std() > 0.5
    assert IMAGES.dynamic_axes == ("batch", "height", "width")
    with pytest.raises(KeyError):  # nobody says how high the images are
        IMAGES.example(Workload.of_text())


def test_the_same_seed_gives_the_same_tokens_and_another_gives_others():
    workload = Workload.of_text(batch=2, sequence=16)
    first, again, other = (TEXT.example(workload, seed=s)["input_ids"] for s in (0, 0, 1))
    assert (first == again).all() and (first != other).any()
    assert list(TEXT.example(workload, names=("attention_mask",))) == ["attention_mask"]


def test_an_artefact_of_one_graph_has_a_file_and_one_of_several_has_roles():
    one = Artefact.of_model(Path("model.onnx"), TEXT, ("logits",))
    assert one.roles == ("model",) and one.file == Path("model.onnx")
    graphs = {r: Graph(Path(f"{r}.onnx"), TEXT, ("out",)) for r in ("encoder", "decoder")}
    two = Artefact(graphs, {"tool": "rfx"})
    assert two.roles == ("encoder", "decoder")
    with pytest.raises(ValueError, match="encoder, decoder"):
        _ = two.file
