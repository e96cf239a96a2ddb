"""A task: the sentiment of a text, judged by the macro F1 unless another metric is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from rfx.core.registry import register
from rfx.tasks.base import Example
from rfx.tasks.text_classification import TextClassification


@register("task", "example-sentiment")
class Sentiment(TextClassification):
    name: ClassVar[str] = "example-sentiment"
    metrics: ClassVar[tuple[str, ...]] = ("f1_macro", "accuracy")

    def __init__(self, tokenizer: Any, *, metric: str | None = None, **more: Any) -> None:
        super().__init__(tokenizer, metric=metric or "f1_macro", **more)

    def examples(
        self, rows: Sequence[Mapping[str, Any]], *, need_labels: bool = True
    ) -> list[Example]:
        """As `TextClassification.examples`; the text may stand in a column `review`."""
        if rows and "review" in rows[0] and "text" not in self.columns:
            self.columns = {**self.columns, "text": "review"}
        return super().examples(rows, need_labels=need_labels)
