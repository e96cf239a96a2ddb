"""The tasks by name. A new one is a class registered with `@register("task", "name")`."""

from __future__ import annotations

from typing import cast

from rfx.core import registry
from rfx.tasks.base import Task


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
