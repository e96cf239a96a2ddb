"""The dense baseline is kept by all that its file says."""

from contextlib import contextmanager
from types import SimpleNamespace

import rfx.stages.measure as measure
from rfx.plan import Plan
from rfx.runtimes.base import Conditions
from rfx.store import Store
from tests.search.problems import make_sites


def test_a_dense_file_of_other_conditions_is_not_taken(tmp_path, monkeypatch):
    exported = []

    def export(run, loaded, model, path, outputs, plan, **more):
        exported.append(run.conditions)
        path.write_bytes(b"a file")

    @contextmanager
    def stage(name):
        yield SimpleNamespace()

    monkeypatch.setattr(measure, "export_model", export)
    monkeypatch.setattr(measure, "input_names", lambda loaded: ("input_ids",))
    monkeypatch.setattr(Plan, "dense", lambda sites: None)
    loaded = SimpleNamespace(hash="h", source="a model", sites=make_sites(1, 2, 8), model=None)

    def once(max_length=64, **conditions):
        run = SimpleNamespace(conditions=Conditions(**conditions), recipe=SimpleNamespace(max_length=max_length), store=Store(tmp_path),
                              stage=stage, build=lambda file: None)  # fmt: skip
        measure.baseline(run, loaded, ("logits",))

    once()
    once()
    assert len(exported) == 1
    for n, change in enumerate(({"batch": 8}, {"sequence": 64}, {"precision": "fp16"}, {"max_length": 32}), 2):
        once(**change)
        assert len(exported) == n
    monkeypatch.setattr(measure, "DENSE_VERSION", 99)
    once()
    assert len(exported) == 6
