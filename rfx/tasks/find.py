"""The tasks, by name. A new one is a file with a `Task` class and a line here."""

from __future__ import annotations

from rfx.core.errors import UsageError
from rfx.tasks.base import Example, Feature, MetricResult, Task
from rfx.tasks.question_answering import QuestionAnswering
from rfx.tasks.text_classification import TextClassification
from rfx.tasks.token_classification import TokenClassification

TASKS: dict[str, type[Task]] = {
    t.name: t for t in (TextClassification, QuestionAnswering, TokenClassification)
}


def task(name: str | None) -> type[Task]:
    """The task class `name`. Raises UsageError for any other name."""
    if name not in TASKS:
        raise UsageError(
            "There is no task of this name.",
            got=name,
            allowed=", ".join(TASKS),
            next_step="give --task",
        )
    return TASKS[name]


__all__ = ["TASKS", "Example", "Feature", "MetricResult", "Task", "task"]
