"""The dense baseline is kept by all that its file says."""

from contextlib import contextmanager
from types import SimpleNamespace

import rfx.pipeline.dense as dense
from rfx.core.artefact import Artefact
from rfx.core.plan import Plan
from rfx.core.registry import register
from rfx.core.store import Store
from rfx.export.onnx import OnnxExporter
from rfx.recipe.read import make_recipe
from tests.families import text_inputs
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
        hash="h", source="a model", sites=make_sites(1, 2, 8), model=None, inputs=text_inputs()
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
