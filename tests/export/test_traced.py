"""A graph that was traced before, with the weights of another model of the same structure."""

import pytest
import torch

from rfx.core.plan import Plan
from rfx.export import traced
from rfx.export.onnx import export_onnx
from rfx.models.families.find import find_sites
from rfx.models.shrink import shrink
from tests.families import make, text_inputs

ONE_LAYER = {"bert": {"num_hidden_layers": 1}, "distilbert": {"n_layers": 1}}
INPUTS = text_inputs(("input_ids", "attention_mask"))


@pytest.fixture(autouse=True)
def nothing_kept():
    traced.forget()
    yield
    traced.forget()


@pytest.fixture
def traces(monkeypatch):
    """How often PyTorch's exporter was called."""
    calls = []
    export = torch.onnx.export

    def counted(*given, **more):
        calls.append(1)
        return export(*given, **more)

    monkeypatch.setattr(torch.onnx, "export", counted)
    return calls


def write(model, file):
    return export_onnx(model, file, inputs=INPUTS, output_names=("logits",)).read_bytes()


@pytest.mark.parametrize("family", ["bert", pytest.param("distilbert", marks=pytest.mark.slow)])
def test_a_pruned_file_is_the_one_that_tracing_it_gives(family, traces, tmp_path):
    model = make(family, **ONE_LAYER[family])
    sites = find_sites(model)
    kept = {s.name: range(1 + i % (s.units - 1)) for i, s in enumerate(sites)}  # all unequal
    small = shrink(model, sites, Plan.of(sites, kept))
    dense = write(model, tmp_path / "dense.onnx")
    reused = write(small, tmp_path / "reused.onnx")
    assert len(traces) == 1
    traced.forget()
    assert write(small, tmp_path / "traced.onnx") == reused != dense
    assert len(traces) == 2
    assert write(model, tmp_path / "dense.onnx") == dense and len(traces) == 2  # and back again


def test_another_structure_and_another_function_are_traced(traces, tmp_path):
    model = make("bert", **ONE_LAYER["bert"])
    write(model, tmp_path / "m.onnx")
    sites = find_sites(model)
    emptied = Plan.of(sites, {s.name: range(s.units) for s in sites} | {"layer.0.ffn": ()})
    small = shrink(model, sites, emptied)
    first = write(small, tmp_path / "m.onnx")
    assert len(traces) == 2
    # The bias that is left of the sublayer was folded into a constant of another shape: it is
    # another model's own all the same.
    with torch.no_grad():
        small.bert.encoder.layer[0].output.dense.bias.add_(1.0)
    assert write(small, tmp_path / "m.onnx") != first and len(traces) == 2
    # What no name and no configuration tells, the proof does.
    model.bert.encoder.layer[0].attention.self.scaling *= 3
    changed = write(model, tmp_path / "m.onnx")
    assert len(traces) == 3
    traced.forget()
    assert write(model, tmp_path / "m.onnx") == changed


def test_a_graph_is_not_kept_where_a_constant_may_be_a_weight():
    import numpy as np
    from onnx import helper, numpy_helper

    model = make("bert")
    rng = np.random.default_rng(0)

    def kept_with(array):
        proto = helper.make_model(
            helper.make_graph([], "g", [], [], [numpy_helper.from_array(array, "val")])
        )
        traced.keep("key", proto, model)
        return traced.with_weights("key", model, INPUTS, ()) is not None

    assert not kept_with(rng.standard_normal((3, 5)).astype(np.float32))
    assert not kept_with(np.zeros(32, np.float32))  # several biases are equal to it, or none is
    assert kept_with(np.arange(5)) and kept_with(np.float32(0.5).reshape(()))
