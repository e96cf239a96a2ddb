"""Six methods on two tiny models decide what they decided, bit for bit. `python -m
tests.golden.record plans` after a deliberate change."""

import pytest

from tests.golden.lab import EXPORTED, METHODS, MODELS, decided, kept


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_the_search_decides_the_same(lab, model, method):
    assert decided(lab.plan(model, method)["plan"]) == kept("plans.json")["plan"][model][method]


@pytest.mark.parametrize(
    "model", ["bert", pytest.param("distilbert", marks=pytest.mark.slow)]
)  # its dense model is exported anew
@pytest.mark.parametrize("method", EXPORTED)
def test_a_whole_run_decides_the_same(lab, model, method):
    assert (
        decided(lab.evidence(model, method)["plan"])
        == kept("plans.json")["prune-export"][model][method]
    )
