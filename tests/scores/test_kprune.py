"""K-prune's knowledge measurement: its definition, no hole at the first sublayer, no dependence on batches or head size."""

import numpy as np
import pytest
import torch

from rfx.anatomy import find_sites
from rfx.plan import Plan
from rfx.scores.kprune import KPrune
from rfx.surgery.student import as_student
from tests.families import make
from tests.scores.labelled import TASKS, batches, examples


def test_representational_knowledge_is_what_the_unit_puts_into_the_output():
    model = make("bert")
    sites = find_sites(model)
    data = batches(examples(12), 4)
    scores = KPrune(lambda_pred=0.0, lambda_rep=1.0).score(model, sites, data, TASKS["text-classification"])
    site = sites[2]
    weight, tokens, total = model.get_submodule(site.output).weight, 0, np.zeros(site.units)
    for inputs, _ in data:
        seen = []
        handle = model.get_submodule(site.output).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        with torch.no_grad():
            model(**inputs)
        handle.remove()
        x = seen[0][inputs["attention_mask"].bool()]  # [t, channels]
        tokens += len(x)
        for u in range(site.units):
            for i in range(u * site.width, (u + 1) * site.width):
                total[u] += float((x[:, i : i + 1] * weight[:, i]).square().sum()) / weight.shape[0]
    np.testing.assert_allclose(scores.importance[site.name], 12 * total / tokens, rtol=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_every_sublayer_has_predictive_knowledge_the_first_too(task):
    model = make("bert", task)
    sites = find_sites(model)
    scores = KPrune(lambda_rep=0.0).score(model, sites, batches(examples(12), 4, task), TASKS[task])
    assert all((scores.importance[s.name] > 0).all() for s in sites)


def test_scores_do_not_depend_on_batches_or_padding():
    model = make("bert").double()
    sites = find_sites(model)
    rows = examples(11)
    wanted = KPrune().score(model, sites, batches(rows, 1), TASKS["text-classification"])
    for data, more in ((batches(rows, 4), {}), (batches(rows, 11, pad_to=30), {}), (batches(rows, 11), {"tokens_per_pass": 25})):
        scores = KPrune(**more).score(model, sites, data, TASKS["text-classification"])
        for s in sites:
            np.testing.assert_allclose(scores.importance[s.name], wanted.importance[s.name], rtol=1e-4)


def test_a_student_away_from_its_teacher_scores_higher():
    """The squared gradient of KL joins the Fisher information; without a teacher there is none."""
    model = make("bert").double()
    sites = find_sites(model)
    data, task = batches(examples(12), 4), TASKS["text-classification"]
    scorer = KPrune(lambda_rep=0.0)
    scorer.watch(model, data, task)
    plan = Plan.of(sites, {s.name: range(s.units // 2) for s in sites})
    with as_student(model, sites, plan):
        far = scorer.score(model, sites, data, task)
        near = KPrune(lambda_rep=0.0).score(model, sites, data, task)
    assert sum(far.importance[s.name].sum() for s in sites) > 1.01 * sum(near.importance[s.name].sum() for s in sites)
    removed = far.importance[sites[0].name][sites[0].units // 2 :]
    assert not removed.any()  # what is gone is worth nothing
