"""The student in the dense shape computes what the shrunk model computes, and leaves the model as
it was."""

import numpy as np
import pytest
import torch

from rfx.core.plan import Kind, Plan, Update
from rfx.models.families.find import find_sites
from rfx.models.shrink import shrink
from rfx.models.student import as_student
from tests.families import NAMED, make


@pytest.mark.parametrize("family", NAMED)
def test_the_student_is_the_shrunk_model(family):
    model = make(family).double()
    sites = find_sites(model)
    rng = np.random.default_rng(0)
    kept = {s.name: sorted(rng.choice(s.units, s.units // 2, replace=False)) for s in sites}
    kept[sites[0].name] = []  # emptied: attention
    kept[sites[3].name] = []  # and a feed-forward network
    plan = Plan.of(sites, kept)
    d = model.get_submodule(sites[0].output).out_features
    update = Update(
        scales={sites[2].name: rng.normal(size=sites[2].units)},
        weights={
            s.name: rng.normal(size=(d, len(kept[s.name]) * s.width))
            for s in sites[4:]
            if kept[s.name]
        },
        biases={s.name: rng.normal(size=d) for s in sites if s.kind is Kind.MHA},
    )
    inputs = {
        "input_ids": torch.randint(3, 120, (2, 9)),
        "attention_mask": torch.ones(2, 9, dtype=torch.int64),
    }
    with torch.no_grad():
        dense = model(**inputs).logits
        with as_student(model, sites, plan, update):
            student = model(**inputs).logits
        torch.testing.assert_close(student, shrink(model, sites, plan, update)(**inputs).logits)
        torch.testing.assert_close(model(**inputs).logits, dense, rtol=0, atol=0)
    assert not torch.allclose(student, dense)


def test_the_model_comes_back_after_an_error():
    model = make("bert")
    sites = find_sites(model)
    before = [model.get_submodule(s.output).weight for s in sites]
    with (
        pytest.raises(RuntimeError),
        as_student(model, sites, Plan.of(sites, {s.name: [] for s in sites})),
    ):
        raise RuntimeError
    assert all(a is model.get_submodule(s.output).weight for a, s in zip(before, sites))
