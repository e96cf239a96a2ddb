"""Embeddings: one vector for each text, compared by cosine similarity.

Calibration takes texts alone. They are judged on pairs of texts with a score for how alike they are
(STS), or on queries with the documents that answer them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rfx.core.errors import UsageError
from rfx.core.output import SENTENCE, OutputName
from rfx.core.registry import register
from rfx.tasks import search
from rfx.tasks.base import Constant, Divergence, Example, Feature
from rfx.tasks.columns import column, columns_of, field, listed, missing, must_have, text_of
from rfx.tasks.gaps import Gaps
from rfx.tasks.labels import real_number
from rfx.tasks.metrics import REGRESSION, bootstrap_numbers
from rfx.tasks.retrieval import METRICS as RETRIEVAL
from rfx.tasks.search import DOCUMENT, QUERY
from rfx.tasks.unlabelled import Unlabelled

EMBEDDING = "sentence_embedding"
TEXT = "text"  # the role of a text that is neither a query nor a document
# The names that models have for their prompts, the likeliest first.
PROMPTS = {QUERY: ("query",), DOCUMENT: ("document", "passage", "corpus")}


@dataclass(frozen=True)
class Texts(Example):
    """Some texts that the model is fed one by one: those of a pair, or a query and the documents
    that answer it. `inputs` has them under "texts", each with its role."""

    @property
    def pieces(self) -> tuple[Mapping[str, Any], ...]:
        return tuple({"text": text} for text, _ in self.inputs["texts"])


@register("task", "embeddings")
class Embeddings(Unlabelled):
    """Labels are the score of a pair, or for each document of a query how well it answers it.
    Predictions are cosines, or of a query its best document and the ranks of those that answer it.

    Args (beside those of every task):
        prompt, query_prompt, document_prompt: what is written before a text, a query and a
            document.
        lower_case: whether texts are written in lower case.
    """

    name: ClassVar[str] = "embeddings"
    metrics: ClassVar[tuple[str, ...]] = (*REGRESSION, *RETRIEVAL)
    auto_class: ClassVar[str] = "AutoModel"
    output_names: ClassVar[tuple[str, ...]] = (OutputName(EMBEDDING, "direction"),)
    # What sentence-transformers and servers of embeddings read, which pool by themselves.
    more_outputs: ClassVar[tuple[str, ...]] = ("last_hidden_state",)
    sentence: ClassVar[bool] = True
    own_head: ClassVar[bool] = False  # any encoder is one, with a pooling
    divergence_kind: Divergence | None = "cosine distance"
    roles: ClassVar[tuple[str, ...]] = ("text", "text_pair", "label", "query", "document")

    def __init__(
        self,
        tokenizer: Any,
        *,
        prompt: str = "",
        query_prompt: str = "",
        document_prompt: str = "",
        lower_case: bool = False,
        **more: Any,
    ) -> None:
        super().__init__(tokenizer, **{**more, "num_labels": 0})
        self.searches = self.metric_name in RETRIEVAL
        self.prompts = {TEXT: prompt, QUERY: query_prompt, DOCUMENT: document_prompt}
        self.lower_case = lower_case

    @classmethod
    def options_of(cls, config: Any) -> dict[str, Any]:
        """The prompts and the case that a model of sentence-transformers asks for."""
        said = getattr(config, SENTENCE, None) or {}
        prompts: Mapping[str, str] = said.get("prompts", {})
        found: dict[str, Any] = {"lower_case": bool(said.get("lower_case"))}
        if said.get("default_prompt"):
            found["prompt"] = prompts[said["default_prompt"]]
        for role, names in PROMPTS.items():
            own = [prompts[n] for n in names if n in prompts] or [found.get("prompt", "")]
            found[f"{role}_prompt"] = own[0]
        return found

    def note_in(self, config: Any) -> None:
        """Programs that serve the model write its texts as it is judged."""
        said = getattr(config, SENTENCE, None)
        if not said:
            return
        prompts, default = dict(said.get("prompts", {})), said.get("default_prompt")
        for role, names in PROMPTS.items():
            there = [n for n in names if n in prompts]
            if there or self.prompts[role]:  # the empty prompt is one that is switched off
                prompts[(there or names)[0]] = self.prompts[role]
        if self.prompts[TEXT]:
            default = default or TEXT
            prompts[default] = self.prompts[TEXT]
        said["prompts"] = prompts
        said["default_prompt"] = default if self.prompts[TEXT] else None
        said["max_length"], said["lower_case"] = self.max_length, bool(self.lower_case)

    def fixed_texts(self) -> list[str]:
        return [text for text in self.prompts.values() if text]

    def examples(
        self, rows: Sequence[Mapping[str, Any]], *, need_labels: bool = True
    ) -> list[Example]:
        """One example for each text of the calibration set, for each pair, or for each query."""
        if not need_labels:
            return self._alone(rows)
        return self._queries(rows) if self.searches else self._pairs(rows)

    def _alone(self, rows: Sequence[Mapping[str, Any]]) -> list[Example]:
        """Every text that a row has, by itself."""
        query, document = (
            column(rows, role, self.columns, required=role in self.columns)
            for role in (QUERY, DOCUMENT)
        )
        if query is not None and document is not None and query != document:
            taken: dict[str, str | None] = {QUERY: query, DOCUMENT: document}
        else:
            taken = self._text_columns(rows, needed=False)
        self.taken = taken
        gaps = Gaps(len(rows), judged=False, strict=self.strict)
        found: dict[str, Example] = {}
        for number, row in enumerate(rows, 1):
            for role, name in taken.items():
                if name is None:
                    continue
                text = text_of(row, name, number)
                if text is None:
                    gaps.add(number, repr(name))
                    continue
                as_role = role if role in (QUERY, DOCUMENT) else TEXT
                one = Texts({"texts": ((text, as_role),)}, row=number)
                found.setdefault(one.hash, one)
        self.skipped, self.lacking = gaps.settle(), gaps.said()
        return list(found.values())

    def _text_columns(
        self, rows: Sequence[Mapping[str, Any]], *, needed: bool
    ) -> dict[str, str | None]:
        text = must_have(rows, "text", self.columns)
        pair = column(rows, "text_pair", self.columns, required=False, exclude=[text])
        if pair is None and needed:
            there = columns_of(rows)
            documents = column(rows, DOCUMENT, self.columns, required=False)
            raise UsageError(
                "The evaluation of embeddings needs pairs of texts with a score for how alike they "
                "are, and there is no second text.",
                got=f"columns {listed(there)}",
                allowed="two texts and a score in each row; or queries and documents with --metric "
                + " or ".join(RETRIEVAL),
                next_step="add --metric ndcg@10"
                if documents
                else "name the column of the second text with --column text_pair=NAME",
            )
        return {"text": text, "text_pair": pair}

    def _pairs(self, rows: Sequence[Mapping[str, Any]]) -> list[Example]:
        taken = self._text_columns(rows, needed=True)
        label = must_have(rows, "label", self.columns)
        self.taken = {**taken, "label": label}
        gaps = Gaps(len(rows), judged=True, strict=self.strict)
        out: list[Example] = []
        for number, row in enumerate(rows, 1):
            texts = [text_of(row, str(name), number) for name in taken.values()]
            if lacking := [c for c, t in zip(taken.values(), texts) if t is None]:
                gaps.add(number, repr(lacking[0]))
            elif missing(value := field(row, label)):
                gaps.add(number, "label", label=True)
            else:
                score = real_number(
                    value, label, number, "these are scores of how alike two texts are"
                )
                pair = tuple((text, TEXT) for text in texts)
                out.append(Texts({"texts": pair}, score, row=number))
        self.skipped, self.lacking = gaps.settle(), gaps.said()
        return out

    def _queries(self, rows: Sequence[Mapping[str, Any]]) -> list[Example]:
        """One example for each query. The documents of all are what each of them searches, those of
        rows without a query too."""
        read = search.read_queries(rows, self.columns, strict=self.strict)
        self.taken = read.taken
        self.skipped, self.lacking = read.gaps.settle(), read.gaps.said()
        first = read.queries[0].grades
        first |= {text: 0.0 for text in read.alone if text not in first}
        out: list[Example] = []
        for one in read.queries:
            texts = ((one.text, QUERY), *((answer, DOCUMENT) for answer in one.grades))
            out.append(Texts({"texts": texts}, tuple(one.grades.values()), row=one.row))
        return out

    def one_label(self, labels: Sequence[Any]) -> Any:
        """The mean of scores: raters differ, and none of them is wrong."""
        return None if self.searches else math.fsum(labels) / len(labels)

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Every text once, in the order in which they come."""
        first: dict[tuple[str, str], int] = {}
        for i, example in enumerate(examples):
            for text, role in example.inputs["texts"]:
                first.setdefault((text, role), i)
        written = [self._written(text, role) for text, role in first]
        full = self.tokenizer(written, truncation=True, max_length=self.max_length)
        self.truncated = sum(bool(e.overflowing) for e in full.encodings or ())
        names = [n for n in self.tokenizer.model_input_names if n in full]
        return [
            Feature(
                number,
                {n: np.asarray(full[n][i], dtype=np.int64) for n in names},
                extra={"text": text, "role": role},
            )
            for i, ((text, role), number) in enumerate(first.items())
        ]

    def _written(self, text: str, role: str) -> str:
        whole = (self.prompts[role] + text).strip()  # as sentence-transformers does
        return self.start_of(whole.lower() if self.lower_case else whole)

    def predict(
        self,
        logits: Mapping[str, Sequence[np.ndarray]],
        features: Sequence[Feature],
        examples: Sequence[Example],
    ) -> list[Any]:
        """The cosine of a pair; of a query [best document, rank of each relevant one]."""
        vectors = {
            (f.extra["text"], f.extra["role"]): _unit(vector)
            for f, vector in zip(features, logits[EMBEDDING], strict=True)
        }
        if not self.searches:
            pairs = ([vectors[t] for t in e.inputs["texts"]] for e in examples)
            return [float(a @ b) for a, b in pairs]
        documents = [key for key in vectors if key[1] == DOCUMENT]
        place = {text: i for i, (text, _) in enumerate(documents)}
        matrix = np.stack([vectors[key] for key in documents])  # [documents, e]
        return [
            search.found_at(matrix @ vectors[texts[0]], [place[t] for t, _ in texts[1:]], e.label)
            for e in examples
            for texts in (e.inputs["texts"],)
        ]

    def answers(self, predictions: Sequence[Any]) -> Sequence[Any]:
        """Of queries the best document."""
        return [p[0] for p in predictions] if self.searches else predictions

    def metric(self, predictions: Sequence[Any], examples: Sequence[Example]) -> float:
        labels = [e.label for e in examples]
        if self.searches:
            return search.mean_of(self.metric_name, predictions, labels)
        return REGRESSION[self.metric_name](predictions, labels)

    def constant(self, examples: Sequence[Example]) -> Constant | None:
        if self.searches:
            return None
        return Constant("one and the same number", [0.0] * len(examples))

    def perfect(self, examples: Sequence[Example]) -> list[Any]:
        if not self.searches:
            return super().perfect(examples)
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
        true = [e.label for e in examples]
        if self.searches:
            return search.bootstrap(self.metric_name, first, second, true, resamples, seed)
        return bootstrap_numbers(self.metric_name, first, second, true, resamples, seed)


def _unit(vector: np.ndarray) -> np.ndarray:
    """At length 1, float64."""
    own = np.asarray(vector, dtype=np.float64)
    return own / max(float(np.linalg.norm(own)), 1e-12)
