"""K-prune's knowledge measurement: its definition, no hole at the first sublayer, no dependence on
batches, regressions."""

import numpy as np
import pytest
import torch

from rfx.core.plan import Plan
from rfx.methods.scores.kprune import KPrune
from rfx.models.families.find import find_sites
from rfx.models.student import as_student
from tests.families import make
from tests.methods.scores.labelled import TASKS, batches, examples


def test_representational_knowledge_is_what_the_unit_puts_into_the_output():
    model = make("bert")
    sites = find_sites(model)
    data = batches(examples(12), 4)
    scores = KPrune(lambda_pred=0.0, lambda_rep=1.0).score(
        model, sites, data, TASKS["text-classification"]
    )
    site = sites[2]
    weight, tokens, total = model.get_submodule(site.output).weight, 0, np.zeros(site.units)
    for inputs, _ in data:
        seen = []
        handle = model.get_submodule(site.output).register_forward_pre_hook(
            lambda _, args, seen=seen: seen.append(args[0])
        )
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
    for data, more in (
        (batches(rows, 4), {}),
        (batches(rows, 11, pad_to=30), {}),
        (batches(rows, 11), {"tokens_per_pass": 25}),
    ):
        scores = KPrune(**more).score(model, sites, data, TASKS["text-classification"])
        for s in sites:
            np.testing.assert_allclose(
                scores.importance[s.name], wanted.importance[s.name], rtol=1e-4
            )


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
    assert sum(far.importance[s.name].sum() for s in sites) > 1.01 * sum(
        near.importance[s.name].sum() for s in sites
    )
    removed = far.importance[sites[0].name][sites[0].units // 2 :]
    assert not removed.any()  # what is gone is worth nothing


def test_a_regression_has_the_squared_error_of_its_teacher():
    """Of outputs [batch, 1] against a teacher's [batch, 1]: no example is compared with another's
    (STS-B's broadcasting)."""
    model = make("bert", "regression").double()
    sites = find_sites(model)
    task = TASKS["regression"]
    rows = examples(11)
    scorer = KPrune(lambda_rep=0.0)
    plan = Plan.of(sites, {s.name: range(s.units // 2) for s in sites})

    def scores(size):
        data = batches(rows, size, "regression")
        scorer.watch(model, data, task)
        with as_student(model, sites, plan):
            return scorer.score(model, sites, data, task), KPrune(lambda_rep=0.0).score(
                model, sites, data, task
            )

    (far, near), (one_by_one, _) = scores(4), scores(1)
    teacher = [model(**inputs).logits[0, 0] for inputs, _ in batches(rows, 1, "regression")]
    site = sites[-1]
    total = np.zeros(site.units)
    with as_student(model, sites, plan):
        for (inputs, _), wanted in zip(batches(rows, 1, "regression"), teacher, strict=True):
            seen = []
            handle = model.get_submodule(site.output).register_forward_pre_hook(
                lambda _, args, seen=seen: seen.append(args[0])
            )
            z = model(**inputs).logits[0, 0]
            handle.remove()
            g = torch.autograd.grad(z, seen[0])[0]
            # Gradient in the unit's mask.
            unit = (g * seen[0]).sum((0, 1)).view(site.units, site.width).sum(1)
            total += 0.5 * (unit.square() * (1 + (z - wanted).square())).detach().numpy()
    np.testing.assert_allclose(far.importance[site.name], total, rtol=1e-4)
    for s in sites:
        np.testing.assert_allclose(far.importance[s.name], one_by_one.importance[s.name], rtol=1e-4)
    assert far.importance[site.name].sum() > near.importance[site.name].sum()
