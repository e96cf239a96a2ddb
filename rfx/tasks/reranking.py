"""Reranking: a model reads a query and a passage together and says how well the one answers the
other (a cross-encoder).

Calibration takes pairs alone. The model is judged by how it orders the passages of each query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rfx.core.errors import UnsupportedModelError, UsageError
from rfx.core.registry import register
from rfx.tasks import search
from rfx.tasks.base import Example, Feature
from rfx.tasks.columns import must_have, text_of
from rfx.tasks.gaps import Gaps
from rfx.tasks.search import DOCUMENT, QUERY
from rfx.tasks.unlabelled import Unlabelled

MOST_AT_ONCE = 32  # passages of a query that are timed together, where nobody says how many


@dataclass(frozen=True)
class Candidates(Example):
    """A query and its passages: `inputs` has them as "query" and "documents"."""

    @property
    def pieces(self) -> tuple[Mapping[str, Any], ...]:
        asked = self.inputs["query"]
        return tuple({"text": asked, "text_pair": d} for d in self.inputs["documents"])


@register("task", "reranking")
class Reranking(Unlabelled):
    """Labels are for each passage of a query how well it answers it. Predictions are the best
    passage and the ranks of those that answer. Models have one output, or two of which the second
    says that the passage answers the query."""

    name: ClassVar[str] = "reranking"
    metrics: ClassVar[tuple[str, ...]] = ("ndcg@10", "mrr@10")
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    output_names: ClassVar[tuple[str, ...]] = ("logits",)
    head_positions: ClassVar[str] = "first"
    roles: ClassVar[tuple[str, ...]] = (QUERY, DOCUMENT, "label")
    own_head: ClassVar[bool] = False  # classifiers have it too, and are more

    def __init__(self, tokenizer: Any, **more: Any) -> None:
        super().__init__(tokenizer, **more)
        self.divergence_kind = "squared difference" if self.num_labels == 1 else "KL"

    @classmethod
    def check_model(cls, config: Any) -> None:
        outputs = int(config.num_labels or 0)
        if outputs not in (1, 2):
            raise UnsupportedModelError(
                "A reranker says one thing of a query and a passage: whether the one answers the "
                "other.",
                got=f"a model with {outputs} outputs",
                allowed="one output, or two for no and yes",
                next_step="give --task text-classification for a classifier",
            )

    def examples(
        self, rows: Sequence[Mapping[str, Any]], *, need_labels: bool = True
    ) -> list[Example]:
        """One example for each pair of the calibration set, or for each query."""
        return self._queries(rows) if need_labels else self._pairs(rows)

    def _pairs(self, rows: Sequence[Mapping[str, Any]]) -> list[Example]:
        query, document = (must_have(rows, role, self.columns) for role in (QUERY, DOCUMENT))
        self.taken = {QUERY: query, DOCUMENT: document}
        gaps = Gaps(len(rows), judged=False, strict=self.strict)
        found: dict[str, Example] = {}
        for number, row in enumerate(rows, 1):
            asked, answer = text_of(row, query, number), text_of(row, document, number)
            if asked is None or answer is None:
                gaps.add(number, repr(query if asked is None else document))
                continue
            one = Candidates({"query": asked, "documents": (answer,)}, row=number)
            found.setdefault(one.hash, one)
        self.skipped, self.lacking = gaps.settle(), gaps.said()
        return list(found.values())

    def _queries(self, rows: Sequence[Mapping[str, Any]]) -> list[Example]:
        read = search.read_queries(rows, self.columns, strict=self.strict)
        self.taken = read.taken
        for number, row in enumerate(rows, 1):
            if read.alone and text_of(row, str(read.taken[QUERY]), number) is None:
                read.gaps.add(number, repr(read.taken[QUERY]))
        self.skipped, self.lacking = read.gaps.settle(), read.gaps.said()
        if all(len(q.grades) < 2 for q in read.queries):
            raise UsageError(
                "There is nothing to put in order: every query has one passage.",
                got=f"{len(read.queries)} queries",
                allowed="several passages of a query, one in each row, those that do not answer it "
                "with the label 0",
                next_step="add the passages among which the reranker chooses, as your search finds "
                "them",
            )
        return [
            Candidates(
                {"query": q.text, "documents": tuple(q.grades)}, tuple(q.grades.values()), q.row
            )
            for q in read.queries
        ]

    def at_once(self, examples: Sequence[Example]) -> int | None:
        """Passages that a query is served with: the median of the evaluation set."""
        sizes = [len(e.inputs["documents"]) for e in examples]
        return min(MOST_AT_ONCE, int(np.median(sizes))) if sizes else None

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        """A feature for each passage of each query."""
        pairs = [
            (i, self.start_of(e.inputs["query"]), self.start_of(document))
            for i, e in enumerate(examples)
            for document in e.inputs["documents"]
        ]
        asked, answers = [q for _, q, _ in pairs], [d for _, _, d in pairs]
        full = self.tokenizer(asked, answers, truncation=True, max_length=self.max_length)
        self.truncated = sum(bool(e.overflowing) for e in full.encodings or ())
        names = [n for n in self.tokenizer.model_input_names if n in full]
        return [
            Feature(number, {n: np.asarray(full[n][i], dtype=np.int64) for n in names})
            for i, (number, _, _) in enumerate(pairs)
        ]

    def predict(
        self,
        logits: Mapping[str, Sequence[np.ndarray]],
        features: Sequence[Feature],
        examples: Sequence[Example],
    ) -> list[Any]:
        """Of each query its best passage and the rank of each that answers it."""
        scores: list[list[float]] = [[] for _ in examples]
        for feature, out in zip(features, logits["logits"], strict=True):
            values = np.ravel(out).astype(np.float64)
            scores[feature.example].append(
                float(values[-1] - (values[0] if len(values) > 1 else 0))
            )
        return [
            search.found_at(np.asarray(own), range(len(own)), e.label)
            for own, e in zip(scores, examples, strict=True)
        ]

    def answers(self, predictions: Sequence[Any]) -> Sequence[Any]:
        """The best passage of each query."""
        return [p[0] for p in predictions]

    def metric(self, predictions: Sequence[Any], examples: Sequence[Example]) -> float:
        return search.mean_of(self.metric_name, predictions, [e.label for e in examples])

    def perfect(self, examples: Sequence[Example]) -> list[Any]:
        return [search.perfect(e.label) for e in examples]

    def bootstrap(
        self,
        first: Sequence[Any],
        second: Sequence[Any],
        examples: Sequence[Example],
        *,
        resamples: int = 1000,
        seed: int = 0,
    ) -> np.ndarray:
        grades = [e.label for e in examples]
        return search.bootstrap(self.metric_name, first, second, grades, resamples, seed)
