"""What was asked for becomes what is done: once, in one place."""

from types import SimpleNamespace

import pytest

import rfx
from rfx.core.errors import UsageError
from rfx.pipeline.examples import make_task
from rfx.pipeline.resolve import engine_options, open_session, resolve_model
from rfx.recipe.read import make_recipe
from rfx.tasks.text_classification import TextClassification


def test_an_engine_takes_no_more_than_the_model(trained, cache):
    """The default length of the task is longer than the tiny model's 64 positions."""
    recipe = rfx.Recipe(model=str(trained["model"]), target="ort")
    session = open_session(recipe)
    assert session.target.serves.options.max_sequence == 128
    resolved, _ = resolve_model(session, recipe)
    assert resolved.max_length == resolved.workload.sequence == 64
    assert session.target.serves.options.max_sequence == 64
    assert session.target.here is session.target.serves


def test_options_that_another_packages_runtime_brings_reach_it():
    class Engine(type(make_recipe({}).engine)):
        fan_speed: int = 3

    recipe = make_recipe({}).model_copy(update={"engine": Engine(workspace_mb=64, fan_speed=5)})
    options = engine_options(recipe, None)
    assert options.workspace_mb == 64 and options.more == {"fan_speed": 5}
    assert options.to_json()["fan_speed"] == 5


class Tuned(TextClassification):
    """A task with options of its own."""

    name = "tuned"

    def __init__(self, *given, average: str = "macro", beta: float = 1.0, **more):
        super().__init__(*given, **more)
        self.average, self.beta = average, beta


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"average": "micro", "beta": 2}, None),
        ({"average": 3}, "average: 3"),
        ({"beta": "two"}, "beta: 'two'"),
        ({"gamma": 1}, "gamma: 1"),
    ],
)
def test_options_of_a_task_are_of_the_kind_of_their_default(trained, forgets, options, refused):
    rfx.register("task", "tuned")(Tuned)
    subject = rfx.load_model(trained["model"], task="tuned")
    recipe = make_recipe({"task": "tuned", "task_options": options})
    if refused is None:
        task = make_task(recipe, subject)
        assert (task.average, task.beta) == ("micro", 2)
        return
    with pytest.raises(UsageError, match="does not take this option") as error:
        make_task(recipe, subject)
    assert refused in str(error.value.got) and "average (default macro)" in error.value.allowed


@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
def test_label_names_that_contradict_each_other_are_settled_by_the_users_own(task):
    config = SimpleNamespace(
        num_labels=2,
        id2label={0: "negative", 1: "positive"},
        label2id={"negative": 1, "positive": 0},
    )
    subject = SimpleNamespace(model=SimpleNamespace(config=config), preprocessor=None)
    with pytest.raises(UsageError, match="contradict each other") as error:
        make_task(make_recipe({"task": task}), subject)
    assert error.value.exit_code == 2 and "--labels" in error.value.next_step
    made = make_task(make_recipe({"task": task, "data": {"labels": ["bad", "good"]}}), subject)
    assert made.class_index("good") == 1
