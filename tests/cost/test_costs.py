"""What a choice costs, and what a model does: two units of a budget, one way to ask."""

from dataclasses import replace

import numpy as np
import pytest

from rfx.core.plan import Choice, Kind, Plan
from rfx.cost.flops import FLOPS_GRID, FlopsCost
from rfx.cost.latency_cost import LatencyCost
from rfx.cost.table import LatencyTable, TableKey
from rfx.cost.table_file import parse_table
from rfx.methods.scores.base import Scores
from rfx.methods.search.base import Search
from rfx.methods.search.enumeration import Enumeration
from rfx.methods.search.knapsack import Knapsack, knapsack
from rfx.methods.search.piecewise import Piecewise
from rfx.methods.search.searcher import Searcher
from tests.methods.search.problems import make_scores, make_sites

SITES = make_sites(layers=3, heads=4, filters=64)
KEY = TableKey("ort", "v", "d", "c", 1, "fp16", 1, 128, 32, 4, 8, 64, "post-ln/gelu")
TABLE = LatencyTable(
    KEY,
    {
        "mha": {0: 0.1, 1: 0.3, 2: 0.35, 3: 0.6, 4: 0.5},  # 3 heads are dearer than 4
        "ffn": {0: 0.1, 16: 0.4, 32: 0.5, 64: 0.9},
    },
    fixed_ms=0.25,
    layers=3,
)


def test_latency_is_that_of_the_table_at_its_precision():
    cost = LatencyCost(TABLE)
    mha, ffn = SITES[:2]
    # A count that a larger one undercuts is no choice.
    assert cost.curve(mha) == {Choice(n, "fp16"): TABLE.costs_ms["mha"][n] for n in (0, 1, 2, 4)}
    assert cost.of(ffn, Choice(32, "fp16")) == 0.5
    with pytest.raises(KeyError):
        cost.of(ffn, Choice(32, "fp32"))
    assert (cost.unit, cost.fixed, cost.linear) == ("ms", 0.25, False)
    counts = {s.name: 3 if s.kind is Kind.MHA else 48 for s in SITES}
    choices = {name: Choice(n, "fp16") for name, n in counts.items()}
    assert cost.predict(SITES, choices) == TABLE.predict_ms(SITES, counts)
    assert cost.predict(SITES, choices) == pytest.approx(0.25 + 3 * (0.6 + (0.5 + 0.9) / 2))
    assert cost.dense(SITES) == pytest.approx(0.25 + 3 * 1.4)
    assert cost.share(SITES, choices) == cost.predict(SITES, choices) / cost.dense(SITES)
    plan = Plan.of(SITES, {s.name: range(counts[s.name]) for s in SITES})
    assert plan.choices(cost.precision) == choices
    assert cost.share_of(plan) == cost.share(SITES, choices)


def test_a_site_smaller_than_those_measured_has_no_choice_that_it_cannot_take():
    small = make_sites(layers=1, heads=2, filters=16)
    assert [max(LatencyCost(TABLE).curve(s)).count for s in small] == [2, 16]


def test_flops_have_one_price_a_unit_and_fewer_choices_where_they_are_many():
    cost = FlopsCost(hidden=32, sequence=10.0)
    mha, ffn = SITES[:2]
    assert cost.price(ffn) == 2 * 10 * 32 and cost.price(mha) == (4 * 10 * 32 + 2 * 100) * 8
    assert len(cost.curve(ffn)) == 65 and cost.curve(ffn)[Choice(7)] == 7 * cost.price(ffn)
    coarse = cost.coarse()
    assert {c.count for c in coarse.curve(ffn)} == set(range(0, 65, FLOPS_GRID))
    assert len(coarse.curve(mha)) == 5 and coarse.dense(SITES) == cost.dense(SITES)
    assert coarse.of(ffn, Choice(7)) == cost.of(ffn, Choice(7))  # priced, if not to be chosen
    odd = make_sites(layers=1, heads=2, filters=13)[1]
    assert sorted(c.count for c in coarse.curve(odd)) == [0, 8, 13]  # all of them is a choice
    half = {s.name: Choice(s.units // 2) for s in SITES}
    assert cost.share(SITES, half) == pytest.approx(0.5) and LatencyCost(TABLE).coarse() is not None


def test_a_search_of_another_package_is_asked_under_a_linear_cost_too():
    class Mine(Search):
        def __call__(self, problem, budget):
            return replace(knapsack(problem, budget), method="mine")

    cost = FlopsCost(32, 10.0)
    found = Searcher(Mine(), "block", cost)(SITES, make_scores(SITES), 0.5 * cost.dense(SITES))
    assert found.method == "mine"


@pytest.mark.parametrize("search", [Knapsack(), Enumeration(), Piecewise()])
def test_single_units_under_a_linear_cost_are_enumerated_whatever_is_named(search):
    cost, scores = FlopsCost(32, 10.0), make_scores(SITES)
    budget = 0.5 * cost.dense(SITES)
    found = Searcher(search, "block", cost)(SITES, scores, budget)
    assert found.method == "enumeration" and 0 <= budget - found.cost < cost.price(SITES[1])
    ordered = Scores(
        scores.importance, orders={s.name: np.arange(s.units)[::-1].copy() for s in SITES}
    )
    found = Searcher(search, "block", cost)(SITES, ordered, budget)
    assert found.method == "knapsack"
    assert all(found.counts[s.name] % FLOPS_GRID == 0 for s in SITES if s.kind is Kind.FFN)


def test_interactions_are_counted_where_the_search_can_and_the_scores_have_gradients():
    rng = np.random.default_rng(0)
    # All units pull the same way, so that together they matter more.
    rows = {s.name: (rng.normal(size=(8, s.units)) + 0.5).astype(np.float32) for s in SITES}
    scores = Scores({n: (g.astype(float) ** 2).sum(0) for n, g in rows.items()}, rows)
    cost = LatencyCost(TABLE)
    budget = 0.6 * cost.dense(SITES)
    single = sum(float(i.sum()) for i in scores.importance.values())

    def total(search, interactions, given=scores):
        return Searcher(search, interactions, cost)(SITES, given, budget).importance_total

    assert total(Knapsack(), "block") > 1.5 * single
    for apart in (
        total(Knapsack(), "none"),
        total(Piecewise(), "block"),
        total(Knapsack(), "block", Scores(scores.importance)),
    ):
        assert apart == pytest.approx(single)
    found = Searcher(Knapsack(), "block", cost)(SITES, scores, budget)
    assert found.value_share == pytest.approx(found.value / found.importance_total)
    assert {c.precision for c in found.choices.values()} == {"fp16"}
    assert found.cost == pytest.approx(cost.predict(SITES, found.choices)) and found.cost <= budget


def test_a_table_of_blocks_without_attention_is_a_table():
    data = TABLE.to_json()
    data["key"]["heads"] = 0
    del data["costs_ms"]["mha"]
    alone = parse_table(data, "here")
    ffn = [s for s in SITES if s.kind is Kind.FFN]
    assert LatencyCost(alone).dense(ffn) == pytest.approx(0.25 + 3 * 0.9)
