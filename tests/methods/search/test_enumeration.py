"""Algorithm 1, corrected: no head at all is a choice, what does not fit is skipped, filters are
capped."""

import itertools

import numpy as np
import pytest

from rfx.core.errors import InfeasibleError, UsageError
from rfx.core.plan import Kind
from rfx.methods.search.enumeration import enumeration
from rfx.methods.search.problem import Problem
from tests.methods.search.problems import Prices, by_choice, make_scores, make_sites


def linear(sites, scores, head=5.0, filter_=2.0, fixed=0.0):
    return Problem.of(sites, scores, Prices(head, filter_, base=fixed))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.0, 0.2, 0.55, 0.9, 1.0])
def test_no_subset_of_units_is_better(seed, share):
    """Against every subset of every unit of the model."""
    sites = make_sites(layers=2, heads=2, filters=3)
    scores = make_scores(sites, seed)
    problem = linear(sites, scores)
    budget = share * problem.dense_cost
    units = [
        (5.0 if s.kind is Kind.MHA else 2.0, v) for s in sites for v in scores.importance[s.name]
    ]
    best = max(
        sum(v for _, v in chosen)
        for r in range(len(units) + 1)
        for chosen in itertools.combinations(units, r)
        if sum(c for c, _ in chosen) <= budget
    )
    result = enumeration(problem, budget)
    assert result.value == pytest.approx(best, rel=1e-12)
    assert result.cost <= budget


def test_tight_budget_with_no_room_for_a_head_keeps_filters_alone():
    sites = make_sites(layers=2, heads=2, filters=8)
    result = enumeration(linear(sites, make_scores(sites), head=50.0), 12.0)
    assert sum(n for name, n in result.counts.items() if name.endswith("mha")) == 0
    assert sum(n for name, n in result.counts.items() if name.endswith("ffn")) == 6


def test_filters_are_capped_where_the_budget_is_ample():
    sites = make_sites(layers=1, heads=2, filters=3)
    problem = linear(sites, make_scores(sites))
    assert enumeration(problem, 10 * problem.dense_cost).counts == {
        "layer.0.mha": 2,
        "layer.0.ffn": 3,
    }


def test_unused_slack_is_less_than_a_filter():
    sites = make_sites(layers=4, heads=6, filters=64)
    problem = linear(sites, make_scores(sites), head=31.0, filter_=3.0)
    for share in np.linspace(0.1, 0.9, 9):
        result = enumeration(problem, share * problem.dense_cost)
        assert 0 <= result.budget - result.cost < 3.0


def test_refuses_costs_that_are_not_linear_and_budgets_below_the_fixed_part():
    sites = make_sites(layers=1, heads=2, filters=4)
    scores = make_scores(sites)
    with pytest.raises(InfeasibleError):
        enumeration(linear(sites, scores, fixed=3.0), 2.0)
    stepped = {s.name: {n: float(n > 0) for n in range(s.units + 1)} for s in sites}
    with pytest.raises(UsageError, match="linear"):
        enumeration(Problem(tuple(sites), scores.importance, by_choice(stepped)), 1.0)
    gridded = Problem.of(sites, scores, Prices(1.0, 1.0, grid=2))
    with pytest.raises(UsageError, match="linear"):
        enumeration(gridded, 3.0)
