"""The reference of recipes is whole and true."""

import re
from pathlib import Path

import yaml

from rfx.core.registry import names
from rfx.recipe.presets import PRESETS
from rfx.recipe.read import bundled_recipes, make_recipe
from rfx.recipe.spec import Budget, MethodSpec, Recipe
from rfx.tasks.find import task_class, task_names

TEXT = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")


def test_every_key_is_documented_with_its_default():
    whole, method = (yaml.safe_load(b) for b in re.findall(r"```yaml\n(.*?)```", TEXT, re.S))
    assert set(whole) == set(Recipe.model_fields) - {"schema_version", "quickstart", "origin"}
    assert set(method["method"]) == set(MethodSpec.model_fields) - {"name"}
    documented, plain = make_recipe(whole | method).model_dump(), Recipe().model_dump()
    for name in (
        "max_length",
        "workload",
        "calibration",
        "target",
        "limits",
        "seed",
        "task_options",
    ):
        assert documented[name] == plain[name], name
    assert {k: v for k, v in documented["method"].items() if k != "name"} == {
        k: v for k, v in plain["method"].items() if k != "name"
    }
    assert set(whole["data"]) == set(plain["data"]) and Budget(**whole["budget"])


def test_names_are_all_there():
    for name in (
        *PRESETS,
        *names("scorer"),
        *names("search"),
        *names("refiner"),
        *names("compensation"),
        *names("schedule"),
        *task_names(),
        *bundled_recipes(),
    ):
        assert name in TEXT, name
    for task in task_names():
        for metric in task_class(task).metrics:
            assert metric in TEXT, metric
