"""Whether the dense model is one that a pruned model can be compared with: better than a constant
answer, and with its labels in the order in which the data have them.

Everything is measured against the dense model. Where its labels are in another order than those of
the data, its accuracy is low, and a ruined model loses nothing or even gains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rfx.core.errors import UsageError
from rfx.core.values import short
from rfx.tasks.base import Constant, Example, Task
from rfx.tasks.labels import naming
from rfx.tasks.metrics import CLASSIFICATION, LEAST, bootstrap_labels, confusion

RESAMPLES = 400
CLEARLY = 1e-3  # the chance that two orders of the labels that fit alike differ as much as seen
GAIN = 0.05  # of the answers that another order must have right beyond the given one
AGAINST = 0.3  # a correlation below minus this one is called one
SHOWN = 6  # labels in a message
ENOUGH = 30  # examples that all get one answer from a model that is a constant one


@dataclass(frozen=True)
class Weakness:
    """What is wrong with a dense model on these examples.

    Args:
        sure: whether the examples show it; otherwise they are too few, or too much alike, to tell.
    """

    what: str
    got: str
    next_step: str
    sure: bool = True

    def error(self) -> UsageError:
        return UsageError(
            self.what,
            got=self.got,
            allowed="a dense model that is better than a constant answer, with its labels in the "
            "order of the data",
            next_step=f"{self.next_step}; --allow-weak-baseline goes on as it is",
        )


def weakness(
    task: Task, predictions: Sequence[Any], examples: Sequence[Example], *, seed: int = 0
) -> Weakness | None:
    """What is wrong with the dense model's predictions; None where nothing is, or where the metric
    is not defined on these examples."""
    value = task.metric(predictions, examples)
    if not math.isfinite(value):
        return None
    return another_order(task, predictions, examples) or _chance(
        task, predictions, examples, value, seed
    )


def another_order(
    task: Task, predictions: Sequence[Any], examples: Sequence[Example]
) -> Weakness | None:
    """The order of the labels under which the predictions are clearly better, if there is one."""
    from scipy.stats import binomtest

    found = task.classes(predictions, examples)
    if found is None or not found[1] or task.num_labels < 2:
        return None
    # The best of all orders fits better by chance alone, the more labels the more so: each half of
    # the answers is judged by the order that the other half chose.
    predicted, true = (np.asarray(part, dtype=np.int64) for part in found)
    second = np.random.default_rng(0).permutation(len(true)) < len(true) // 2
    halves = [
        confusion(predicted[h].tolist(), true[h].tolist(), task.num_labels)
        for h in (~second, second)
    ]
    better, worse = np.add(_gain(halves[1], _best(halves[0])), _gain(halves[0], _best(halves[1])))
    counts = halves[0] + halves[1]
    order = _best(counts)
    moved = np.flatnonzero(order != np.arange(len(order)))
    # Of tags, those that most words have say little.
    of = int(counts.sum()) - (int(counts.sum(1).max()) if task.token_outputs else 0)
    if better - worse <= GAIN * max(of, 1):
        return None
    if (
        not len(moved)
        or binomtest(int(better), int(better + worse), 0.5, alternative="greater").pvalue > CLEARLY
    ):
        return None
    right, others = int(np.trace(counts)), int(counts[np.arange(len(order)), order].sum())
    said = _confusion_said(task, order, moved, counts)
    unit = "words" if task.token_outputs else "examples"
    return Weakness(
        "The labels in the data are most likely in another order than the model's.",
        f"{right} of {int(counts.sum())} {unit} are answered rightly, and {others} if {said}",
        f"if that is so, {_naming(task, order)}",
    )


def _naming(task: Task, order: np.ndarray) -> str:
    """What to do where the order of the labels is another: `--labels`, which holds for both files
    of examples, and so for one way of writing them alone."""
    numbers: dict[int, set[bool]] = {}
    for value, index in task.called.items():
        numbers.setdefault(index, set()).add(value.isdigit())
    if any(len(ways) > 1 for ways in numbers.values()):
        return (
            "write the labels of both files alike first: they are numbers in one and names in the "
            "other, and --labels holds for both"
        )
    return naming(_names_in_order(task, order))


def _best(counts: np.ndarray) -> np.ndarray:
    """The order of the labels that has most answers right: data's label -> model's label. Of equal
    ones that with fewer labels moved."""
    from scipy.optimize import linear_sum_assignment

    order = linear_sum_assignment(2 * counts + np.eye(len(counts), dtype=int), maximize=True)[1]
    # Labels that are not there may be anywhere: they stay where they are, if that is free.
    return _settled(counts, order)


def _gain(counts: np.ndarray, order: np.ndarray) -> tuple[int, int]:
    """How many answers an order has right that the given one has not, and the other way round."""
    moved = np.flatnonzero(order != np.arange(len(order)))
    return int(counts[moved, order[moved]].sum()), int(counts[moved, moved].sum())


def _settled(counts: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The same order with the labels that no example has where they were, as far as that goes."""
    order = order.copy()
    absent = set(np.flatnonzero(counts.sum(1) == 0).tolist())
    free = {int(order[i]) for i in absent}
    stay = absent & free
    rest = iter(sorted(free - stay))
    for label in sorted(absent):
        order[label] = label if label in stay else next(rest)
    return order


