"""Removal curves: costs equal the exact optimum of the quadratic problem, dead units go first and
for nothing."""

import numpy as np
import pytest
import torch

from rfx.methods.scores.surgeon import DAMPING, removal_curve


@pytest.fixture(scope="module")
def problem():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(400, 24, generator=g) @ torch.randn(24, 24, generator=g) + 0.3
    gradients = torch.randn(60, 7, generator=g)
    return z.T @ z / 400, torch.randn(7, 24, generator=g), gradients.T @ gradients


def joint_cost(gram, weight, metric, removed):
    """min over the kept columns of tr(dWT M dW A) / 2 with the removed ones taken to zero, solved
    directly."""
    a = gram.double() + DAMPING * gram.double().diagonal().mean() * torch.eye(
        len(gram), dtype=torch.float64
    )
    weight = weight.double()
    kept = [i for i in range(len(gram)) if i not in set(removed)]
    change = torch.zeros_like(weight)
    change[:, removed] = -weight[:, removed]
    if kept:  # the same minimiser for every metric: d/dW_K = 0
        change[:, kept] = (
            -change[:, removed] @ a[removed][:, kept] @ torch.linalg.inv(a[kept][:, kept])
        )
    return float(0.5 * torch.trace(change.T @ metric.double() @ change @ a))


@pytest.mark.parametrize("width", [1, 4])
def test_features_that_are_rounding_alone_have_a_curve(problem, width):
    """Of examples that are all alike what is left after centring is noise, and no longer positive
    definite."""
    _, weight, metric = problem
    noise = torch.randn(24, 24, generator=torch.Generator().manual_seed(1))
    curve = removal_curve(
        1e-12 * (noise + noise.T + 0.1 * torch.eye(24)).abs(), weight, metric, width
    )
    assert sorted(curve.order) == list(range(24 // width)) and np.isfinite(curve.added).all()


@pytest.mark.parametrize("width", [1, 4])
def test_the_added_damages_sum_to_the_joint_cost(problem, width):
    gram, weight, metric = problem
    curve = removal_curve(gram, weight, metric, width)
    order, added = curve.order, curve.added
    units = 24 // width
    assert sorted(order) == list(range(units)) and (added >= 0).all()
    steps = range(1, units + 1) if width > 1 else (8, 16, 24)  # filters go eight at a time
    for count in steps:
        removed = [int(u) * width + c for u in order[:count] for c in range(width)]
        assert added[:count].sum() == pytest.approx(
            joint_cost(gram, weight, metric, removed), rel=1e-6
        )


def test_the_first_head_to_go_is_the_cheapest_of_all(problem):
    gram, weight, metric = problem
    curve = removal_curve(gram, weight, metric, 4)
    order, added = curve.order, curve.added
    costs = [joint_cost(gram, weight, metric, list(range(4 * h, 4 * h + 4))) for h in range(6)]
    assert order[0] == int(np.argmin(costs)) and added[0] == pytest.approx(min(costs))


@pytest.mark.parametrize("width", [1, 4])
def test_units_without_weight_go_first_and_for_nothing(problem, width):
    gram, weight, metric = problem
    weight = weight.clone()
    dead = [2, 4] if width > 1 else [1, 3, 5, 7, 11, 13, 17, 19]
    for u in dead:
        weight[:, u * width : (u + 1) * width] = 0
    curve = removal_curve(gram, weight, metric, width)
    order, added = curve.order, curve.added
    assert sorted(order[: len(dead)]) == dead and added[: len(dead)].sum() < 1e-9 * added.sum()


def test_features_that_are_zero_and_metrics_of_low_rank_are_no_hindrance(problem):
    gram, weight, metric = problem
    curve = removal_curve(torch.zeros(24, 24), weight, metric, 4)
    order, added = curve.order, curve.added
    assert list(order) == list(range(6)) and not added.any()
    g = torch.randn(1, 7)
    curve = removal_curve(gram, weight, g.T @ g, 4)
    order, added = curve.order, curve.added
    assert np.isfinite(added).all() and added.sum() == pytest.approx(
        joint_cost(gram, weight, g.T @ g, list(range(24))), rel=1e-6
    )


def test_the_weights_at_a_checkpoint_are_the_ones_that_cost_so_much(problem):
    gram, weight, metric = problem
    curve = removal_curve(gram, weight, metric, 4, checkpoints=(2, 5))
    assert sorted(curve.weights) == [2, 5]
    a = gram.double() + DAMPING * gram.double().diagonal().mean() * torch.eye(
        24, dtype=torch.float64
    )
    for removed, new in curve.weights.items():
        gone = [int(u) * 4 + c for u in curve.order[:removed] for c in range(4)]
        assert (new[:, gone] == 0).all()
        change = new - weight.double()
        cost = float(0.5 * torch.trace(change.T @ metric.double() @ change @ a))
        assert cost == pytest.approx(curve.added[:removed].sum(), rel=1e-6)
