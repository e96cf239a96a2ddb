"""Mistakes in a method are said before any work, and say what is allowed."""

import pytest

from rfx.core.errors import UsageError
from rfx.core.registry import register
from rfx.pipeline import require
from rfx.pipeline.require import names
from rfx.recipe.presets import PRESETS
from rfx.recipe.read import make_recipe
from rfx.runtimes.find import runtime
from rfx.tasks.find import task_class


def recipe(preset, **more):
    return make_recipe({"method": {**PRESETS[preset].model_dump(), **more}})


@pytest.mark.parametrize(
    "preset, more, said, allowed",
    [
        ("kwon", {"schedule": "sequential"}, "decide on the way", "projection, affine"),
        ("magnitude", {"schedule": "sequential"}, "decide on the way", "projection, affine"),
        (
            "rfx",
            {"scorer_options": {"temprature": 2.0}},
            "does not take this option",
            "temperature",
        ),
        ("rfx", {"scorer_options": {"seed": 1}}, "does not take this option", "points"),
        ("magnitude", {"scorer_options": {"points": 1}}, "does not take this option", "no options"),
        ("rfx", {"scorer_options": {"temperature": 0}}, "out of range", "above 0"),
        ("rfx", {"scorer_options": {"temperature": float("nan")}}, "out of range", "above 0"),
        ("rfx", {"scorer_options": {"points": -2}}, "out of range", "whole number"),
        ("rfx", {"scorer_options": {"points": 2.5}}, "out of range", "whole number"),
        ("rfx", {"scorer_options": {"points": 2, "examples": 0}}, "out of range", "at least 1"),
        ("kprune", {"scorer_options": {"lambda_rep": -1}}, "out of range", "at least 0"),
        ("kwon", {"scorer_options": {"loss": "sum"}}, "no such Fisher loss", "predictive"),
    ],
)
def test_a_method_that_cannot_work_is_refused(preset, more, said, allowed):
    with pytest.raises(UsageError, match=said) as error:
        names(recipe(preset, **more))
    assert allowed in error.value.allowed


@pytest.mark.parametrize(
    "preset, more",
    [
        *((name, {}) for name in PRESETS),
        ("kwon", {"scorer_options": {"loss": "predictive"}}),
        ("rfx", {"scorer_options": {"points": 4, "temperature": 1.5}}),
        ("kprune", {"scorer_options": {"lambda_rep": 0}}),
    ],
)
def test_one_that_can_is_not(preset, more):
    names(recipe(preset, **more))


def test_a_precision_is_named_where_there_is_none_or_the_runtime_has_not_got_it():
    ort = runtime("ort")
    with pytest.raises(UsageError, match="no precision of this name") as error:
        require.precision(make_recipe({"workload": {"precision": "fp61"}}), ort)
    assert "fp16" in error.value.allowed and "fp16" in error.value.next_step
    with pytest.raises(UsageError, match="does not run at this precision") as error:
        require.precision(make_recipe({"workload": {"precision": "bf16"}}), ort)
    assert error.value.allowed == "fp32, int8"
    assert "or --target" in error.value.next_step and "openvino" in error.value.next_step
    require.precision(make_recipe({}), ort)


def test_a_task_says_which_roles_columns_have(forgets):
    class Pictures(task_class("text-classification")):
        roles = ("image", "label")

    register("task", "pictures")(Pictures)
    names(make_recipe({"task": "pictures", "data": {"columns": {"image": "path"}}}))
    with pytest.raises(UsageError, match="no such column role") as error:
        names(make_recipe({"task": "pictures", "data": {"columns": {"text": "path"}}}))
    assert error.value.allowed == "image, label"
