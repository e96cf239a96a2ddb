"""The latency table of a job: one, and refused where it is another's."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper

import rfx.pipeline.table as tables
from rfx.core.errors import UsageError
from rfx.core.progress import Silent
from rfx.core.store import Store
from rfx.cost.alike import ModelShape, alike
from rfx.cost.latency import table_key
from rfx.cost.table import LatencyTable
from rfx.export.one_position import PROPERTY
from rfx.models.load import as_subject
from rfx.pipeline.session import Session, Target
from rfx.recipe.read import make_recipe
from rfx.runtimes.find import runtime
from tests.conftest import tokenizer
from tests.families import make

CURVES = {"mha": {0: 0.1, 4: 1.0}, "ffn": {0: 0.1, 48: 1.0}}


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A session, a subject, and the tables that were measured (by a stand-in for the clock)."""
    measured = []

    def measure_one(bench, **_):
        key = table_key(bench.runtime, bench.workload, bench.shape)
        made = LatencyTable(key, CURVES, 0.5, bench.shape.layers, additivity=({"error": 0.3},))
        measured.append(made)
        return measured[-1], False

    monkeypatch.setattr(tables, "load_or_measure", measure_one)
    monkeypatch.setattr(tables, "ADDITIVITY_LIMIT", 0.05)
    subject = as_subject(make("bert"), tokenizer(tmp_path), "a model")
    here = runtime("ort")
    return Session(Store(tmp_path / "store"), Target(here, here), Silent()), subject, measured


RECIPE = make_recipe({"budget": {"latency": 0.5}})


def get(session, subject, source, at_one=()):
    """The table of a job whose dense model computes these modules at one position alone."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        *([helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1])] for n in ("x", "y")),
    )
    model = helper.make_model(graph)
    helper.set_model_props(model, {PROPERTY: " ".join(at_one)})
    file = session.store.root / "dense.onnx"
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, file)
    dense = SimpleNamespace(engine=None, artefact=SimpleNamespace(files=(file,)))
    return source.get(session, RECIPE, subject, dense, ("logits",))


def test_a_job_has_one_table_even_where_it_is_too_inexact_to_be_kept(job):
    session, subject, measured = job
    source = tables.Tables()
    (first, known), (second, again) = (get(session, subject, source) for _ in range(2))
    assert first == second and (known, again) == (False, True)
    assert len(measured) == 1 and len(session.warnings) == 1


def test_a_table_of_another_device_or_depth_is_refused_and_says_what_differs(job):
    session, subject, _ = job
    table, _ = get(session, subject, tables.Tables())
    assert get(session, subject, tables.Tables(table)) == (table, True)
    elsewhere = replace(table, key=replace(table.key, device="another CPU"))
    for wrong, said in (
        (elsewhere, "another CPU"),
        (replace(table, layers=12), "layers: table 12"),
    ):
        with pytest.raises(UsageError, match="belongs to another") as refused:
            get(session, subject, tables.Tables(wrong))
        assert said in refused.value.got


def test_a_table_is_of_models_that_compute_the_same_sites_at_one_position(job):
    session, subject, _ = job
    mha, ffn = subject.sites[-2:]
    at_one = [ffn.output, *ffn.inputs, mha.output]
    whole, _ = get(session, subject, tables.Tables())
    part = replace(whole, shares={ffn.name: 0.05, mha.name: 0.4})
    assert get(session, subject, tables.Tables(part), at_one) == (part, True)
    for given, modules in ((whole, at_one), (part, ())):
        with pytest.raises(UsageError, match="belongs to another") as refused:
            get(session, subject, tables.Tables(given), modules)
        assert f"{ffn.name}, {mha.name}" in refused.value.got and "none" in refused.value.got
    counts = {"mha": [0, 2, 4], "ffn": [0, 48]}
    groups = alike(subject.sites, (mha.name, ffn.name))
    shape = ModelShape("bert/x", 32, 3, groups)
    rng = np.random.default_rng(0)
    drawn = [tables.random_plan(subject, counts, rng, shape).counts for _ in range(40)]
    assert {c[mha.name] for c in drawn} == {2, 4} and {c[ffn.name] for c in drawn} == {0, 48}
    assert {c[subject.sites[0].name] for c in drawn} == {0, 2, 4}
    left = tables.without_partial(subject, groups[0]).counts
    assert left == {s.name: 1 if s.name == mha.name else s.units for s in subject.sites}


def test_what_changes_no_cost_changes_no_table(job):
    """Models of other labels and another vocabulary have one table; another activation has its
    own."""
    session, subject, measured = job
    keys = []
    for more in ({}, {"num_labels": 5}, {"vocab_size": 99}, {"hidden_act": "relu"}):
        other = replace(subject, model=make("bert", **more))
        table, _ = get(session, other, tables.Tables())
        keys.append(table.key)
    assert keys[0] == keys[1] == keys[2] != keys[3] and len(measured) == 4
    assert keys[0].layout.startswith("bert/")
