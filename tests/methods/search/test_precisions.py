"""A choice is a count and a precision: what a precision damages is weighed against what it
saves."""

import numpy as np
import pytest

from rfx.core.errors import UsageError
from rfx.core.plan import Choice
from rfx.methods.scores.base import Scores
from rfx.methods.search.knapsack import knapsack
from rfx.methods.search.problem import Problem
from tests.methods.search.problems import make_scores, make_sites

SITES = make_sites(layers=2, heads=4, filters=32)


def problem(damage):
    """INT8 takes half of the time of fp32 at every count."""
    scores = make_scores(SITES)
    curves = {
        s.name: {
            Choice(n, precision): share * n * (4.0 if s.units == 4 else 0.5)
            for n in range(0, s.units + 1, 1 if s.units == 4 else 8)
            for precision, share in (("fp32", 1.0), ("int8", 0.5))
        }
        for s in SITES
    }
    importance = {s.name: np.asarray(scores.importance[s.name]) for s in SITES}
    return Problem(tuple(SITES), importance, curves, damage=damage)


def test_precisions_of_unknown_damage_are_refused():
    with pytest.raises(UsageError, match="do not say what each of them damages"):
        problem(None)
    with pytest.raises(UsageError, match="layer.1.ffn"):
        problem({s.name: {"int8": 0.1} for s in SITES[:-1]})


def test_a_precision_is_taken_where_it_costs_least():
    harmless, ruinous = SITES[0].name, SITES[2].name
    made = problem({s.name: {"int8": 1e6 if s.name == ruinous else 1e-3} for s in SITES})
    assert made.dense_cost == 2 * (16 + 16)  # all in fp32
    found = knapsack(made, 0.6 * made.dense_cost)
    assert found.choices[harmless].precision == "int8"
    assert found.choices[ruinous].precision == "fp32" and found.counts[ruinous] > 0
    assert found.cost <= 0.6 * made.dense_cost
    worth = made.value(ruinous, Choice(4)) - made.value(ruinous, Choice(4, "int8"))
    assert worth == pytest.approx(1e6)
    assert made.value(ruinous, Choice(0, "int8")) == 0  # of nothing nothing is lost


def test_scores_with_precisions_are_kept_whole():
    scores = Scores(
        {"a/b": np.array([1.0, 2.0])}, precisions={"a/b": {"int8": 0.5, "fp16": 0.0}, "c": {}}
    )
    read = Scores.from_arrays(scores.to_arrays())
    assert np.array_equal(read.importance["a/b"], scores.importance["a/b"])
    assert read.precisions == {"a/b": {"int8": 0.5, "fp16": 0.0}}
