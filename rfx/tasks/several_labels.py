"""Texts that have several labels each, whatever these are: a label is a tuple with an entry for
each output of the model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rfx.tasks.base import Example, Feature, Task
from rfx.tasks.columns import text_of
from rfx.tasks.gaps import Gaps
from rfx.tasks.text_classification import TextClassification

Read = Callable[[Mapping[str, Any], int], tuple[Any, ...] | None]


class SeveralLabels(TextClassification):
    """Reads the texts as a classifier of one label does, and their labels by `_reader`."""

    def __init__(self, tokenizer: Any, **more: Any) -> None:
        Task.__init__(self, tokenizer, **more)  # which metrics fit is the subclass's to say

    @abstractmethod
    def _reader(
        self, rows: Sequence[Mapping[str, Any]], text: str, pair: str | None, *, needed: bool
    ) -> Read:
        """A function that gives the labels of a row, None where it has none. Sets `taken`."""

    def examples(
        self, rows: Sequence[Mapping[str, Any]], *, need_labels: bool = True
    ) -> list[Example]:
        text, pair = self._texts(rows)
        read = self._reader(rows, text, pair, needed=need_labels)
        gaps = Gaps(len(rows), judged=need_labels, strict=self.strict)
        labels = [read(row, number) for number, row in enumerate(rows, 1)]
        bare = not need_labels and all(found is None for found in labels)
        out = []
        for number, (row, found) in enumerate(zip(rows, labels), 1):
            inputs = {"text": text_of(row, text, number)}
            if pair is not None:
                inputs["text_pair"] = text_of(row, pair, number)
            lacking = [c for c, t in zip((text, pair), inputs.values()) if t is None]
            if lacking:
                gaps.add(number, repr(lacking[0]))
            elif found is None and not bare:
                gaps.add(number, "label", label=True)
            else:
                out.append(Example(inputs, found, row=number))
        self.skipped, self.lacking = gaps.settle(), gaps.said()
        return out

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        bare = [Example(e.inputs, None, e.row) for e in examples]
        return [
            Feature(f.example, f.ids, f.targets)
            if e.label is None
            else Feature(f.example, f.ids, {"labels": np.asarray(e.label, dtype=np.float32)})
            for f, e in zip(super().encode(bare), examples, strict=True)
        ]

    def perfect(self, examples: Sequence[Example]) -> list[Any]:
        return [tuple(e.label) for e in examples]
