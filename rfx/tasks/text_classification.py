"""Single sentences, sentence pairs, and regression (a model with one output). Texts with several
labels each are in `rfx.tasks.multi_label`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from rfx.core.errors import UnsupportedModelError, UsageError
from rfx.core.registry import register
from rfx.core.values import short
from rfx.tasks.base import Constant, Example, Feature, Task
from rfx.tasks.columns import column, field, must_have, plain_name, text_of, written_as
from rfx.tasks.gaps import Gaps
from rfx.tasks.heads import check_head, check_names
from rfx.tasks.intervals import most_of
from rfx.tasks.labels import (
    columns_of_labels,
    names_in,
    no_label,
    real_number,
    refuse_several,
    refuse_signs,
    unknown_label,
)
from rfx.tasks.metrics import (
    CLASSIFICATION,
    CONFUSION_METRICS,
    REGRESSION,
    bootstrap_labels,
    bootstrap_numbers,
    confusion,
    moved,
)
from rfx.tasks.multi_label_metrics import METRICS as MULTI_LABEL

TRIED = 32  # constant answers; the rarer classes score less
# The usual name of a first text -> those of the second one, the likeliest first. Without a name of
# these beside it, a text has no second one.
PAIRS = {
    "sentence1": ("sentence2",),
    "premise": ("hypothesis",),
    "question1": ("question2",),
    "question": ("sentence", "passage"),
    "text": ("text_pair",),
}


@register("task", "text-classification")
class TextClassification(Task):
    """Labels are class indices, class names (matched to the model's `id2label` or to
    `label_names`), or, where the model has one output, real numbers."""

    name: ClassVar[str] = "text-classification"
    # Of every kind of head; which of them fits a model, its class says.
    metrics: ClassVar[tuple[str, ...]] = tuple(
        dict.fromkeys((*CLASSIFICATION, *REGRESSION, *MULTI_LABEL))
    )
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    output_names: ClassVar[tuple[str, ...]] = ("logits",)
    head_positions: ClassVar[str] = "first"

    def __init__(
        self,
        tokenizer: Any,
        *,
        num_labels: int,
        id2label: Mapping[int, str],
        metric: str | None = None,
        **more: Any,
    ) -> None:
        super().__init__(tokenizer, num_labels=num_labels, id2label=id2label, metric=metric, **more)
        self.regression = num_labels == 1
        self.divergence_kind = "squared difference" if self.regression else "KL"
        self.joined = "the mean of them" if self.regression else ""
        fitting = tuple(REGRESSION if self.regression else CLASSIFICATION)
        self.metric_name = metric or fitting[0]
        if self.metric_name not in fitting:
            raise UsageError(
                f"{self.metric_name} is no metric for a model with {num_labels} output(s).",
                got=metric,
                allowed=", ".join(fitting),
                next_step="give one of these with --metric, or none for the usual one",
            )
        if self.metric_name == "f1" and num_labels != 2:
            raise UsageError(
                "f1 is the F1 of class 1 of two.",
                got=f"{num_labels} classes",
                allowed="f1_macro, accuracy, matthews",
                next_step="give one of these with --metric",
            )

    def examples(
        self, rows: Sequence[Mapping[str, Any]], *, need_labels: bool = True
    ) -> list[Example]:
        text, pair = self._texts(rows)
        label = self._label_column(rows, text, need_labels)
        self.taken = {"text": text, "text_pair": pair, "label": label}
        values = [field(row, label) for row in rows]
        names = names_in(rows, label, self.label_names)
        bare = not need_labels and all(self._none(v) for v in values)
        if not (bare or self.regression):
            refuse_signs(values, self.label_names, str(label), explained=names is not None)
        gaps = Gaps(len(rows), judged=need_labels, strict=self.strict)
        out = []
        for number, (row, value) in enumerate(zip(rows, values), 1):
            inputs = {"text": text_of(row, text, number)}
            if pair is not None:
                inputs["text_pair"] = text_of(row, pair, number)
            lacking = [c for c, t in zip((text, pair), inputs.values()) if t is None]
            if lacking:
                gaps.add(number, repr(lacking[0]))
            elif bare:
                out.append(Example(inputs, row=number))
            elif self._none(value):
                gaps.add(number, "label", label=True)
            else:
                target = self._label(value, str(label), number, names, values)
                out.append(Example(inputs, target, row=number))
        self.skipped, self.lacking = gaps.settle(), gaps.said()
        return out

    def _texts(self, rows: Sequence[Mapping[str, Any]]) -> tuple[str, str | None]:
        """The columns of the text and of the second text, if there is one."""
        there = list(dict.fromkeys(name for row in rows for name in row))
        text = must_have(rows, "text", self.columns)
        question = written_as(there, "question")
        if "text" not in self.columns and question and written_as(there, "sentence"):
            text = question  # QNLI's pair, where a lone `sentence` would be the text
        if "text_pair" in self.columns:
            return text, column(rows, "text_pair", self.columns)
        others = [c for c in there if c != text]
        seconds = PAIRS.get(plain_name(text), ())
        return text, next((c for name in seconds if (c := written_as(others, name))), None)

    def _label_column(
        self, rows: Sequence[Mapping[str, Any]], text: str, needed: bool
    ) -> str | None:
        named = "label" in self.columns
        found = column(rows, "label", self.columns, required=needed and named, exclude=[text])
        if found is None and needed:
            several = columns_of_labels(rows, text)
            if len(several) > 1:
                raise UnsupportedModelError(
                    "These look like several labels of a text, one in each column (multi-label "
                    "classification), and the model gives one label to each text.",
                    got=f"columns {short(', '.join(several), 500, bare=True)}",
                    allowed="one label for each text, or a model whose config.json says "
                    '"problem_type": "multi_label_classification"',
                    next_step="name the column of one label with --column label=NAME",
                )
            must_have(rows, "label", self.columns)
        return found

    def _none(self, value: Any) -> bool:
        return no_label(value, self.label_names, real=self.regression)

    def _label(
        self,
        value: Any,
        name: str,
        number: int,
        names: Sequence[str] | None,
        values: Sequence[Any],
    ) -> int | float:
        refuse_several(value, name, number)
        if self.regression:
            return real_number(value, name, number, "this model has one output, a regression")
        index = self.label_index(value, names)
        if index is None:
            raise unknown_label(
                value, name, number, values, self.num_labels, self.classes_allowed()
            )
        return index

    def one_label(self, labels: Sequence[Any]) -> Any:
        """The mean of numbers: raters differ, and none of them is wrong. Classes exclude one
        another."""
        if not self.regression:
            return None
        return math.fsum(labels) / len(labels)  # in whatever order they stand

    @classmethod
    def check_model(cls, config: Any) -> None:
        check_head(config)

    @classmethod
    def check_names(cls, config: Any) -> None:
        check_names(config)

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        texts = [self.start_of(e.inputs["text"]) for e in examples]
        pairs = (
            [self.start_of(e.inputs["text_pair"]) for e in examples]
            if examples and "text_pair" in examples[0].inputs
            else None
        )
        full = self.tokenizer(
            texts,
            pairs,
            truncation=True,
            max_length=self.max_length,
            return_overflowing_tokens=False,
        )
        names = [n for n in self.tokenizer.model_input_names if n in full]
        self.truncated = sum(bool(e.overflowing) for e in full.encodings or ())
        dtype = np.float32 if self.regression else np.int64
        return [
            Feature(
                i,
                {n: np.asarray(full[n][i], dtype=np.int64) for n in names},
                {} if e.label is None else {"labels": np.asarray(e.label, dtype=dtype)},
            )
            for i, e in enumerate(examples)
        ]

    def targets(self, features: Sequence[Feature]) -> dict[str, np.ndarray]:
        """{"labels": [batch]}, int64, or float32 for regression; {} for unlabelled examples."""
        if any("labels" not in f.targets for f in features):
            return {}
        return {"labels": np.stack([f.targets["labels"] for f in features])}

    def losses(self, outputs: Any, targets: Mapping[str, Any]) -> Any:
        """Cross-entropy, or squared error for regression: torch [batch]."""
        from torch.nn import functional

        logits = outputs.logits  # [batch, labels]
        if self.regression:
            return (logits.squeeze(-1) - targets["labels"].to(logits.dtype)) ** 2
        return functional.cross_entropy(logits, targets["labels"], reduction="none")

    def predict(
        self,
        logits: Mapping[str, Sequence[np.ndarray]],
        features: Sequence[Feature],
        examples: Sequence[Example],
    ) -> list[Any]:
        """Class index an example, or the number."""
        if self.regression:
            return [float(np.ravel(x)[0]) for x in logits["logits"]]
        return [int(np.argmax(x)) for x in logits["logits"]]

    def metric(self, predictions: Sequence[Any], examples: Sequence[Example]) -> float:
        true = [e.label for e in examples]
        return {**CLASSIFICATION, **REGRESSION}[self.metric_name](predictions, true)

    def bootstrap(
        self,
        first: Sequence[Any],
        second: Sequence[Any],
        examples: Sequence[Example],
        *,
        resamples: int = 1000,
        seed: int = 0,
    ) -> np.ndarray:
        true = [e.label for e in examples]
        if self.regression:
            return bootstrap_numbers(self.metric_name, first, second, true, resamples, seed)
        return bootstrap_labels(
            self.metric_name, first, second, true, self.num_labels, resamples, seed
        )

    def constant(self, examples: Sequence[Example]) -> Constant | None:
        n = len(examples)
        if self.regression:
            return Constant("one and the same number", [0.0] * n)
        common = Counter(int(e.label) for e in examples).most_common(TRIED)
        best = max(
            (c for c, _ in common),
            key=lambda c: _order(self.metric([c] * n, examples)),
            default=0,
        )
        return Constant(repr(self.model_name(best)), [best] * n)

    def classes(
        self, predictions: Sequence[Any], examples: Sequence[Example]
    ) -> tuple[list[int], list[int]] | None:
        if self.regression:
            return None
        return list(predictions), [int(e.label) for e in examples]

    def right(self, predictions: Sequence[Any], examples: Sequence[Example]) -> np.ndarray | None:
        if self.metric_name != "accuracy":
            return None
        return np.asarray([p == e.label for p, e in zip(predictions, examples)])

    def extremes(
        self, predictions: Sequence[Any], differs: np.ndarray, examples: Sequence[Example]
    ) -> tuple[float, float]:
        """For metrics of classes the bound is that of each class: F1 hangs on the positives, which
        may be few."""
        if self.regression:
            return super().extremes(predictions, differs, examples)
        true = np.asarray([e.label for e in examples])
        of = [
            (int(differs[true == c].sum()), int((true == c).sum())) for c in range(self.num_labels)
        ]
        shares = np.asarray([most_of(k, n) - k / n if n else 0.0 for k, n in of])
        counts = confusion(predictions, true.tolist(), self.num_labels)
        value = CONFUSION_METRICS[self.metric_name]
        return value(moved(counts, shares, False)), value(moved(counts, shares, True))


def _order(value: float) -> float:
    """A metric for comparing; what is not defined comes last."""
    return value if math.isfinite(value) else -math.inf
