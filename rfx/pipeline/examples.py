"""The examples that a recipe names, as its task reads them."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from rfx.core.errors import UsageError
from rfx.evidence.records import DataPart
from rfx.methods.build import build
from rfx.models.subject import Subject
from rfx.pipeline.ids import check_ids
from rfx.pipeline.session import Session
from rfx.recipe.spec import Recipe
from rfx.tasks.base import Task
from rfx.tasks.data import load_examples as read_file
from rfx.tasks.examples import Examples, Source, read_examples
from rfx.tasks.find import task_for


@dataclass(frozen=True)
class Rows:
    """What the files of a recipe hold, read before the model is loaded."""

    train: Source
    evaluation: Source


def read_rows(session: Session, recipe: Recipe) -> Rows:
    """The rows of the recipe's examples. It needs no model, so that a mistake in a path or a file
    is said before the time that a model takes.

    Raises:
        UsageError: no data, or a file that cannot be read.
    """
    data = recipe.data
    if not data.train or not data.eval:
        missing = "--train" if not data.train else "--eval"
        raise UsageError(
            f"There are no {'training' if not data.train else 'evaluation'} examples.",
            got="nothing",
            allowed="a file, or a datasets name such as glue/sst2",
            next_step=f"add {missing}",
        )

    def read(name: str, split: str, limit: int | None) -> Source:
        rows = read_file(
            name,
            split=split,
            limit=limit,
            max_mb=data.max_mb,
            named=frozenset(data.columns.values()),
            note=session.note,
        )
        return Source(name, split, limit, tuple(rows))

    return Rows(
        read(data.train, data.train_split, data.limit_train),
        read(data.eval, data.eval_split, data.limit_eval),
    )


def load_examples(
    session: Session, recipe: Recipe, subject: Subject, rows: Rows | None = None
) -> Examples:
    """Examples and features of the recipe, calibration and evaluation disjoint.

    Args:
        rows: those of its files, where they have been read already.

    Raises:
        UsageError: whatever is wrong with a file, a column or a label; too few examples.
    """
    task = make_task(recipe, subject)
    rows = rows or read_rows(session, recipe)
    examples = read_examples(
        task,
        train=rows.train,
        evaluation=rows.evaluation,
        count=recipe.calibration.examples,
        seed=recipe.calibration.seed,
        replacement=recipe.method.replacement,
        note=session.note,
        warn=session.warn,
    )
    check_ids(subject, examples)
    if not examples.labelled:
        scorer = build(recipe.method, seed=recipe.seed, labelled=False).scorer
        said = (
            "the scorer goes by what the model itself predicts"
            if scorer.uses_labels
            else "the scorer needs none"
        )
        session.note(f"the calibration examples have no labels: {said}")
    return examples


def make_task(recipe: Recipe, subject: Subject) -> Task:
    """The recipe's task for this model.

    Raises:
        UsageError: an option or a label that the task does not have.
        UnsupportedModelError: a head of another kind than the task judges.
    """
    config = subject.model.config
    cls = task_for(recipe.task, config)
    _check_options(cls, recipe.task_options)
    options = {**cls.options_of(config), **recipe.task_options}
    cls.check_model(config)
    if not recipe.data.labels:
        cls.check_names(config)
    task = cls(
        subject.preprocessor,
        num_labels=int(config.num_labels or 0),
        id2label={int(k): str(v) for k, v in (config.id2label or {}).items()},
        max_length=recipe.max_length,
        metric=recipe.metric,
        columns=recipe.data.columns,
        label_names=recipe.data.labels,
        **options,
    )
    task.strict = recipe.data.strict
    return task


def data_part(examples: Examples) -> DataPart:
    """What the evidence says of the examples."""
    return DataPart(
        calibration=len(examples.calibration),
        evaluation=len(examples.evaluation),
        calibration_hash=examples.calibration_hash,
        evaluation_hash=examples.evaluation_hash,
        training_hash=examples.training_hash,
        overlap=examples.overlap,
        dropped_overlap=examples.dropped_overlap,
        near_copies=examples.near_copies,
        duplicates=examples.duplicates,
        repeated_calibration=examples.repeated_calibration,
        skipped=examples.skipped,
        contradictory=examples.contradictory,
        label_mapping=dict(examples.label_mapping),
    )


def _check_options(cls: type[Task], options: dict[str, Any]) -> None:
    """Raises UsageError for task options that the task does not have, or of another type."""
    common = set(inspect.signature(Task.__init__).parameters) | {"more"}
    known = {n: p for n, p in inspect.signature(cls.__init__).parameters.items() if n not in common}
    for name, value in options.items():
        default = known[name].default if name in known else None
        text = isinstance(default, str) and isinstance(value, str)
        number = isinstance(value, (int, float)) or (value is None and default is None)
        if name not in known or not (text if isinstance(default, str) else number):
            raise UsageError(
                f"{cls.name} does not take this option.",
                got=f"task_options: {name}: {value!r}",
                allowed=", ".join(f"{n} (default {p.default})" for n, p in known.items()) or "none",
                next_step="correct --task-option (recipe: task_options)",
            )
