"""The tasks by name. A new one is a class registered with `@register("task", "name")`."""

from __future__ import annotations

from typing import Any, cast

from rfx.core import registry
from rfx.tasks.base import Task
from rfx.tasks.embeddings import Embeddings
from rfx.tasks.multi_label import PROBLEM, MultiLabel
from rfx.tasks.several_numbers import SeveralNumbers
from rfx.tasks.text_classification import TextClassification


def task_names() -> tuple[str, ...]:
    """The names of all tasks; nothing is imported."""
    return registry.names("task")


def task_class(name: str | None) -> type[Task]:
    """The task class `name`.

    Raises:
        UsageError: no task has this name.
        EnvironmentMissingError: the plug-in that brings it cannot be imported.
    """
    found = registry.find("task", name, next_step="correct --task (recipe: task)")
    return cast("type[Task]", found)


def task_for(name: str | None, config: Any) -> type[Task]:
    """The class that judges a model of this configuration: a task may have several kinds of heads.

    Raises:
        UsageError, EnvironmentMissingError: as `task_class`.
    """
    found = task_class(name)
    if found is not TextClassification:
        return found
    kind = getattr(config, "problem_type", None)
    if kind == PROBLEM:
        return MultiLabel
    numbers = kind == "regression" and int(getattr(config, "num_labels", 0) or 0) > 1
    return SeveralNumbers if numbers else found


def sentence_task() -> str:
    """The task of models that give one vector a text."""
    return Embeddings.name


def task_of(architecture: str | None) -> str | None:
    """The task of an architecture as a checkpoint's configuration names it
    ("BertForTokenClassification"), by the Auto classes of the tasks; of two tasks with one head the
    first.

    Any other architecture counts as a classifier, and loading it tells whether it is one. None
    where `architecture` is None.
    """
    if architecture is None:
        return None
    for name in task_names():
        if not task_class(name).own_head:
            continue
        if architecture.endswith(task_class(name).auto_class.removeprefix("AutoModel")):
            return name
    return TextClassification.name
