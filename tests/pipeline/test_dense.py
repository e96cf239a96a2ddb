"""The dense baseline is kept by all that its file says."""

from contextlib import contextmanager
from types import SimpleNamespace

import onnx
import pytest

import rfx.pipeline.dense as dense
from rfx.core.artefact import Artefact
from rfx.core.errors import UsageError
from rfx.core.plan import Plan
from rfx.core.registry import register
from rfx.core.store import Store
from rfx.core.workload import Workload
from rfx.export.onnx import OnnxExporter, export_onnx
from rfx.export.quantizers import onnxruntime as quantizer
from rfx.pipeline.quantizing import for_serving
from rfx.recipe.read import make_recipe
from rfx.runtimes.find import runtime_class
from tests.families import make, text_inputs
from tests.methods.search.problems import make_sites


def test_a_dense_file_of_another_workload_is_not_taken(tmp_path, monkeypatch, forgets):

    @register("exporter", "another")
    class Another(OnnxExporter):
        pass

    exported = []

    def export(recipe, subject, model, folder, outputs, plan, **more):
        exported.append(dense.workload_of(recipe))
        (folder / "model.onnx").write_bytes(b"a file")
        return Artefact.of_model(folder / "model.onnx", subject.inputs, outputs)

    @contextmanager
    def stage(name):
        yield SimpleNamespace()

    monkeypatch.setattr(dense, "export_model", export)
    monkeypatch.setattr(Plan, "dense", lambda sites: None)
    subject = SimpleNamespace(
        hash="h",
        source="a model",
        name="a model",
        sites=make_sites(1, 2, 8),
        model=None,
        inputs=text_inputs(),
    )
    session = SimpleNamespace(
        store=Store(tmp_path), stage=stage, build=lambda artefact, workload: None
    )

    def once(max_length=64, exporter="onnx", **workload):
        given = {"max_length": max_length, "exporter": exporter, "workload": workload}
        recipe = make_recipe(given)
        dense.dense_baseline(session, recipe, subject, ("logits",))

    once()
    once()
    assert len(exported) == 1
    for n, change in enumerate(
        (
            {"batch": 8},
            {"sequence": 64},
            {"precision": "fp16"},
            {"max_length": 32},
            {"exporter": "another"},
        ),
        2,
    ):
        once(**change)
        assert len(exported) == n
    monkeypatch.setattr(dense, "VERSION", 99)
    once()
    assert len(exported) == 7

    # Of a quantized file the CPU decides how many bits its weights have.
    session.target = SimpleNamespace(serves=runtime_class("ort")())
    for products, n in (("wide", 8), ("wide", 8), ("saturating", 9)):
        monkeypatch.setattr(quantizer, "int8_products", lambda products=products: products)
        made = for_serving(session, make_recipe({}), subject, None, "int8")
        dense.dense_at(session, make_recipe({}), subject, ("logits",), "int8", "rival", made)
        assert len(exported) == n


def test_versions_of_onnx_are_asked_only_of_an_exporter_that_knows_them(forgets):
    @register("exporter", "one version")
    class OneVersion:
        def export(self, model, folder, *, inputs, outputs, metadata, precision, name):
            raise AssertionError("it is not called")

    assert dense._asked(make_recipe({}), ()) == {}
    asked = {"opset": 18, "ir_version": 8}
    assert dense._asked(make_recipe(asked), ()) == asked
    kept = {"keep_fp32": ("a.dense", "b.dense")}
    assert dense._asked(make_recipe(asked), kept["keep_fp32"]) == asked | kept
    other = {"exporter": "one version"}
    assert dense._asked(make_recipe(other), ()) == {}
    with pytest.raises(UsageError, match="'one version' does not take") as error:
        dense._asked(make_recipe(other), kept["keep_fp32"])
    assert "keep_fp32" in error.value.got and "b.dense" in error.value.got
    with pytest.raises(UsageError, match="'one version' does not take") as error:
        dense._asked(make_recipe({**other, **asked}), ())
    assert error.value.got == "opset 18, ir_version 8"


@pytest.mark.parametrize(("opset", "version"), [(18, 8), (19, 9), (20, 10)])
def test_a_written_file_has_the_versions_that_were_asked_for(tmp_path, opset, version):
    """Older runtimes refuse a file by these two numbers."""
    names = ("input_ids", "attention_mask")
    file = export_onnx(
        make("bert", hidden_size=32, intermediate_size=64, num_hidden_layers=1),
        tmp_path / "model.onnx",
        inputs=text_inputs(names),
        output_names=("logits",),
        opset=opset,
        ir_version=version,
    )
    written = onnx.load(file)
    assert written.ir_version == version
    assert [o.version for o in written.opset_import if o.domain in ("", "ai.onnx")] == [opset]
    onnx.checker.check_model(written, full_check=True)
    assert runtime_class("ort")().build(file, Workload.of_text(sequence=8)) is not None


@pytest.mark.parametrize("opset", [19, 20])
def test_a_format_that_cannot_hold_the_operators_is_refused(opset):
    with pytest.raises(UsageError, match="needs an ir_version of at least 9, not 8"):
        make_recipe({"opset": opset, "ir_version": 8})
