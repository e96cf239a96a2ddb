"""Single sentences, sentence pairs, and regression (a model with one output)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from rfx.core.errors import UsageError
from rfx.core.registry import register
from rfx.tasks.base import Example, Feature, Task
from rfx.tasks.columns import ROLES, column, field, missing, must_have, text_of, unlabelled
from rfx.tasks.metrics import CLASSIFICATION, REGRESSION, bootstrap_labels


@register("task", "text-classification")
class TextClassification(Task):
    """Labels are class indices, class names (matched to the model's `id2label` or to
    `label_names`), or, where the model has one output, real numbers."""

    name: ClassVar[str] = "text-classification"
    metrics: ClassVar[tuple[str, ...]] = (*CLASSIFICATION, *REGRESSION)
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
        fitting = tuple(REGRESSION if self.regression else CLASSIFICATION)
        self.metric_name = metric or fitting[0]
        if self.metric_name not in fitting:
            raise UsageError(
                f"{self.metric_name} is no metric for a model with {num_labels} output(s).",
                got=metric,
                allowed=", ".join(fitting),
            )
        if self.metric_name == "f1" and num_labels != 2:
            raise UsageError(
                "f1 is the F1 of class 1 of two.",
                got=f"{num_labels} classes",
                allowed="f1_macro, accuracy, matthews",
            )

    def examples(
        self, rows: Sequence[Mapping[str, Any]], *, need_labels: bool = True
    ) -> list[Example]:
        text = must_have(rows, "text", self.columns)
        if "text" not in self.columns and {"question", "sentence"} <= set(rows[0]):
            text = "question"  # QNLI's pair, where a lone `sentence` would be the text
        # Without another column of a known pair there is no pair.
        pair = column(rows, "text_pair", self.columns, required=False, exclude=(text,))
        if pair is not None and "text_pair" not in self.columns and not _is_pair(text, pair):
            pair = None
        label = column(rows, "label", self.columns, required=need_labels)
        names = rows[0].get("__names__", {}).get(label)
        bare = not need_labels and unlabelled(rows, label)
        out = []
        for number, row in enumerate(rows, 1):
            inputs = {"text": text_of(row, text, number)}
            if pair is not None:
                inputs["text_pair"] = text_of(row, pair, number)
            out.append(
                Example(
                    inputs,
                    None if bare else self._label(field(row, label), str(label), number, names),
                )
            )
        return out

    def _label(
        self, value: Any, name: str, number: int, names: Sequence[str] | None
    ) -> int | float:
        if missing(value):
            raise UsageError(
                f"Row {number} has no label.",
                got=f"{name}: {value!r}",
                next_step="remove it or label it",
            )
        if self.regression:
            try:
                real = float(value)
            except (TypeError, ValueError):
                real = math.nan
            if not math.isfinite(real):
                raise UsageError(
                    f"The label of row {number} is not a number.",
                    got=f"{name}: {value!r}",
                    allowed="finite numbers: this model has one output, a regression",
                )
            return real
        index = self.class_index(value, names)
        if index is None:
            raise UsageError(
                f"The label of row {number} is not one of the model's.",
                got=f"{name}: {value!r}",
                allowed=self.classes_allowed(),
                next_step="correct it, or name the labels in the model's order with --labels",
            )
        return index

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        texts = [e.inputs["text"] for e in examples]
        pairs = (
            [e.inputs["text_pair"] for e in examples]
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
        if self.regression:
            return super().bootstrap(first, second, examples, resamples=resamples, seed=seed)
        true = [e.label for e in examples]
        return bootstrap_labels(
            self.metric_name, first, second, true, self.num_labels, resamples, seed
        )


def _is_pair(first: str, second: str) -> bool:
    """Whether two columns are the two texts of one example, and not a text and something else."""
    known = {
        ("sentence1", "sentence2"),
        ("premise", "hypothesis"),
        ("question1", "question2"),
        ("question", "sentence"),
        ("text", "text_pair"),
        ("question", "passage"),
    }
    return (first, second) in known and first in ROLES["text"]
