"""What a search may not choose."""

import numpy as np
import pytest

from rfx.core.errors import InfeasibleError
from rfx.core.plan import Choice
from rfx.cost.flops import FlopsCost
from rfx.cost.restricted import Restriction, matches
from rfx.methods.build import build
from rfx.methods.scores.base import Scores
from rfx.models.families.find import find_sites
from rfx.recipe.presets import PRESETS
from tests.families import make


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("layer.0.mha", {"layer.0.mha"}),
        ("layer.1", {"layer.1.mha", "layer.1.ffn"}),
        ("ffn", {"layer.0.ffn", "layer.1.ffn", "layer.10.ffn"}),
        ("layer.1?.*", {"layer.10.ffn"}),
        ("layer", {"layer.0.mha", "layer.0.ffn", "layer.1.mha", "layer.1.ffn", "layer.10.ffn"}),
        ("head", set()),
    ],
)
def test_patterns(pattern, named):
    names = ("layer.0.mha", "layer.0.ffn", "layer.1.mha", "layer.1.ffn", "layer.10.ffn")
    assert {n for n in names if matches(n, pattern)} == named


@pytest.fixture(scope="module")
def sites():
    return find_sites(make("bert", num_hidden_layers=3))


def test_choices_that_are_left(sites):
    cost = FlopsCost(32, 8)
    assert Restriction().of(cost) is cost
    some = Restriction(("layer.0", "layer.2.ffn"), whole=True).of(cost)
    found = {s.name: sorted(c.count for c in some.curve(s)) for s in sites}
    assert found["layer.0.mha"] == [4] and found["layer.2.ffn"] == [48]
    assert found["layer.1.mha"] == [0, 4] and found["layer.1.ffn"] == [0, 48]
    assert some.dense(sites) == cost.dense(sites) and some.unit == "flops"
    assert some.of(sites[0], Choice(4)) == cost.of(sites[0], Choice(4))


@pytest.mark.parametrize("name", ["rfx", "kwon", "magnitude"])
def test_searches_keep_to_it(sites, name):
    rng = np.random.default_rng(0)
    orders = {s.name: rng.permutation(s.units) for s in sites} if name == "rfx" else {}
    scores = Scores({s.name: rng.random(s.units) for s in sites}, orders=orders)
    cost = FlopsCost(32, 8)
    method = build(PRESETS[name], seed=0, labelled=False)
    searcher = method.searcher(cost)
    frozen = Restriction(("layer.1",))
    keeping = type(searcher)(searcher.search, "none", cost, frozen)
    found = keeping(sites, scores, 0.6 * cost.dense(sites))
    counts = {n: len(k) for n, k in found.kept.items()}
    assert counts["layer.1.mha"] == 4 and counts["layer.1.ffn"] == 48
    spent = cost.predict(sites, {n: Choice(c) for n, c in counts.items()})
    assert 0.5 * cost.dense(sites) < spent <= 0.6 * cost.dense(sites)
    dropping = type(searcher)(searcher.search, "none", cost, Restriction(whole=True))
    found = dropping(sites, scores, 0.6 * cost.dense(sites))
    assert {len(k) for k in found.kept.values()} <= {0, 4, 48}
    assert 0 < sum(not len(k) for k in found.kept.values()) < len(sites)
    with pytest.raises(InfeasibleError, match="even the cheapest"):
        keeping(sites, scores, 0.2 * cost.dense(sites))
