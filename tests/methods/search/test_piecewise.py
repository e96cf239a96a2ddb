"""The paper's piece-wise linear latency search, as the paper means it."""

import numpy as np
import pytest

from rfx.core.errors import InfeasibleError, UsageError
from rfx.core.plan import Kind
from rfx.methods.search.enumeration import enumeration
from rfx.methods.search.knapsack import knapsack
from rfx.methods.search.piecewise import fit, piecewise
from rfx.methods.search.problem import Problem
from tests.methods.search.problems import (
    Prices,
    by_choice,
    costs_like_a_runtime,
    make_scores,
    make_sites,
)


def test_fit_finds_threshold_and_slope_on_measured_counts():
    """Counts far from their list positions: the slope is per unit, the threshold a count."""
    curve = {
        0: 0.5,
        16: 1.5,
        32: 1.5,
        64: 1.5,
        128: 1.5 + 64 * 0.01,
        256: 1.5 + 192 * 0.01,
        512: 1.5 + 448 * 0.01,
    }
    fitted = fit(curve)
    assert (fitted.threshold, fitted.constant, fitted.empty) == (64, pytest.approx(1.0), 0.5)
    assert fitted.slope == pytest.approx(0.01)
    assert [fitted(n) for n in curve] == pytest.approx(list(curve.values()))


def test_a_flat_or_falling_curve_has_slope_zero():
    assert fit({0: 0.0, 1: 2.0, 2: 2.0, 3: 2.0}).slope == 0.0
    assert fit({0: 0.0, 1: 3.0, 2: 2.0, 3: 1.0}).slope == 0.0


def test_slope_zero_means_further_units_are_free():
    sites = make_sites(layers=2, heads=3, filters=4)
    curves = {
        s.name: {n: float(n > 0) * (2.0 if s.kind is Kind.MHA else 1.0) for n in range(s.units + 1)}
        for s in sites
    }
    result = piecewise(Problem(tuple(sites), make_scores(sites).importance, by_choice(curves)), 3.0)
    assert all(result.counts[s.name] in (0, s.units) for s in sites)
    assert result.cost <= 3.0 and sum(result.counts.values()) > 0


def test_drops_the_layers_of_least_base_importance():
    sites = make_sites(layers=3, heads=2, filters=2)
    importance = {s.name: np.ones(s.units) * (1 + s.layer) for s in sites}
    curves = {s.name: {0: 0.0, 1: 1.0, 2: 1.0} for s in sites}
    result = piecewise(Problem(tuple(sites), importance, by_choice(curves)), 4.0)
    assert result.counts == {
        "layer.0.mha": 0,
        "layer.0.ffn": 0,
        "layer.1.mha": 2,
        "layer.1.ffn": 2,
        "layer.2.mha": 2,
        "layer.2.ffn": 2,
    }


@pytest.mark.parametrize("share", [0.15, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_fits_the_table_not_only_the_fit_and_never_beats_the_knapsack(share, seed):
    sites = make_sites(layers=6, heads=12, filters=256)
    problem = Problem(
        tuple(sites),
        make_scores(sites, seed).importance,
        by_choice(costs_like_a_runtime(sites, seed)),
    )
    budget = share * problem.dense_cost
    result = piecewise(problem, budget)
    assert problem.cost(result.choices) <= budget
    assert result.cost >= 0.9 * budget
    assert result.value <= knapsack(problem, budget).value * (1 + 1e-9)


def test_equals_algorithm_1_on_linear_costs():
    sites = make_sites(layers=3, heads=4, filters=32)
    problem = Problem.of(sites, make_scores(sites, 2), Prices(9.0, 2.0))
    budget = 0.5 * problem.dense_cost
    # On a linear table the fit is T = 1 and c = a, so every surviving sublayer keeps a unit: close,
    # never better.
    linear, listed = piecewise(problem, budget), enumeration(problem, budget)
    assert listed.value >= linear.value >= 0.98 * listed.value


def test_infeasible_and_curves_that_differ_are_refused():
    sites = make_sites(layers=2, heads=2, filters=2)
    scores = make_scores(sites)
    with pytest.raises(InfeasibleError):
        piecewise(Problem.of(sites, scores, Prices(1.0, 1.0, base=5.0)), 4.0)
    curves = {s.name: {n: float(n ** (1 + s.layer)) for n in range(3)} for s in sites}
    with pytest.raises(UsageError, match="one cost curve for each kind"):
        piecewise(Problem(tuple(sites), scores.importance, by_choice(curves)), 4.0)


def test_sites_that_cost_a_part_of_what_the_others_do_are_priced_so():
    sites = make_sites(layers=3, heads=4, filters=4)
    scores = make_scores(sites)
    shares = {s.name: 0.1 if s.layer == 2 else 1.0 for s in sites}
    curves = {s.name: {n: 0.5 + n * shares[s.name] for n in range(5)} for s in sites}
    problem = Problem(tuple(sites), scores.importance, by_choice(curves))
    assert piecewise(problem, 30.0).counts == {s.name: 4 for s in sites}
    found = piecewise(problem, 12.0)
    assert found.cost <= 12.0
    assert found.cost == pytest.approx(sum(curves[n][k] for n, k in found.counts.items()))
    alike = {s.name: {n: 0.5 + float(n) for n in range(5)} for s in sites}
    dearer = piecewise(Problem(tuple(sites), scores.importance, by_choice(alike)), 12.0)
    assert found.value > dearer.value
