"""Exported files: names, dynamic shapes, metadata, weights named after their modules; blocks like
those of the models."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

import rfx.export.onnx as onnx_export
from rfx.core.errors import InternalCheckError, UnsupportedModelError
from rfx.core.plan import Plan
from rfx.export import traced
from rfx.export.onnx import export_onnx, plan_metadata, shape_mismatches, site_shapes
from rfx.models.families.find import find_sites
from rfx.models.shrink import shrink
from tests.families import make, text_inputs

NAMES = ("input_ids", "attention_mask")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = make("bert")
    sites = find_sites(model)
    plan = Plan.of(sites, {s.name: range(s.units // 2) for s in sites} | {"layer.1.ffn": ()})
    file = tmp_path_factory.mktemp("export") / "m.onnx"
    export_onnx(
        shrink(model, sites, plan),
        file,
        inputs=text_inputs(NAMES),
        output_names=("logits",),
        metadata=plan_metadata(plan, source="here"),
    )
    return model, sites, plan, file


def test_inputs_are_named_and_dynamic(exported):
    _, _, _, file = exported
    graph = onnx.load(file).graph
    assert [i.name for i in graph.input] == list(NAMES) and [o.name for o in graph.output] == [
        "logits"
    ]
    for value in graph.input:
        assert [d.dim_param for d in value.type.tensor_type.shape.dim] == ["batch", "sequence"]
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    for batch, tokens in ((1, 3), (5, 40)):
        ids = np.ones((batch, tokens), np.int64)
        assert session.run(None, {"input_ids": ids, "attention_mask": ids})[0].shape == (batch, 2)


def test_metadata_say_what_it_is(exported):
    _, _, plan, file = exported
    proto = onnx.load(file)
    found = {p.key: p.value for p in proto.metadata_props}
    assert (
        found["rfx.plan"] == plan.hash
        and found["rfx.heads"] == "2,2,2"
        and found["rfx.filters"] == "24,0,24"
    )
    assert found["rfx.tool"].startswith("rfx ") and found["rfx.source"] == "here"
    text = str(proto.graph.node)
    # Nothing of the machine it was made on.
    assert "/site-packages/" not in text and "stack_trace" not in text


def test_shapes_are_held_against_the_plan(exported):
    _model, sites, plan, file = exported
    assert shape_mismatches(file, sites, plan) == []
    assert set(site_shapes(file, sites)["layer.1.ffn"].values()) == {0}
    wrong = shape_mismatches(file, sites, Plan.dense(sites))
    assert len(wrong) == 3 * 4 + 3 * 2 and "the plan keeps" in wrong[0]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_model_and_its_settings_are_left_alone(implementation, tmp_path):
    model = make("bert")
    model.config._attn_implementation = implementation
    before = {k: v.clone() for k, v in model.state_dict().items()}
    export_onnx(model, tmp_path / "m.onnx", inputs=text_inputs(NAMES), output_names=("logits",))
    assert model.config._attn_implementation == implementation
    assert {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])} == set()
    assert [n for n, p in model.named_parameters() if p.grad is not None] == []


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_model_that_one_file_cannot_hold_is_refused(precision, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "LARGEST_FILE", 20_000)
    with pytest.raises(UnsupportedModelError, match="one ONNX file"):
        export_onnx(
            make("bert"),
            tmp_path / "m.onnx",
            inputs=text_inputs(NAMES),
            output_names=("logits",),
            precision=precision,
        )
    assert not list(tmp_path.iterdir())


def test_an_export_that_fails_leaves_no_file(tmp_path):
    model = make("bert")
    with pytest.raises(InternalCheckError, match="export"):
        export_onnx(
            model, tmp_path / "m.onnx", inputs=text_inputs(NAMES), output_names=("no_such_output",)
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("opset", "ir_version"), [(18, 8), pytest.param(19, 9, marks=pytest.mark.slow), (20, 9)]
)
def test_a_file_of_older_versions_computes_the_same(opset, ir_version, tmp_path):
    model = make("bert", num_hidden_layers=1)
    versions = {"opset": opset, "ir_version": ir_version}
    spec = {"inputs": text_inputs(NAMES), "output_names": ("logits",)}
    file = export_onnx(model, tmp_path / "m.onnx", **spec, **versions)
    proto = onnx.load(file)
    assert [o.version for o in proto.opset_import] == [opset] and proto.ir_version == ir_version
    sites = find_sites(model)
    assert shape_mismatches(file, sites, Plan.dense(sites)) == []  # every weight has its name
    ids = torch.arange(2, 16).reshape(2, 7)
    given = {"input_ids": ids.numpy(), "attention_mask": np.ones((2, 7), np.int64)}
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        wanted = model(input_ids=ids).logits.numpy()
    np.testing.assert_allclose(session.run(None, given)[0], wanted, atol=1e-5)


def test_an_interrupt_in_an_export_is_one(tmp_path, monkeypatch):
    """PyTorch's C++ keeps its name alone, in the text of an error of another kind."""

    def fail(*args, **more):
        raise TypeError(
            'empty_strided(): argument must be int, not "KeyboardInterrupt: <EMPTY MESSAGE>"'
        )

    traced.forget()
    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(KeyboardInterrupt):
        export_onnx(
            make("bert"), tmp_path / "m.onnx", inputs=text_inputs(NAMES), output_names=("logits",)
        )
    assert not list(tmp_path.iterdir())
