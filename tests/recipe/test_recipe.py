"""The recipe: presets, files, and mistakes that are named."""

import copy
import pickle
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from rfx.core.errors import UsageError
from rfx.recipe.fields import leaves
from rfx.recipe.presets import PRESETS, label
from rfx.recipe.read import bundled_recipes, make_recipe, read_recipe
from rfx.recipe.sections import Limits
from rfx.recipe.spec import Recipe


def test_defaults_are_the_stated_ones():
    recipe = make_recipe({})
    assert recipe.workload.model_dump() == {
        "batch": 1,
        "sequence": 128,
        "threads": 1,
        "precision": "fp32",
    }
    assert recipe.method == PRESETS["rfx"] and recipe.calibration.examples == 2048


@pytest.mark.parametrize("name", PRESETS)
def test_a_method_is_named_by_its_preset(name):
    assert make_recipe({"method": name}).method == PRESETS[name]


def test_round_trip(tmp_path):
    recipe = make_recipe(
        {
            "model": "m",
            "task": "text-classification",
            "budget": {"latency": 0.7},
            "method": "kwon-reference",
        }
    )
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert read_recipe(tmp_path / "r.yaml") == recipe


@pytest.mark.parametrize(
    "data, says",
    [
        ({"latency": 0.7}, "latency"),
        ({"budget": {"latency": 1.2}}, "budget.latency"),
        ({"budget": {"latency": 0.7, "flops": 0.6}}, "only one of"),
        ({"method": "magic"}, "kwon-reference"),
        ({"workload": {"precision": 8}}, "workload.precision"),
        ({"calibration": {"examples": 1}}, "calibration.examples"),
        ({"seed": -1}, "seed"),
        ({"calibration": {"seed": -1}}, "calibration.seed"),
        ({"max_drop": float("inf")}, "max_drop"),
    ],
)
def test_mistakes_are_named(data, says):
    with pytest.raises(UsageError, match=says):
        make_recipe(data)


def test_a_task_is_a_name_that_the_registry_checks():
    from rfx.tasks.find import task_class

    assert make_recipe({"task": "translation"}).task == "translation"
    with pytest.raises(UsageError, match="text-classification"):
        task_class(make_recipe({"task": "translation"}).task)


@pytest.mark.parametrize("text", ["[1, 2]", "a: b: c", "\x00"])
def test_files_that_hold_no_recipe(tmp_path, text):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UsageError):
        read_recipe(tmp_path / "r.yaml")


def test_a_missing_file_names_the_bundled_ones():
    with pytest.raises(UsageError, match="does not exist"):
        read_recipe("nowhere.yaml")


def test_files_beside_a_recipe_are_found(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    # Of the same name, where the command is run.
    (tmp_path / "elsewhere" / "train.jsonl").write_text("{}")
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "train.jsonl").write_text("{}")
    (tmp_path / "r.yaml").write_text("data: {train: train.jsonl, eval: glue/sst2}")
    recipe = read_recipe(tmp_path / "r.yaml")
    assert recipe.data.train == str(tmp_path / "train.jsonl") and recipe.data.eval == "glue/sst2"


def test_a_known_method_with_changes_starts_from_that_method():
    changed = make_recipe({"method": {"name": "kwon", "polish": True}}).method
    assert changed == PRESETS["kwon"].model_copy(update={"polish": True})
    own = make_recipe({"method": {"name": "mine", "scorer": "fisher"}}).method
    assert own.name == "mine" and own.compensate == PRESETS["rfx"].compensate
    for preset in PRESETS.values():  # what evidence holds is read back as it was
        assert make_recipe({"method": preset.model_dump()}).method == preset


@pytest.mark.parametrize(
    "method, said, allowed",
    [
        ({"serch": "knapsack"}, "did you mean search?", "compensate"),
        ({"polish": "maybe"}, "method.polish", "true or false"),
        (["rfx"], "method", "a mapping of keys"),
        (None, "method", "a mapping of keys"),
        ("rfxx", "no method of this name", "kprune"),
        ({"rounds": 2.5}, "method.rounds", "a whole number"),
        ({"scorer_options": 3}, "scorer_options", "a mapping of keys"),
    ],
)
def test_a_mistake_in_the_method_is_answered_with_what_is_allowed_there(method, said, allowed):
    with pytest.raises(UsageError) as error:
        make_recipe({"method": method})
    assert (
        said in error.value.what
        and allowed in error.value.allowed
        and "schema_version" not in error.value.allowed
    )
    assert "Method" not in error.value.what and len(str(error.value.got)) < 160


