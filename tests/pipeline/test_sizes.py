"""What is asked of an engine must be within what the engine and the model take."""

from types import SimpleNamespace

import pytest

from rfx.core.errors import UsageError
from rfx.pipeline.require import engine_sizes
from rfx.recipe.read import make_recipe


def recipe(**engine):
    return make_recipe(
        {"max_length": 64, "workload": {"sequence": 32, "batch": 4}, "engine": engine}
    )


def runtime(profiled=True):
    return SimpleNamespace(capabilities=SimpleNamespace(profiled=profiled))


@pytest.mark.parametrize("engine", [{"max_sequence": 63}, {"max_sequence": 513}, {"max_batch": 3}])
def test_an_engine_that_could_not_run_its_own_evaluation_is_refused(engine):
    with pytest.raises(
        UsageError, match="smaller than what is timed|longer than the model"
    ) as refused:
        engine_sizes(recipe(**engine), runtime(), 512)
    assert next(iter(engine)).replace("_", "-") in refused.value.what
    assert refused.value.next_step.startswith(
        "lower" if "longer" in refused.value.what else "raise"
    )
    assert "lower --" in refused.value.next_step
    engine_sizes(recipe(**engine), runtime(profiled=False), 512)  # compiles nothing


@pytest.mark.parametrize(
    "engine", [{}, {"max_sequence": 64, "max_batch": 4}, {"max_sequence": 512}]
)
def test_one_that_can_is_not(engine):
    engine_sizes(recipe(**engine), runtime(), 512)
    engine_sizes(recipe(max_sequence=4096), runtime(), None)  # nothing limits the positions
