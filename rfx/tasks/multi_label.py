"""Texts that have any number of labels each: a model with one yes or no an output
(`problem_type: multi_label_classification`)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from rfx.core.errors import UsageError
from rfx.core.output import OutputName
from rfx.core.values import short
from rfx.tasks.base import Constant, Example, Feature
from rfx.tasks.columns import column, missing, must_have, written_as
from rfx.tasks.labels import columns_of_labels, names_in, whole
from rfx.tasks.multi_label_metrics import (
    METRICS,
    bootstrap_labels_of_texts,
    extremes_of_labels,
)
from rfx.tasks.several_labels import Read, SeveralLabels
from rfx.tasks.text_classification import TRIED

PROBLEM = "multi_label_classification"
SEPARATORS = "|;,"  # between the labels of one text


class MultiLabel(SeveralLabels):
    """Labels are lists of names or numbers, texts with "|", ";" or "," between them, lists of a 0
    or a 1 for each label, or a column of 0 and 1 for each label.

    Args:
        threshold: a label is given where its probability is at least this.
    """

    metrics: ClassVar[tuple[str, ...]] = tuple(METRICS)
    output_names: ClassVar[tuple[str, ...]] = (OutputName("logits", "labels"),)

    def __init__(self, tokenizer: Any, *, threshold: float = 0.5, **more: Any) -> None:
        super().__init__(tokenizer, **more)
        if not 0 < threshold < 1:
            raise UsageError(
                "The threshold of a label is a probability.",
                got=f"task_options: threshold: {threshold!r}",
                allowed="a number between 0 and 1, such as 0.5",
                next_step="correct --task-option threshold (recipe: task_options)",
            )
        self.regression, self.threshold = False, float(threshold)

    def _reader(
        self, rows: Sequence[Mapping[str, Any]], text: str, pair: str | None, *, needed: bool
    ) -> Read:
        there = list(dict.fromkeys(name for row in rows for name in row))
        own = [written_as([c for c in there if c not in (text, pair)], n) for n in self.label_names]
        columns = [c for c in own if c is not None]
        if "label" not in self.columns and len(columns) == self.num_labels > 1:
            return self._of_columns(text, pair, columns)
        named = "label" in self.columns
        label = column(rows, "label", self.columns, required=needed and named, exclude=[text])
        several = columns_of_labels(rows, text) if label is None else []
        if not columns and len(several) == self.num_labels > 1:
            # In the order of the file: nothing else says which is which.
            for i, name in enumerate(several):
                self.called[name] = i
            return self._of_columns(text, pair, several)
        if label is None and needed:
            if columns or len(several) > 1:
                lacking = [n for n, c in zip(self.label_names, own) if c is None]
                raise UsageError(
                    "The columns of labels are not those of the model.",
                    got=f"columns {short(', '.join(columns or several), 300, bare=True)}",
                    allowed=f"a column of 0 and 1 for each of {self.classes_allowed()}",
                    next_step="rename the columns as the model's labels; there is none of "
                    + short(", ".join(lacking), 200, bare=True),
                )
            must_have(rows, "label", self.columns)  # which says what there is
        self.taken = {"text": text, "text_pair": pair, "label": label}
        return self._of_lists(rows, label)

    def _of_columns(self, text: str, pair: str | None, columns: Sequence[str]) -> Any:
        self.taken = {"text": text, "text_pair": pair, "label": ", ".join(columns)}

        def read(row: Mapping[str, Any], number: int) -> tuple[int, ...] | None:
            values = [row.get(c) for c in columns]
            if all(missing(v) for v in values):
                return None
            numbers = [_plain(v) for v in values]
            for name, value, found in zip(columns, values, numbers):
                if found not in (0, 1):
                    raise self._wrong(value, name, number, "0 or 1")
            return tuple(int(n) for n in numbers if n is not None)

        return read

    def _of_lists(self, rows: Sequence[Mapping[str, Any]], label: str | None) -> Any:
        names = names_in(rows, label, self.label_names)
        lists = [self._parts(row.get(label)) if label is not None else None for row in rows]
        if any(lists):  # then an empty field says that there is no label
            lists = [[] if found is None else found for found in lists]
        marks = self._are_marks(lists, str(label))

        def read(row: Mapping[str, Any], number: int) -> tuple[int, ...] | None:
            found = lists[number - 1]
            if found is None:
                return None
            there = [0] * self.num_labels
            if marks:
                return tuple(_plain(v) or 0 for v in found or there)
            for value in found:
                one = not isinstance(value, (list, tuple, dict))
                index = self.label_index(value, names) if one else None
                if index is None:
                    raise self._wrong(value, str(label), number, self.classes_allowed())
                if there[index]:
                    raise UsageError(
                        f"Row {number} has one label twice.",
                        got=f"{label}: {short(found, 300, bare=True)}",
                        allowed="each label once; or in every row a 0 or a 1 for each of the "
                        f"model's {self.num_labels} labels",
                        next_step="correct the row",
                    )
                there[index] = 1
            return tuple(there)

        return read

    def _are_marks(self, lists: Sequence[list[Any] | None], label: str) -> bool:
        """Whether the lists have a 0 or a 1 for each label, and not numbers of labels. An empty one
        says in either form that there is no label.

        Raises:
            UsageError: some rows can be nothing else, and others cannot be that.
        """
        given = [(number, found) for number, found in enumerate(lists, 1) if found]
        size = self.num_labels
        if size == 1:  # there it is, or it is not
            return bool(given) and all(
                len(found) == 1 and _plain(found[0]) in (0, 1) for _, found in given
            )
        others = [
            (number, found)
            for number, found in given
            if len(found) != size or not {_plain(v) for v in found} <= {0, 1}
        ]
        if not others:
            return bool(given)
        # No label is named twice: so many of a 0 or a 1 are one for each label.
        sure = [number for number, found in given if size > 2 and (number, found) not in others]
        if sure:
            number, found = others[0]
            raise UsageError(
                f"Row {number} has its labels in another form than row {sure[0]}, which has a 0 or "
                f"a 1 for each of the model's {size} labels.",
                got=f"{label}: {short(found, 300, bare=True)}",
                allowed=f"in every row {size} times 0 or 1, or in every row names of labels",
                next_step="write the labels of all rows in one form",
            )
        return False

    def _parts(self, value: Any) -> list[Any] | None:
        """The labels of a text, one by one; None where nothing is said of them."""
        if isinstance(value, (list, tuple)):
            return list(value)
        if missing(value):
            return None
        if not isinstance(value, str):
            return [value]
        text = value.strip()
        if text.startswith("["):
            try:
                found = json.loads(text)
            except ValueError:
                found = None
            if isinstance(found, list):
                return found
        if text.lower() in {str(n).lower() for n in self.label_names}:
            return [text]  # whose name may hold a comma
        for separator in SEPARATORS:
            if separator in text:
                return [part.strip() for part in text.split(separator) if part.strip()]
        return [text]

    def _wrong(self, value: Any, name: str, number: int, allowed: str) -> UsageError:
        return UsageError(
            f"A label of row {number} is not one of the model's.",
            got=f"{name}: {short(value, 300, bare=True)}",
            allowed=allowed,
            next_step="correct it, or name the labels in the model's order with --labels",
        )

    def one_label(self, labels: Sequence[Any]) -> Any:
        return None  # texts with different labels contradict one another

    def losses(self, outputs: Any, targets: Mapping[str, Any]) -> Any:
        """Binary cross-entropy, summed over the labels: torch [batch]."""
        from torch.nn import functional

        logits = outputs.logits  # [batch, labels]
        return functional.binary_cross_entropy_with_logits(
            logits, targets["labels"].to(logits.dtype), reduction="none"
        ).sum(-1)

    def predict(
        self,
        logits: Mapping[str, Sequence[np.ndarray]],
        features: Sequence[Feature],
        examples: Sequence[Example],
    ) -> list[Any]:
        """A tuple an example: for each label 0 or 1, or for `map` its probability."""
        with np.errstate(over="ignore"):
            sure = [1 / (1 + np.exp(-np.asarray(x, np.float64))) for x in logits["logits"]]
        if self.metric_name == "map":
            return [tuple(float(p) for p in row) for row in sure]
        return [tuple(int(p >= self.threshold) for p in row) for row in sure]

    def answers(self, predictions: Sequence[Any]) -> Sequence[Any]:
        """Whether each label is given, text by text."""
        return [bool(p >= self.threshold) for row in predictions for p in row]

    def metric(self, predictions: Sequence[Any], examples: Sequence[Example]) -> float:
        return METRICS[self.metric_name](*_arrays(predictions, examples))

    def bootstrap(
        self,
        first: Sequence[Any],
        second: Sequence[Any],
        examples: Sequence[Example],
        *,
        resamples: int = 1000,
        seed: int = 0,
    ) -> np.ndarray:
        one, true = _arrays(first, examples)
        other, _ = _arrays(second, examples)
        return bootstrap_labels_of_texts(self.metric_name, one, other, true, resamples, seed)

    def constant(self, examples: Sequence[Example]) -> Constant | None:
        n = len(examples)
        true = np.asarray([e.label for e in examples], dtype=np.int64).reshape(n, -1)
        if self.metric_name == "map":
            return Constant("one and the same probability", [(0.0,) * self.num_labels] * n)
        order = np.argsort(-true.sum(0), kind="stable")
        best, answer = -math.inf, (0,) * self.num_labels
        for k in {*range(1, min(TRIED, self.num_labels) + 1), self.num_labels}:
            tried = tuple(int(i in order[:k]) for i in range(self.num_labels))
            value = self.metric([tried] * n, examples)
            if value > best:
                best, answer = value, tried
        named = ", ".join(repr(self.model_name(i)) for i, there in enumerate(answer) if there)
        return Constant(short(named, 200, bare=True) or "no label", [answer] * n)

    def classes(
        self, predictions: Sequence[Any], examples: Sequence[Example]
    ) -> tuple[list[int], list[int]] | None:
        return None

    def right(self, predictions: Sequence[Any], examples: Sequence[Example]) -> np.ndarray | None:
        return None

    def extremes(
        self, predictions: Sequence[Any], differs: np.ndarray, examples: Sequence[Example]
    ) -> tuple[float, float]:
        """The bound is that of each label, and of the texts that have it apart from the others:
        they may be few. Where every probability differs a little, as for `map`, the bootstrap has
        the word."""
        if self.metric_name == "map":
            return math.nan, math.nan
        given, true = _arrays(predictions, examples)
        return extremes_of_labels(self.metric_name, given, true, differs)


def _plain(value: Any) -> int | None:
    """A whole number; None for anything else, lists among them."""
    return None if isinstance(value, (list, tuple, dict)) else whole(value)


def _arrays(
    predictions: Sequence[Any], examples: Sequence[Example]
) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true labels, [texts, labels]."""
    true = np.asarray([e.label for e in examples], dtype=np.int64)
    return np.asarray(predictions, dtype=np.float64).reshape(true.shape), true
