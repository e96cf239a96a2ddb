"""The last step: what is solved is the ridge regression it says, and the output comes nearer to the
dense model's."""

import numpy as np
import pytest
import torch

from rfx.methods.schedule.base import Outcome
from rfx.methods.schedule.oneshot import OneShot
from rfx.methods.schedule.polish import LARGEST, RIDGES, Step, polish
from rfx.methods.scores.divergence import collect_outputs, mean_divergence
from rfx.models.shrink import shrink
from rfx.models.student import as_student
from rfx.tasks.calibration import Batches
from tests.conftest import sentences
from tests.methods.schedule.test_schedules import examples, ground_of, model, task  # noqa: F401 - fixtures


def problem(n=60, units=(9, 40), noise=0.1, seed=0):
    rng = np.random.default_rng(seed)
    rows = {f"site {i}": rng.normal(size=(n, u)).astype(np.float32) for i, u in enumerate(units)}
    truth = {name: 0.05 * rng.normal(size=r.shape[1]) for name, r in rows.items()}
    target = sum(r @ truth[name] for name, r in rows.items()) + noise * rng.normal(size=n)
    return rows, target


@pytest.mark.parametrize(
    "units", [(9, 40), (5, 6)]
)  # more unknowns than examples without a fold, and fewer
def test_the_step_is_the_ridge_regression_it_says(units):
    rows, target = problem(units=units)
    numbers = np.arange(60)
    step = Step(rows, target, numbers)
    ridge, ratio = step.choose()
    whole = np.concatenate(list(rows.values()), 1).astype(float)

    def solution(ridge, some=slice(None)):
        # Of the mean diagonal of the examples' Gram matrix.
        weight = ridge * np.square(whole).sum() / len(target)
        return np.linalg.solve(
            whole[some].T @ whole[some] + weight * np.eye(whole.shape[1]),
            whole[some].T @ target[some],
        )

    def flat(theta):
        return np.concatenate(list(theta.values()))

    np.testing.assert_allclose(flat(step.solve(ridge)), solution(ridge), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(
        flat(step.solve(ridge, without_fold=4)),
        solution(ridge, numbers % 5 != 4),
        rtol=1e-6,
        atol=1e-9,
    )

    def left_out(ridge):
        folds = [numbers % 5 == k for k in range(5)]
        return (
            sum(np.square(target[f] - whole[f] @ solution(ridge, ~f)).sum() for f in folds)
            / np.square(target).sum()
        )

    tried = {r: left_out(r) for r in RIDGES}
    assert (
        min(tried, key=tried.get) == ridge
        and ratio == pytest.approx(tried[ridge], rel=1e-6)
        and ratio < 1
    )


def test_rows_of_one_example_are_not_parted():
    """A long context's spans say the same: parted, one half would foretell the other whatever there
    is to foretell."""
    rng = np.random.default_rng(0)
    rows = {"site": np.repeat(rng.normal(size=(30, 200)), 4, 0).astype(np.float32)}
    target = np.repeat(rng.normal(size=30), 4)
    assert Step(rows, target, np.arange(120)).choose() is not None
    assert Step(rows, target, np.repeat(np.arange(30), 4)).choose() is None


@pytest.mark.parametrize("n, units", [(60, (9, 40)), (200, (40, 40))])
def test_a_step_that_foretells_nothing_is_hardly_ever_taken(n, units):
    taken = 0
    for seed in range(100):
        rows, _ = problem(n=n, units=units, seed=seed)
        taken += (
            Step(rows, np.random.default_rng(1000 + seed).normal(size=n), np.arange(n)).choose()
            is not None
        )
    assert taken <= 6


def test_there_is_no_step_where_there_is_nothing_to_fit():
    rows, target = problem()
    assert Step(rows, np.zeros(60), np.arange(60)).choose() is None
    assert Step({n: 0 * r for n, r in rows.items()}, target, np.arange(60)).choose() is None
    # Too few examples for the folds.
    assert Step({n: r[:6] for n, r in rows.items()}, target[:6], np.arange(6)).choose() is None


def test_a_step_too_large_for_a_first_order_gets_a_larger_ridge():
    rows, target = problem(noise=0.0)
    small, small_ratio = Step(rows, target, np.arange(60)).choose()
    step = Step(rows, target * 100, np.arange(60))
    ridge, ratio = step.choose()
    assert ridge > small and small_ratio < ratio < 1
    assert max(np.abs(s).max() for s in step.solve(ridge).values()) <= LARGEST
    assert Step(rows, target * 1e9, np.arange(60)).choose() is None


@pytest.mark.parametrize("share", [0.3, 0.4])
def test_the_output_of_new_examples_comes_nearer(model, task, examples, share):  # noqa: F811
    """After mask tuning: the projections of `rfx` leave nothing to repair on this task."""
    ground = ground_of(model, task, examples, "kwon")
    scores = ground.score()
    result = ground.searcher(ground.sites, scores, share * ground.searcher.cost.dense(ground.sites))
    outcome = OneShot().run(ground, scores, result)
    before = {n: p.clone() for n, p in model.state_dict().items()}
    polished = polish(ground, outcome)
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())
    assert polished.ratio < 1 and polished.outcome.plan == outcome.plan
    new = Batches(task, task.encode(task.examples(sentences(200, 7))), 16)
    dense = collect_outputs(model, new, task)

    def away(update):
        with as_student(model, ground.sites, outcome.plan, update):
            return mean_divergence(model, new, dense, task)

    assert away(polished.outcome.update) < away(outcome.update)
    # What is exported has the step in it.
    small = shrink(model, ground.sites, outcome.plan, polished.outcome.update)
    inputs = next(iter(new))[0]
    with as_student(model, ground.sites, outcome.plan, polished.outcome.update), torch.no_grad():
        torch.testing.assert_close(
            small(**inputs).logits, model(**inputs).logits, rtol=1e-4, atol=1e-5
        )


def test_a_step_that_does_not_lower_the_divergence_is_not_taken(model, task, examples, monkeypatch):  # noqa: F811
    ground = ground_of(model, task, examples, "kwon")
    scores = ground.score()
    result = ground.searcher(ground.sites, scores, 0.15 * ground.searcher.cost.dense(ground.sites))
    outcome = OneShot().run(ground, scores, result)
    # Off the mark, whatever the fit says.
    away = {n: np.full_like(s, -0.4) for n, s in scores.importance.items()}
    monkeypatch.setattr(Step, "choose", lambda self: (1.0, 0.5))
    monkeypatch.setattr(Step, "solve", lambda self, ridge, without_fold=None: away)
    polished = polish(ground, outcome)
    assert polished.outcome is outcome and polished.ratio == 1


def test_a_step_that_is_not_taken_leaves_the_outcome_as_it_was(model, task, examples):  # noqa: F811
    from rfx.core.plan import Plan, Update

    ground = ground_of(model, task, examples, "rfx")
    outcome = Outcome(Plan.dense(ground.sites), Update())
    assert polish(ground, outcome).outcome is outcome  # the dense model itself: nothing to repair
