"""The dense baseline is kept by all that its file says."""

from contextlib import contextmanager
from types import SimpleNamespace

import rfx.pipeline.dense as measure
from rfx.core.plan import Plan
from rfx.core.progress import Silent
from rfx.core.store import Store
from rfx.core.workload import Workload
from rfx.cost.latency import table_key
from rfx.cost.table import LatencyTable
from rfx.models.families.find import find_sites
from rfx.pipeline.session import Session
from rfx.recipe.read import make_recipe
from rfx.runtimes.find import runtime
from tests.families import make
from tests.methods.search.problems import make_sites


def test_a_dense_file_of_other_conditions_is_not_taken(tmp_path, monkeypatch):
    exported = []

    def export(run, subject, model, path, outputs, plan, **more):
        exported.append(run.workload)
        path.write_bytes(b"a file")

    @contextmanager
    def stage(name):
        yield SimpleNamespace()

    monkeypatch.setattr(measure, "export_model", export)
    monkeypatch.setattr(measure, "input_names", lambda subject: ("input_ids",))
    monkeypatch.setattr(Plan, "dense", lambda sites: None)
    subject = SimpleNamespace(hash="h", source="a model", sites=make_sites(1, 2, 8), model=None)

    def once(max_length=64, **workload):
        run = SimpleNamespace(
            workload=Workload.of_text(**workload),
            recipe=SimpleNamespace(max_length=max_length),
            store=Store(tmp_path),
            stage=stage,
            build=lambda file: None,
        )
        measure.baseline(run, subject, ("logits",))

    once()
    once()
    assert len(exported) == 1
    for n, change in enumerate(
        ({"batch": 8}, {"sequence": 64}, {"precision": "fp16"}, {"max_length": 32}), 2
    ):
        once(**change)
        assert len(exported) == n
    monkeypatch.setattr(measure, "DENSE_VERSION", 99)
    once()
    assert len(exported) == 6


def test_a_run_has_one_table_even_where_it_is_too_inexact_to_be_kept(tmp_path, monkeypatch):
    measured = []

    def measure_one(store, runtime, workload, shape, layers, **_):
        key = table_key(runtime, workload, shape)
        curves = {"mha": {0: 0.1, 4: 1.0}, "ffn": {0: 0.1, 48: 1.0}}
        measured.append(LatencyTable(key, curves, 0.5, layers, additivity=({"error": 0.3},)))
        return measured[-1], False

    monkeypatch.setattr(measure, "load_or_measure", measure_one)
    monkeypatch.setattr(measure, "ADDITIVITY_LIMIT", 0.05)
    model = make("bert")
    subject = SimpleNamespace(sites=find_sites(model), model=model, hidden=32, layers=3, hash="h")
    run = Session(
        make_recipe({"budget": {"latency": 0.5}}), Store(tmp_path), runtime("ort"), Silent()
    )
    first, second = (
        measure.latency_table(run, subject, SimpleNamespace(engine=None), ("logits",))
        for _ in range(2)
    )
    assert first == second and len(measured) == 1 and len(run.warnings) == 1
