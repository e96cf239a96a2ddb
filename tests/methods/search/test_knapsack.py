"""The exact search against brute force, Algorithm 1 and HiGHS; never over budget; infeasible said
with the way out."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from rfx.core.errors import InfeasibleError, UsageError
from rfx.core.plan import Choice
from rfx.core.registry import find
from rfx.cost.latency_cost import LatencyCost
from rfx.cost.table import LatencyTable, TableKey
from rfx.methods.search.enumeration import enumeration
from rfx.methods.search.knapsack import knapsack
from rfx.methods.search.piecewise import piecewise
from rfx.methods.search.problem import Problem
from rfx.methods.search.relaxation import relax
from tests.methods.search.problems import (
    Prices,
    by_choice,
    costs_like_a_runtime,
    make_scores,
    make_sites,
)


def brute_force(problem, budget):
    """(most value, fewest units of those) over every combination of counts."""
    best = None
    for choices in itertools.product(*(problem.curves[s.name] for s in problem.sites)):
        chosen = {s.name: c for s, c in zip(problem.sites, choices, strict=True)}
        if problem.cost(chosen) <= budget:
            value = sum(problem.value(name, c) for name, c in chosen.items())
            key = (value, -sum(c.count for c in choices))
            best = max(best, key) if best else key
    return best


def milp_value(problem, budget):
    """The optimum by HiGHS: one binary a choice, one choice a site."""
    values, costs, owner = [], [], []
    for i, s in enumerate(problem.sites):
        for choice, cost in problem.curves[s.name].items():
            values.append(problem.value(s.name, choice))
            costs.append(cost)
            owner.append(i)
    values, costs, owner = np.array(values), np.array(costs), np.array(owner)
    scale = values.max()
    one_each = np.equal(owner[None], np.arange(len(problem.sites))[:, None]).astype(float)
    answer = milp(
        -values / scale,
        constraints=[
            LinearConstraint(costs[None], -np.inf, budget - problem.fixed),
            LinearConstraint(one_each, 1, 1),
        ],
        integrality=np.ones(len(values)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 1e-7, "time_limit": 20},
    )
    assert answer.success
    return -answer.fun * scale


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_equals_brute_force_on_small_integer_tables(data):
    """3 sites of 3 choices or more, any integer costs: stepped, falling, negative slopes, cheaper
    when larger."""
    sites = make_sites(layers=2, heads=2, filters=3)[:3]
    importance = {
        s.name: np.array(
            data.draw(st.lists(st.integers(0, 9), min_size=s.units, max_size=s.units)), dtype=float
        )
        for s in sites
    }
    curves = {
        s.name: {n: float(data.draw(st.integers(0, 12))) for n in range(s.units + 1)} for s in sites
    }
    problem = Problem(
        tuple(sites), importance, by_choice(curves), fixed=float(data.draw(st.integers(0, 3)))
    )
    budget = float(data.draw(st.integers(0, 40)))
    expected = brute_force(problem, budget)
    if expected is None:
        with pytest.raises(InfeasibleError):
            knapsack(problem, budget)
        return
    result = knapsack(problem, budget)
    assert result.value == expected[0]
    assert result.cost <= budget
    assert result.cost == problem.cost(result.choices)
    bound = relax(problem, budget).upper
    assert bound >= result.value - 1e-9
    assert result.optimality_gap >= (expected[0] - result.value) / max(bound, 1e-9)


def test_ties_take_fewer_units():
    sites = make_sites(layers=1, heads=4, filters=4)
    importance = {"layer.0.mha": np.array([1.0, 0, 0, 0]), "layer.0.ffn": np.zeros(4)}
    curves = {s.name: dict.fromkeys(range(5), 1.0) for s in sites}
    result = knapsack(Problem(tuple(sites), importance, by_choice(curves)), 10.0)
    assert result.counts == {"layer.0.mha": 1, "layer.0.ffn": 0}
    assert result.kept == {"layer.0.mha": (0,), "layer.0.ffn": ()}


def test_whole_sublayers_may_go_and_top_units_stay():
    sites = make_sites(layers=2, heads=2, filters=4)
    importance = {s.name: np.arange(s.units, dtype=float) for s in sites}
    importance["layer.0.ffn"] = np.zeros(4)
    problem = Problem(
        tuple(sites),
        importance,
        by_choice({s.name: {n: float(n + 5 * (n > 0)) for n in range(s.units + 1)} for s in sites}),
    )
    result = knapsack(problem, 20.0)
    assert result.counts["layer.0.ffn"] == 0
    assert result.kept["layer.1.ffn"] == (2, 3) or result.counts["layer.1.ffn"] != 2


@pytest.mark.parametrize("share", [0.1, 0.35, 0.6, 0.85])
def test_equals_enumeration_on_linear_costs(share):
    sites = make_sites(layers=6, heads=12, filters=48)
    scores = make_scores(sites, seed=3)
    problem = Problem.of(sites, scores, Prices(160.0, 7.0))
    budget = share * problem.dense_cost
    exact, listed = knapsack(problem, budget), enumeration(problem, budget)
    assert exact.value == pytest.approx(listed.value, rel=1e-12)
    assert exact.cost <= budget and listed.cost <= budget


@pytest.mark.parametrize(("share", "seed"), [(0.3, 0), (0.5, 1), (0.7, 2)])
def test_equals_highs_within_its_grid_on_realistic_tables(share, seed):
    sites = make_sites(layers=6, heads=12, filters=1536)
    problem = Problem(
        tuple(sites),
        make_scores(sites, seed).importance,
        by_choice(costs_like_a_runtime(sites, seed, grid=64)),
        fixed=0.4,
    )
    budget = share * problem.dense_cost
    result = knapsack(problem, budget)
    best = milp_value(problem, budget)
    assert result.value <= best * (1 + 1e-6)
    # Rounding up costs at most one cell a site: the answer beats the optimum of a budget smaller by
    # that much.
    cell = (budget - problem.least_cost) / 4000
    assert result.value >= milp_value(problem, budget - len(sites) * cell) * (1 - 1e-6)
    assert result.value >= best * (1 - 1e-3)


def test_never_over_budget_on_a_thousand_random_tables():
    rng = np.random.default_rng(0)
    sites = make_sites(layers=2, heads=4, filters=16)
    for _ in range(1000):
        importance = {s.name: rng.lognormal(0, 2, s.units) for s in sites}
        curves = {
            s.name: {n: float(rng.random() + 0.1 * n * rng.random()) for n in range(s.units + 1)}
            for s in sites
        }
        problem = Problem(tuple(sites), importance, by_choice(curves), fixed=float(rng.random()))
        budget = problem.least_cost + float(rng.random()) * (
            problem.dense_cost - problem.least_cost
        )
        if budget < problem.least_cost:
            continue
        result = knapsack(problem, budget, bins=200)
        assert problem.cost(result.choices) <= budget
        assert 0 <= result.optimality_gap <= 1
        assert all(len(result.kept[name]) == n for name, n in result.counts.items())


def test_a_budget_of_the_dense_cost_keeps_everything_of_worth():
    sites = make_sites(layers=2, heads=4, filters=8)
    problem = Problem.of(sites, make_scores(sites), Prices(0.1, 0.1, base=0.3))
    result = knapsack(problem, problem.dense_cost)
    assert result.counts == {s.name: s.units for s in sites}
    assert (result.optimality_gap, result.price) == (0.0, 0.0)
    assert result.value_share == pytest.approx(1.0)


def test_infeasible_names_the_fastest_reachable_point():
    sites = make_sites(layers=1, heads=2, filters=2)
    problem = Problem.of(sites, make_scores(sites), Prices(1.0, 1.0, base=4.0))
    with pytest.raises(InfeasibleError) as error:
        knapsack(problem, 3.0)
    assert error.value.exit_code == 3
    assert "0.5000 of dense" in str(error.value)


def test_the_cheapest_point_itself_is_reachable():
    sites = make_sites(layers=2, heads=3, filters=4)
    curves = {s.name: {n: 0.1 + 0.3 * n for n in range(s.units + 1)} for s in sites}
    problem = Problem(tuple(sites), make_scores(sites).importance, by_choice(curves), fixed=0.7)
    result = knapsack(problem, problem.least_cost)
    assert sum(result.counts.values()) == 0


def test_price_is_the_value_of_a_little_more_budget():
    sites = make_sites(layers=6, heads=12, filters=512)
    problem = Problem(
        tuple(sites),
        make_scores(sites, 5).importance,
        by_choice(costs_like_a_runtime(sites, 5, grid=16)),
    )
    budget = 0.5 * problem.dense_cost
    low, high = knapsack(problem, budget * 0.98), knapsack(problem, budget * 1.02)
    bought = (high.value - low.value) / (high.budget - low.budget)
    # Importance is concave: the price falls as the budget grows.
    assert high.price * 0.9 <= bought <= low.price * 1.1


def test_bert_large_under_two_seconds():
    sites = make_sites(layers=24, heads=16, filters=4096)
    problem = Problem(
        tuple(sites),
        make_scores(sites).importance,
        by_choice(costs_like_a_runtime(sites, 0, grid=16)),
        fixed=1.0,
    )
    started = time.process_time()
    result = knapsack(problem, 0.5 * problem.dense_cost)
    assert time.process_time() - started < 2.0
    assert result.optimality_gap < 1e-3


def test_candidates_come_from_the_table():
    sites = make_sites(layers=2, heads=4, filters=64)
    key = TableKey("ort", "x", "cpu", "process", 1, "fp32", 1, 128, 32, 4, 8, 64, "post-ln/gelu")
    table = LatencyTable(
        key,
        {"mha": {n: 0.1 * n for n in range(5)}, "ffn": {n: 0.01 * n for n in range(0, 65, 16)}},
        fixed_ms=0.2,
        layers=2,
    )
    problem = Problem.of(sites, make_scores(sites), LatencyCost(table))
    result = knapsack(problem, 0.6 * problem.dense_cost)
    assert all(n % 16 == 0 for name, n in result.counts.items() if name.endswith("ffn"))
    assert result.cost == pytest.approx(table.predict_ms(sites, result.counts))


@pytest.mark.parametrize("seed", range(8))
def test_a_second_precision_is_only_more_choices(seed):
    """Every count at two precisions, the lower one mostly cheaper and maybe harmful: exact as ever,
    and as cheap as it can be. Searches that know counts alone say that they do not know what to
    do."""
    rng = np.random.default_rng(seed)
    sites = make_sites(layers=1, heads=3, filters=4)
    curves = {
        s.name: {
            Choice(n, precision): float(rng.integers(0, 9) + n * ms)
            for n in range(s.units + 1)
            for precision, ms in (("fp32", 4), ("int8", 2))
        }
        for s in sites
    }
    damage = {s.name: {"int8": float(rng.choice([0.0, 0.5, 5.0]))} for s in sites}
    problem = Problem(tuple(sites), make_scores(sites, seed).importance, curves, damage=damage)
    budget = problem.least_cost + 0.5 * (problem.dense_cost - problem.least_cost)
    found = knapsack(problem, budget)
    assert (found.value, -sum(found.counts.values())) == brute_force(problem, budget)
    assert found.cost == problem.cost(found.choices) <= budget
    assert found.counts == {name: c.count for name, c in found.choices.items()}
    for other in (enumeration, piecewise):
        with pytest.raises(UsageError, match="one precision") as refused:
            other(problem, budget)
        assert "fp32, int8" in refused.value.got and "knapsack" in refused.value.next_step


def test_bad_input_is_refused():
    sites = make_sites(layers=1, heads=2, filters=2)
    curves = by_choice({s.name: {0: 0.0, 1: 1.0, 2: 2.0} for s in sites})
    with pytest.raises(UsageError, match="not finite"):
        Problem(
            tuple(sites), {"layer.0.mha": np.array([1, np.nan]), "layer.0.ffn": np.ones(2)}, curves
        )
    ones = {s.name: np.ones(2) for s in sites}
    with pytest.raises(UsageError, match="empty"):
        Problem(tuple(sites), ones, {**curves, "layer.0.ffn": {}})
    with pytest.raises(UsageError, match="cannot be chosen"):
        Problem(tuple(sites), ones, {**curves, "layer.0.ffn": {Choice(3): 1.0}})
    with pytest.raises(UsageError, match="not a number"):
        knapsack(Problem(tuple(sites), ones, curves), float("nan"))
    with pytest.raises(UsageError, match="no search of this name"):
        find("search", "simulated-annealing")