def _confusion_said(task: Task, order: np.ndarray, moved: np.ndarray, counts: np.ndarray) -> str:
    """Which label of the data is most likely which of the model, in words."""
    there = [int(i) for i in np.flatnonzero(counts.sum(1))]
    if 0 not in there and all(order[i] == i - 1 for i in there):
        return "they count from 1 and the model counts from 0"
    called = _called(task)
    named = [
        f"{called[int(i)]} in the data is most likely the model's label "
        f"{task.model_name(int(order[i]))!r}"
        for i in moved
        if int(i) in called
    ]
    return ", ".join(named[:SHOWN]) + (", ..." if len(named) > SHOWN else "")


def _called(task: Task) -> dict[int, str]:
    """The model's index that a label was taken for -> the label as the data have it."""
    called: dict[int, str] = {}
    for value, index in task.called.items():
        called.setdefault(index, value)
    return called


def _names_in_order(task: Task, order: np.ndarray) -> list[str]:
    """What the data call each label of the model, in the model's order: --labels, by which a label
    of the data is found first."""
    called = _called(task)
    numbers = all(value.isdigit() for value in called.values())
    return [
        called.get(label, str(label) if numbers else str(task.label_names[label]))
        for label in np.argsort(order).tolist()
    ]


def _chance(
    task: Task, predictions: Sequence[Any], examples: Sequence[Example], value: float, seed: int
) -> Weakness | None:
    """Whether the metric is at or below that of the best constant answer, or cannot be told from
    it."""
    constant = task.constant(examples)
    if constant is None:
        return None
    least = task.metric(constant.predictions, examples)
    low, high = _interval(task, predictions, constant, examples, seed)
    if not math.isfinite(low) or low > 0:
        return None
    # What the examples can show at all.
    possible = _interval(task, task.perfect(examples), constant, examples, seed)[0] > 0
    got = (
        f"{task.metric_name} {100 * value:.2f} on {len(examples)} examples; {constant.answer} to "
        f"all of them scores {100 * least:.2f}"
    )
    beyond, by = value - least, ""
    classes = task.classes(predictions, examples)
    if task.metric_name == "f1_macro" and classes is not None and beyond > 0:
        # Guesses at random score more than any constant answer does.
        beyond = CLASSIFICATION["matthews"](*classes)
        by = "By the Matthews correlation, which is 0 for every constant answer, "
        got += f"; the Matthews correlation is {100 * beyond:.2f}"
    sure = possible and (high < 0 or beyond <= 0)
    if classes is not None and len({int(i) for i in classes[1]}) > 1:
        # Rare labels leave little to show, but that it is worse than the constant answer they do,
        # and a model that gives one answer alone is one.
        same = len({int(i) for i in classes[0]}) == 1 and len(examples) >= ENOUGH
        sure |= high < 0 or (same and beyond <= 0)
    elif not possible and high < 0:  # of one label alone, whose constant answer nothing can beat
        chance = 1 / max(task.num_labels, 1)
        # Its interval includes guessing, and ends far from what a model of use would score.
        guesses = low + least <= chance and high + least < (1 + chance) / 2
        sure = value <= chance or guesses
    if task.metric_name in LEAST and high < 0 and value < -AGAINST:
        return Weakness(
            "The dense model's predictions run against the labels of the data.",
            got,
            "turn the labels round, e.g. by their highest value minus each of them"
            if task.num_labels == 1
            else _swap(task),
        )
    if sure:
        return Weakness(
            f"{by or 'T'}{'t' if by else ''}he dense model is not better than a constant answer on "
            "the evaluation set.",
            got,
            "check that the data are those of this model, and that --labels, --column and "
            "--max-length fit",
        )
    if possible and beyond > 0:
        return Weakness(
            "The dense model is better than a constant answer by no more than chance alone may "
            "give.",
            got,
            "give more evaluation examples, or another --metric, and check that the data are those "
            "of this model",
            sure=False,
        )
    return Weakness(
        "The evaluation set cannot tell the dense model from a constant answer.",
        got,
        "give more evaluation examples, with more than one label among them",
        sure=False,
    )


def _swap(task: Task) -> str:
    """The next step where labels are in a wrong order that no single one explains."""
    now = short(", ".join(map(repr, task.label_names)), 500, bare=True)
    return f"give the labels in the model's order with --labels (recipe: data.labels); now: {now}"


def _interval(
    task: Task,
    predictions: Sequence[Any],
    constant: Constant,
    examples: Sequence[Example],
    seed: int,
) -> tuple[float, float]:
    """95 % interval of what the predictions score beyond a constant answer; NaN where there is
    none."""
    classes = task.classes(predictions, examples)
    if task.metric_name == "f1_macro" and classes is not None:
        # Guesses at random score more than any constant answer does.
        found = bootstrap_labels(
            "matthews",
            classes[0],
            constant.predictions,
            classes[1],
            task.num_labels,
            RESAMPLES,
            seed,
        )
    else:
        found = task.bootstrap(
            predictions, constant.predictions, examples, resamples=RESAMPLES, seed=seed
        )
    found = found[np.isfinite(found)]
    if not len(found):
        return math.nan, math.nan
    low, high = np.percentile(found, (2.5, 97.5))
    return float(low), float(high)
