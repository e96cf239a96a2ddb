"""A method is built from names; what cannot be built, or does not go together, is refused in words
before any work."""

import numpy as np
import pytest

from rfx.core.errors import UsageError
from rfx.core.registry import find, names
from rfx.methods.build import build, check
from rfx.methods.capable import names_with
from rfx.methods.compensate.none import NoCompensation
from rfx.methods.compensate.scales import Scales
from rfx.methods.schedule.iterated import Iterated
from rfx.methods.scores.base import Scores
from rfx.methods.scores.fisher import Fisher
from rfx.methods.search.knapsack import Knapsack
from rfx.methods.search.refine import Best, NoRefinement
from rfx.recipe.method import MethodSpec
from rfx.recipe.presets import PRESETS

KINDS = {
    "scorer": "scorer",
    "search": "search",
    "refiner": "refine",
    "compensation": "compensate",
    "schedule": "schedule",
}


def built(**keys):
    return build(MethodSpec(**keys), seed=3, labelled=True)


def test_each_part_gets_its_options():
    method = built(
        scorer="fisher",
        gradients="batch",
        refine="best",
        compensate="scales",
        tuning="kwon-reference",
        schedule="iterated",
        rounds=3,
    )
    assert isinstance(method.scorer, Fisher)
    assert (method.scorer.per, method.scorer.seed) == ("batch", 3)
    assert isinstance(method.search, Knapsack) and isinstance(method.refiner, Best)
    assert isinstance(method.compensation, Scales)
    assert method.compensation.mode == "kwon-reference"
    assert isinstance(method.schedule, Iterated) and method.schedule.rounds == 3
    assert built(scorer_options={"temperature": 5.0}).scorer.temperature == 5.0


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("labelled", [True, False])
def test_every_known_combination_can_be_built(name, labelled):
    assert build(PRESETS[name], seed=0, labelled=labelled).spec is PRESETS[name]


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_is_called_what_it_is_registered_as(kind):
    for name in names(kind):
        part = find(kind, name)
        if hasattr(part, "name"):
            assert part.name == name


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_name_is_refused_with_the_key_to_correct(kind):
    with pytest.raises(UsageError, match="of this name") as refused:
        check(MethodSpec(**{KINDS[kind]: "nothing"}))
    assert f"method.{KINDS[kind]}" in refused.value.next_step
    assert set(refused.value.allowed.split(", ")) == set(names(kind))


def test_options_that_a_scorer_does_not_have_are_refused():
    with pytest.raises(UsageError, match="does not take this option") as refused:
        built(scorer="kprune", scorer_options={"points": 3, "temperature": 2.0})
    assert refused.value.got == "points"
    assert refused.value.allowed == "lambda_pred, lambda_rep, temperature"
    for name, value in (("seed", 1), ("per", "batch"), ("tokens_per_pass", 9)):
        with pytest.raises(UsageError, match="does not take") as refused:
            built(scorer="magnitude", scorer_options={name: value})
        assert refused.value.allowed == "no options"


def test_the_loss_of_labels_is_refused_without_any():
    spec = MethodSpec(scorer="fisher", scorer_options={"loss": "label"})
    assert build(spec, seed=0, labelled=True).scorer.loss == "label"
    with pytest.raises(UsageError, match="needs labels") as refused:
        build(spec, seed=0, labelled=False)
    assert "scorer_options.loss" in refused.value.next_step
    assert build(PRESETS["kwon"], seed=0, labelled=False).scorer.loss == "predictive"
    assert build(PRESETS["kwon"], seed=0, labelled=True).scorer.loss == "label"


def test_parts_that_do_not_go_together_are_refused_with_those_that_do():
    with pytest.raises(UsageError, match="gradients of every example") as refused:
        built(scorer="magnitude", refine="best")
    assert "fisher" in refused.value.allowed and "kprune" not in refused.value.allowed
    assert refused.value.next_step == "correct method.refine"
    with pytest.raises(UsageError, match="decide on the way") as refused:
        built(schedule="sequential", compensate="scales")
    assert set(refused.value.allowed.split(", ")) == {"projection", "affine"}
    assert built(schedule="sequential", compensate="affine").compensation.on_the_way


def test_capabilities_are_what_the_classes_say():
    assert names_with("scorer", "has_gradients") == ("fisher",)
    assert set(names_with("schedule", "searches_again")) == {"sequential", "iterated"}
    assert names_with("search", "joint") == ("knapsack",)
    assert names_with("search", "no such thing") == ()


def test_what_needs_all_masks_refuses_to_be_told_them_on_the_way():
    for compensation in (NoCompensation(), Scales()):
        with pytest.raises(UsageError, match="before it begins"):
            compensation.fit(None, [], lambda site, resumed: np.ones(site.units), [])


def test_no_refinement_changes_nothing_and_the_best_needs_gradients_to():
    kept = {"a": [2, 0]}
    alone = Scores({"a": np.ones(3)})
    rows = Scores({"a": np.ones(3)}, {"a": np.array([[1.0, -1.0, 1.0], [0.0, 0.0, 5.0]])})
    assert NoRefinement()(kept, rows) == Best()(kept, alone) == {"a": (2, 0)}
    # Without unit 1 the damage is 1; nothing is better. Without unit 2 it is 26.
    assert Best()({"a": [0, 1]}, rows)["a"] != (0, 1)