def test_a_recipe_is_frozen_all_the_way_down():
    recipe = make_recipe(
        {"data": {"columns": {"text": "t"}, "labels": ["a", "b"]}, "task_options": {"n_best": 3}}
    )
    for part, name, value in (
        (recipe, "seed", 3),
        (recipe.workload, "batch", 2),
        (recipe.method, "scorer", "x"),
    ):
        with pytest.raises(ValidationError):
            setattr(part, name, value)
    for table in (recipe.data.columns, recipe.task_options, recipe.origin, make_recipe({}).origin):
        with pytest.raises(TypeError, match="frozen"):
            table["new"] = "x"
        with pytest.raises(TypeError, match="frozen"):
            table.clear()
    assert isinstance(recipe.data.labels, tuple)
    assert pickle.loads(pickle.dumps(recipe)) == copy.deepcopy(recipe) == recipe


def test_a_changed_recipe_is_another_one_and_says_who_changed_it():
    recipe = make_recipe({"model": "m", "budget": {"latency": 0.7}}, origin="the file r.yaml")
    other = recipe.changed(
        {"workload.sequence": 64, "budget": {"flops": 0.5}, "data.columns.text": "t"},
        origin={"workload.sequence": "the model", "budget": "the sweep"},
    )
    assert recipe.workload.sequence == 128 and other.workload.sequence == 64
    assert other.budget.flops == 0.5 and other.budget.latency is None
    assert other.origin["workload.sequence"] == "the model"
    assert other.origin["budget.flops"] == "the sweep"
    assert other.origin["budget.latency"] == other.origin["workload.batch"] == "default"
    assert other.origin["model"] == "the file r.yaml" and other.origin["data.columns"] == "given"
    assert other.given("workload.sequence") and not recipe.given("workload.sequence")
    assert other.changed({"workload.sequence": 128, "budget": {"latency": 0.7}}).workload == (
        recipe.workload
    )
    for values, said in (
        ({"workload.sequence": 0}, "--sequence"),
        ({"sequence": 3}, "no such key"),
    ):
        with pytest.raises(UsageError, match=said):
            recipe.changed(values)


def test_the_origin_covers_every_key_and_stays_in_the_evidence():
    recipe = make_recipe({"method": "kwon", "seed": 3}, origin="the file r.yaml")
    assert set(recipe.origin) == set(leaves(Recipe))
    assert recipe.origin["seed"] == "the file r.yaml" and recipe.origin["max_length"] == "default"
    assert recipe.origin["method.scorer"] == "the preset kwon"
    again = make_recipe(recipe.model_dump(mode="json"))
    assert again == recipe and again.origin == recipe.origin
    assert Recipe(seed=3) == make_recipe({"seed": 3}, origin="elsewhere")
    assert Recipe(seed=3) != Recipe(seed=4)


def test_a_recipe_of_schema_1_is_read():
    kept = Path(__file__).parents[1] / "golden" / "schema1" / "recipe.yaml"
    recipe, old = read_recipe(kept), yaml.safe_load(kept.read_text())
    assert recipe.schema_version == 2
    assert recipe.workload.model_dump() == old["conditions"]
    assert recipe.limits == Limits(max_drop=old["max_drop"], min_speedup=old["min_speedup"])
    data = recipe.model_dump(mode="json")
    assert {k: data["data"][k] for k in old["data"]} == old["data"]  # newer keys have defaults
    assert {k: data["budget"][k] for k in old["budget"]} == old["budget"]  # likewise
    assert data["budget"]["size"] is None
    for key in ("model", "task", "engine", "calibration", "method", "seed"):
        assert data[key] == old[key], key


@pytest.mark.parametrize("name", bundled_recipes())
def test_a_bundled_recipe_says_that_it_is_one(name):
    recipe = read_recipe(name)
    assert recipe.name == name and recipe.origin["metric"] == f"the recipe {name} of rfx"


def test_a_method_of_which_parts_were_changed_says_so():
    assert label(make_recipe({"method": "kwon"}).method) == "kwon"
    changed = make_recipe({"method": {"name": "rfx", "scorer": "fisher", "guard": False}}).method
    assert label(changed) == "rfx with another scorer, guard"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"budget": {"flops": 2}}, "budget.flops"),
        ({"budget": 0.7}, "wrong kind"),
        ({"budgt": {"flops": 0.5}}, "did you mean budget"),
        ({"workload": {"sequnce": 3}}, "did you mean sequence"),
        ({"latancy": 0.7}, "did you mean budget.latency"),
        ({"method": "kwonn"}, "did you mean kwon"),
        ({"budget": {"flops": 0.5, "latency": 0.5}}, "only one of"),
    ],
)
def test_a_recipe_that_is_made_in_python_names_its_mistakes_too(given, says):
    with pytest.raises(UsageError, match=says) as error:
        Recipe(model="m", **given)
    assert error.value.what.startswith("The recipe is not valid: ") and error.value.next_step
    assert "origin" not in str(error.value.allowed)
    with pytest.raises(UsageError, match="the file mine.yaml is not valid"):
        make_recipe(given, "the file mine.yaml")


def test_an_opset_and_a_format_that_do_not_go_together_are_refused():
    make_recipe({"opset": 18, "ir_version": 8})
    with pytest.raises(UsageError, match="opset 20 needs an ir_version of at least 9, not 8"):
        make_recipe({"ir_version": 8})
