"""The recipe: presets, files, and mistakes that are named."""

import pytest
import yaml

from rfx.core.errors import UsageError
from rfx.recipe.presets import PRESETS
from rfx.recipe.read import make_recipe, read_recipe


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
        ({"budget": {"latency": 0.7, "flops": 0.6}}, "not both"),
        ({"method": "magic"}, "kwon-reference"),
        ({"workload": {"precision": "int8"}}, "workload.precision"),
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
    (tmp_path / "elsewhere" / "train.jsonl").write_text(
        "{}"
    )  # of the same name, where the command is run
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
