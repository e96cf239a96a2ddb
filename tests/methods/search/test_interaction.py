"""Joint values: equal to the explicit block, never below the diagonal's damage, and searched
exactly."""

import itertools

import numpy as np
import pytest

from rfx.core.plan import Choice, Kind, Site
from rfx.methods.scores.base import Scores
from rfx.methods.search.interaction import joint_values
from rfx.methods.search.knapsack import knapsack
from rfx.methods.search.problem import Problem
from tests.methods.search.problems import by_choice, make_scores, make_sites


def scores_of(sites, samples=400, seed=0):
    rng = np.random.default_rng(seed)
    rows = {
        s.name: (
            rng.normal(size=(samples, s.units)) * rng.lognormal(size=s.units)
            + rng.normal(size=(samples, 1))
        ).astype(np.float32)
        for s in sites
    }
    return Scores({k: (r.astype(np.float64) ** 2).sum(0) for k, r in rows.items()}, rows)


def test_values_are_those_of_the_block_along_the_diagonals_order():
    sites = make_sites(2, 5, 40)
    scores = scores_of(sites)
    problem = Problem(
        tuple(sites),
        scores.importance,
        by_choice({s.name: {0: 0.0, s.units: 1.0} for s in sites}),
        values=joint_values(sites, scores),
    )
    for s in sites:
        block = scores.gradients[s.name].astype(np.float64).T @ scores.gradients[s.name]
        damages = []
        for kept in range(s.units, -1, -1):
            gone = np.setdiff1d(np.arange(s.units), problem.top(s.name, kept))
            damages.append(
                max(
                    block[np.ix_(gone, gone)].sum(),
                    np.diagonal(block)[gone].sum(),
                    damages[-1] if damages else 0.0,
                )
            )
        expected = damages[-1] - np.asarray(damages)[::-1]
        np.testing.assert_allclose(problem.prefix(s.name), expected, rtol=1e-6)


def test_units_that_pull_together_are_worth_more_together_and_cancelling_ones_not_less():
    site = Site("layer.0.ffn", 0, Kind.FFN, 4, 1, (), "", "", "", "")
    together = np.ones((10, 4), np.float32)
    cancel = together * np.asarray([1, -1, 1, -1], np.float32)
    for rows, total in ((together, 16 * 10), (cancel, 4 * 10)):
        values = joint_values([site], Scores({site.name: np.full(4, 10.0)}, {site.name: rows}))[
            site.name
        ]
        assert (
            values[0] == 0 and values[-1] == pytest.approx(total) and (np.diff(values) >= 0).all()
        )


@pytest.mark.parametrize("seed", range(5))
def test_the_knapsack_is_exact_on_values_that_are_not_concave(seed):
    sites = make_sites(2, 3, 3)
    scores = scores_of(sites, seed=seed)
    rng = np.random.default_rng(seed)
    curves = {
        s.name: {n: float(c) for n, c in enumerate(np.cumsum(rng.integers(0, 9, s.units + 1)))}
        for s in sites
    }
    problem = Problem(
        tuple(sites), scores.importance, by_choice(curves), values=joint_values(sites, scores)
    )
    for share in (0.2, 0.5, 0.8):
        budget = problem.least_cost + share * (problem.dense_cost - problem.least_cost)
        best = max(
            sum(problem.prefix(s.name)[n] for s, n in zip(sites, counts))
            for counts in itertools.product(*(range(s.units + 1) for s in sites))
            if problem.cost({s.name: Choice(n) for s, n in zip(sites, counts)}) <= budget
        )
        found = knapsack(problem, budget)
        assert found.value == pytest.approx(best) and found.cost <= budget
        assert 0 <= found.value_share <= 1


def test_values_that_fall_are_refused():
    sites = make_sites(1, 2, 2)
    with pytest.raises(ValueError, match="never fall"):
        Problem(
            tuple(sites),
            make_scores(sites).importance,
            by_choice({s.name: {0: 0.0, 2: 1.0} for s in sites}),
            values={s.name: np.asarray([0.0, 2.0, 1.0]) for s in sites},
        )
