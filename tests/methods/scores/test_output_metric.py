"""Removal under the output metric: invariances, curves that rise, damage as measured where that is
asked for."""

import numpy as np
import pytest
import torch

from rfx.core.plan import Kind, Plan, Update
from rfx.methods.compensate.projection import reconstruct
from rfx.methods.scores.divergence import collect_outputs, mean_divergence
from rfx.methods.scores.output_metric import OutputMetric
from rfx.models.families.find import find_sites
from rfx.models.student import as_student
from tests.families import make
from tests.methods.scores.labelled import TASKS, batches, examples


def test_the_output_metric_does_not_depend_on_batches_or_padding():
    model = make("bert").double()
    sites = find_sites(model)
    rows, task = examples(11), TASKS["text-classification"]
    wanted = OutputMetric().score(model, sites, batches(rows, 1), task)
    for data, more in (
        (batches(rows, 4), {}),
        (batches(rows, 11, pad_to=30), {}),
        (batches(rows, 11), {"tokens_per_pass": 25}),
    ):
        scores = OutputMetric(**more).score(model, sites, data, task)
        for s in sites:
            np.testing.assert_array_equal(scores.orders[s.name], wanted.orders[s.name])
            np.testing.assert_allclose(
                scores.importance[s.name], wanted.importance[s.name], rtol=1e-3
            )
            np.testing.assert_allclose(
                scores.token_weights[s.name], wanted.token_weights[s.name], rtol=1e-3, atol=1e-12
            )


@pytest.mark.parametrize("task", TASKS)
def test_curves_rise_and_orders_are_whole(task):
    model = make("bert", task)
    sites = find_sites(model)
    before = {n: p.clone() for n, p in model.state_dict().items()}
    scores = OutputMetric().score(model, sites, batches(examples(20), 4, task), TASKS[task])
    for site in sites:
        added = scores.importance[site.name][scores.orders[site.name]]
        assert (added >= 0).all() and added.sum() > 0
        assert sorted(scores.orders[site.name]) == list(range(site.units))
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())


def test_what_goes_first_hurts_the_output_less_than_what_goes_last_once_the_rest_made_up_for_it():
    model = make("bert")
    sites = find_sites(model)
    data, task = batches(examples(80), 8), TASKS["text-classification"]
    orders = OutputMetric().score(model, sites, data, task).orders
    dense = collect_outputs(model, data, task)

    def without(site, gone):
        masks = {s.name: np.ones(s.units) for s in sites}
        masks[site.name][list(gone)] = 0
        found = reconstruct(model, sites, masks, data, head_positions="first")
        plan = Plan.of(sites, {name: np.flatnonzero(m) for name, m in masks.items()})
        with as_student(model, sites, plan, Update(weights=found.weights, biases=found.biases)):
            return mean_divergence(model, data, dense, task)

    halves = {
        s.name: (orders[s.name][: s.units // 2], orders[s.name][s.units // 2 :]) for s in sites
    }
    first, last = (sum(without(s, halves[s.name][i]) for s in sites) for i in (0, 1))
    assert first < 0.7 * last


def test_measured_damage_is_the_divergence_of_the_re_solved_site():
    model = make("bert").double()
    sites = find_sites(model)
    data, task = batches(examples(40), 8), TASKS["text-classification"]
    plain, measured = (
        OutputMetric(points=p, examples=40).score(model, sites, data, task) for p in (0, 4)
    )
    for site in sites:
        np.testing.assert_array_equal(measured.orders[site.name], plain.orders[site.name])
    # With every unit gone only the bias is left to make up for it: the mean output of the site,
    # tokens weighted.
    site = next(s for s in sites if s.kind is Kind.FFN)
    total = measured.importance[site.name].sum()
    dense = collect_outputs(model, data, task)
    with as_student(model, [site], Plan.of([site], {site.name: []})):
        bare = 40 * mean_divergence(model, data, dense, task)
    assert 0 < total < 1.5 * bare and total != pytest.approx(plain.importance[site.name].sum())
    module, features = model.get_submodule(site.output), []
    handle = module.register_forward_pre_hook(lambda _m, args: features.append(args[0]))
    collect_outputs(model, data, task)
    handle.remove()
    # [real tokens, n]
    tokens = torch.cat(
        [x[inputs["attention_mask"].bool()] for x, (inputs, _) in zip(features, data)]
    )
    # The features' mean goes by the squared gradient; what is kept for the reconstruction is its
    # root (and 2 % of even weight in it).
    weights = torch.as_tensor(measured.token_weights[site.name]).double().square()
    mean = (tokens * weights[:, None]).sum(0) / weights.sum()
    bias = (module.bias + module.weight @ mean).detach().numpy()
    with as_student(
        model, [site], Plan.of([site], {site.name: []}), Update(biases={site.name: bias})
    ):
        assert total == pytest.approx(40 * mean_divergence(model, data, dense, task), rel=1e-3)
