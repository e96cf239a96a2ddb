"""Texts with several numbers each: a regression with several outputs (`problem_type:
regression`)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import numpy as np

from rfx.core.errors import UsageError
from rfx.core.output import OutputName
from rfx.core.values import short
from rfx.tasks.agreement import Agreement
from rfx.tasks.base import Constant, Divergence, Example, Feature
from rfx.tasks.columns import column, columns_of, listed, missing, must_have, written_as
from rfx.tasks.labels import real_number
from rfx.tasks.metrics import REGRESSION, bootstrap_numbers
from rfx.tasks.several_labels import Read, SeveralLabels

WHY = "this model gives several numbers for a text, a regression"


class SeveralNumbers(SeveralLabels):
    """Labels are lists of numbers, or a column of numbers for each output, called as the model
    calls it. Predictions are tuples of numbers; a metric is the mean over the outputs."""

    output_names: ClassVar[tuple[str, ...]] = (OutputName("logits", "value"),)
    divergence_kind: Divergence | None = "squared difference"

    def __init__(self, tokenizer: Any, *, metric: str | None = None, **more: Any) -> None:
        super().__init__(tokenizer, metric=metric, **more)
        self.metric_name = metric or next(iter(REGRESSION))
        if self.metric_name not in REGRESSION:
            raise UsageError(
                f"{self.metric_name} is no metric of a regression with {self.num_labels} outputs.",
                got=metric,
                allowed=", ".join(REGRESSION),
                next_step="give one of these with --metric, or none for the usual one",
            )
        self.regression, self.joined = True, "the mean of them"

    def _reader(
        self, rows: Sequence[Mapping[str, Any]], text: str, pair: str | None, *, needed: bool
    ) -> Read:
        there = [c for c in columns_of(rows) if c not in (text, pair)]
        own = [written_as(there, name) for name in self.label_names]
        named = [c for c in own if c is not None]
        if "label" not in self.columns and len(named) == self.num_labels:
            self.taken = {"text": text, "text_pair": pair, "label": ", ".join(named)}
            return lambda row, number: self._numbers([row.get(c) for c in named], named, number)
        wanted = needed and "label" in self.columns
        label = column(rows, "label", self.columns, required=wanted, exclude=[text])
        if label is None and needed:
            if named:
                lacking = [n for n, c in zip(self.label_names, own) if c is None]
                raise UsageError(
                    "The columns of numbers are not those of the model.",
                    got=f"columns {listed(there)}",
                    allowed=f"a column for each of {listed(self.label_names)}, or one with lists",
                    next_step=f"rename the columns; there is none of {listed(lacking)}",
                )
            must_have(rows, "label", self.columns)  # which says what there is
        self.taken = {"text": text, "text_pair": pair, "label": label}

        def read(row: Mapping[str, Any], number: int) -> tuple[float, ...] | None:
            value = None if label is None else row.get(label)
            if isinstance(value, str) and value.strip().startswith("["):
                with suppress(ValueError):  # refused below, as it stands there
                    value = json.loads(value)
            if missing(value):
                return None
            if not isinstance(value, (list, tuple)) or len(value) != self.num_labels:
                raise UsageError(
                    f"Row {number} does not have a number for each output of the model.",
                    got=f"{label}: {short(value, 200, bare=True)}",
                    allowed=f"a list of {self.num_labels} numbers",
                    next_step="correct the row, or give the data of this model",
                )
            return self._numbers(value, [str(label)] * len(value), number)

        return read

    @staticmethod
    def _numbers(
        values: Sequence[Any], names: Sequence[str], number: int
    ) -> tuple[float, ...] | None:
        if all(missing(v) for v in values):
            return None
        return tuple(real_number(v, n, number, WHY) for v, n in zip(values, names, strict=True))

    def one_label(self, labels: Sequence[Any]) -> Any:
        """The mean of the numbers: raters differ, and none of them is wrong."""
        return tuple(math.fsum(column) / len(labels) for column in zip(*labels, strict=True))

    def losses(self, outputs: Any, targets: Mapping[str, Any]) -> Any:
        """The squared error, summed over the outputs: torch [batch]."""
        logits = outputs.logits  # [batch, outputs]
        return (logits - targets["labels"].to(logits.dtype)).square().sum(-1)

    def predict(
        self,
        logits: Mapping[str, Sequence[np.ndarray]],
        features: Sequence[Feature],
        examples: Sequence[Example],
    ) -> list[Any]:
        """A tuple of numbers an example."""
        return [tuple(float(v) for v in np.ravel(x)) for x in logits["logits"]]

    def metric(self, predictions: Sequence[Any], examples: Sequence[Example]) -> float:
        found, true = _arrays(predictions, examples)
        of = REGRESSION[self.metric_name]
        return float(np.mean([of(a, b) for a, b in zip(found.T, true.T, strict=True)]))

    def agreement(self, first: Sequence[Any], second: Sequence[Any]) -> Agreement:
        """The correlation of the output that agrees the least."""
        sides = zip(zip(*first, strict=True), zip(*second, strict=True), strict=True)
        return min((super(SeveralNumbers, self).agreement(a, b) for a, b in sides), key=_share)

    def bootstrap(
        self,
        first: Sequence[Any],
        second: Sequence[Any],
        examples: Sequence[Example],
        *,
        resamples: int = 1000,
        seed: int = 0,
    ) -> np.ndarray:
        (one, true), (other, _) = _arrays(first, examples), _arrays(second, examples)
        each = [
            bootstrap_numbers(self.metric_name, a, b, t, resamples, seed)
            for a, b, t in zip(one.T, other.T, true.T, strict=True)
        ]
        return np.asarray(np.mean(each, axis=0))

    def constant(self, examples: Sequence[Example]) -> Constant | None:
        answer = (0.0,) * self.num_labels
        return Constant("one and the same numbers", [answer] * len(examples))


def _share(agreement: Agreement) -> float:
    return agreement.share


def _arrays(
    predictions: Sequence[Any], examples: Sequence[Example]
) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true numbers, float64 [examples, outputs]."""
    found = np.asarray(predictions, dtype=np.float64)
    return found, np.asarray([e.label for e in examples], dtype=np.float64)
