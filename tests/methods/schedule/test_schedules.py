"""Schedules on a trained_deeper model: budgets hold, rounds are nested, the sequential one sees the
student, the guard judges."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rfx.core.errors import InfeasibleError, UsageError
from rfx.core.plan import Update
from rfx.core.registry import find, names
from rfx.cost.flops import FlopsCost
from rfx.cost.latency_cost import LatencyCost
from rfx.cost.table import LatencyTable, TableKey
from rfx.methods.build import build
from rfx.methods.compensate.base import Compensated, Compensator
from rfx.methods.schedule.base import Ground
from rfx.methods.schedule.guard import guard
from rfx.methods.schedule.sequential import Sequential
from rfx.methods.scores.divergence import collect_outputs, mean_divergence
from rfx.models.families.find import find_sites
from rfx.models.student import as_student
from rfx.recipe.presets import PRESETS
from rfx.tasks.calibration import Batches
from rfx.tasks.find import task_class
from tests.conftest import sentences


@pytest.fixture(scope="module")
def model(trained_deeper):
    import transformers

    return transformers.AutoModelForSequenceClassification.from_pretrained(
        trained_deeper["model"]
    ).eval()


@pytest.fixture(scope="module")
def task(trained_deeper):
    import transformers

    return task_class("text-classification")(
        transformers.AutoTokenizer.from_pretrained(trained_deeper["model"]),
        num_labels=2,
        id2label={0: "0", 1: "1"},
        max_length=32,
    )


@pytest.fixture(scope="module")
def examples(task):
    return task.encode(task.examples(sentences(120, 0)))


def ground_of(model, task, examples, method):
    m = PRESETS[method] if isinstance(method, str) else method
    built = build(m, seed=0, labelled=True)
    cost = FlopsCost(64, 10.0)
    return built.ground(
        model, find_sites(model), Batches(task, examples, 16), task, built.searcher(cost)
    )


def run(ground, name, share, **options):
    scores = ground.score()
    result = ground.searcher(ground.sites, scores, share * ground.searcher.cost.dense(ground.sites))
    return find("schedule", name)(**options).run(ground, scores, result), result


def cost(ground, plan):
    cost = ground.searcher.cost
    return cost.predict(ground.sites, plan.choices(cost.precision))


@pytest.mark.parametrize(
    "method, name",
    [
        ("rfx", "oneshot"),
        ("kwon", "oneshot"),
        ("kprune", "sequential"),
        ("rfx", "sequential"),
        ("rfx", "iterated"),
        ("kwon", "iterated"),
    ],
)
@pytest.mark.parametrize("share", [0.15, 0.5, 0.9])
def test_the_budget_holds_and_where_much_is_gone_the_output_comes_nearer(
    model, task, examples, method, name, share
):
    ground = ground_of(model, task, examples, method)
    before = {n: p.clone() for n, p in model.state_dict().items()}
    outcome, _ = run(ground, name, share)
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())
    dense = ground.searcher.cost.dense(ground.sites)
    assert 0.6 * share * dense <= cost(ground, outcome.plan) <= share * dense * (1 + 1e-9)
    assert [r.site for r in outcome.sites] == [s.name for s in ground.sites]
    if share < 0.2 and method != "kwon":
        # With more units kept there is next to nothing to repair on this task.
        judged = guard(ground, outcome)
        assert (judged.outcome is outcome) == (judged.divergence_after < judged.divergence_before)
        assert judged.outcome is outcome


@pytest.mark.parametrize("method", ["rfx", "kwon"])
def test_rounds_are_nested(model, task, examples, monkeypatch, method):
    ground = ground_of(model, task, examples, method)
    plans = []
    fit = Ground.compensate
    monkeypatch.setattr(
        Ground,
        "compensate",
        lambda self, plan, scores: plans.append(plan) or fit(self, plan, scores),
    )
    run(ground, "iterated", 0.3, rounds=3)
    assert len(plans) == 3
    for wide, narrow in itertools.pairwise(plans):
        assert all(set(narrow[s.name].kept) <= set(wide[s.name].kept) for s in ground.sites)
        assert cost(ground, narrow) < cost(ground, wide)


def test_the_sequential_schedule_scores_what_is_left_on_the_student(
    model, task, examples, monkeypatch
):
    ground = ground_of(model, task, examples, "kprune")
    dense = collect_outputs(model, ground.batches, task)
    seen = []
    score = Ground.score

    def watched(self, sites=None, resumed=None):
        if sites is not None:
            seen.append((len(sites), mean_divergence(self.model, self.batches, dense, self.task)))
        return score(self, sites, resumed)

    monkeypatch.setattr(Ground, "score", watched)
    run(ground, "sequential", 0.3)
    total = len(ground.sites)
    # The first sublayer goes by the one-shot scores.
    assert [n for n, _ in seen] == list(range(total - 1, 0, -1))
    assert seen[-1][1] > 0


def test_an_infeasible_budget_is_the_searchs_to_refuse(model, task, examples):
    ground = ground_of(model, task, examples, "rfx")
    with pytest.raises(InfeasibleError):
        ground.searcher(ground.sites, ground.score(), -1.0)


@pytest.mark.parametrize("least", [0.1, 0.3, 0.7])
def test_the_sequential_schedule_reaches_the_fastest_point_of_a_table_that_empties_nothing(
    model, task, examples, least
):
    """One unit is no dearer than none, and no cost but the least fits: sums in another order may be
    a hair too much."""
    ground = ground_of(model, task, examples, "kprune")
    curves = {
        "mha": {0: least, 1: least, 2: 0.8, 4: 1.1},
        "ffn": {0: least, 8: least, 64: 0.9, 128: 1.3},
    }
    key = TableKey("ort", "v", "d", "c", 1, "fp32", 1, 32, 64, 4, 16, 128, "post-ln/gelu")
    cost = LatencyCost(LatencyTable(key, curves, 0.1, 3))
    ground = replace(ground, searcher=replace(ground.searcher, cost=cost))
    scores = ground.score()
    result = ground.searcher(ground.sites, scores, math.fsum([0.1, *[least] * len(ground.sites)]))
    outcome = Sequential().run(ground, scores, result)
    assert [outcome.plan.counts[s.name] for s in ground.sites] == [1, 8] * 3


def test_a_compensation_that_cannot_wait_is_refused_by_the_sequential_schedule(
    model, task, examples
):
    ground = ground_of(model, task, examples, "kwon")
    with pytest.raises(UsageError, match="decide on the way"):
        run(ground, "sequential", 0.5)
    with pytest.raises(UsageError, match="no schedule of this name"):
        find("schedule", "sometimes")
    assert set(names("schedule")) == {"oneshot", "sequential", "iterated"}


def test_the_guard_drops_what_takes_the_output_away(model, task, examples):
    class Harm(Compensator):
        name = "harm"

        def fit(self, model, sites, masks, batches, **_):
            d = model.get_submodule(sites[0].output).out_features
            return Compensated(
                Update(
                    biases={
                        s.name: np.random.default_rng(s.layer).normal(size=d) * 5 for s in sites
                    }
                ),
                masks,
            )

    ground = replace(ground_of(model, task, examples, "rfx"), compensator=Harm())
    outcome, _ = run(ground, "oneshot", 0.7)
    judged = guard(ground, outcome)
    assert judged.divergence_after > judged.divergence_before
    assert judged.outcome.plan == outcome.plan and not judged.outcome.update.biases


def test_mean_divergence_is_that_of_the_outputs(model, task, examples):
    ground = ground_of(model, task, examples, "rfx")
    dense = collect_outputs(model, ground.batches, task)
    outcome, _ = run(ground, "oneshot", 0.3)
    with as_student(model, ground.sites, outcome.plan, outcome.update):
        student = collect_outputs(model, ground.batches, task)
        mean = mean_divergence(model, ground.batches, dense, task)
    p = torch.cat([o["logits"] for o in dense]).double().softmax(-1)
    q = torch.cat([o["logits"] for o in student]).double().softmax(-1)
    assert mean == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-5)
