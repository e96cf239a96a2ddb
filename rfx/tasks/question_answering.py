"""Extractive question answering: SQuAD 1.1 and 2.0, long contexts cut into overlapping spans."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from rfx.core.errors import UsageError
from rfx.core.registry import register
from rfx.core.values import short
from rfx.tasks.base import Constant, Example, Feature, Task
from rfx.tasks.columns import column, field, missing, must_have, text_of
from rfx.tasks.gaps import Gaps
from rfx.tasks.metrics import bootstrap_ratio


@register("task", "question-answering")
class QuestionAnswering(Task):
    """Predictions are answer texts, "" for no answer.

    Args (beside those of every task):
        doc_stride: tokens that neighbouring spans share.
        n_best: starts and ends looked at in each span.
        max_answer_tokens: longest answer.
        version_2: whether a question may have no answer (default: whether any example has none).
        null_threshold: how much the no-answer score must exceed the best answer's.
    """

    name: ClassVar[str] = "question-answering"
    metrics: ClassVar[tuple[str, ...]] = ("f1", "exact_match")
    auto_class: ClassVar[str] = "AutoModelForQuestionAnswering"
    output_names: ClassVar[tuple[str, ...]] = ("start_logits", "end_logits")
    token_outputs: ClassVar[bool] = True

    def __init__(
        self,
        tokenizer: Any,
        *,
        doc_stride: int = 128,
        n_best: int = 20,
        max_answer_tokens: int = 30,
        version_2: bool | None = None,
        null_threshold: float = 0.0,
        **more: Any,
    ) -> None:
        super().__init__(tokenizer, **more)
        _check_options(doc_stride, n_best, max_answer_tokens, version_2, null_threshold)
        if doc_stride >= self.max_length:
            doc_stride = max(1, self.max_length // 3)
        self.doc_stride, self.n_best, self.max_answer_tokens = doc_stride, n_best, max_answer_tokens
        self.version_2, self.null_threshold = bool(version_2), null_threshold
        self._asked = (
            version_2  # None: one question without an answer decides, in whatever file it stands
        )

    def examples(
        self, rows: Sequence[Mapping[str, Any]], *, need_labels: bool = True
    ) -> list[Example]:
        question, context = (must_have(rows, r, self.columns) for r in ("question", "context"))
        answers = column(rows, "answers", self.columns, required=need_labels)
        self.taken = {"question": question, "context": context, "answers": answers}
        bare = not need_labels and all(missing(field(row, answers)) for row in rows)
        gaps = Gaps(len(rows), judged=need_labels, strict=self.strict)
        out = []
        for number, row in enumerate(rows, 1):
            asked, text = text_of(row, question, number), text_of(row, context, number)
            if asked is None or text is None:
                gaps.add(number, repr(question if asked is None else context))
                continue
            given = None
            if not bare:
                value = field(row, answers)
                if missing(value):
                    gaps.add(number, "answers", label=True)
                    continue
                given = self._answers(value, text, number)
            out.append(Example({"question": asked, "context": text}, given, row=number))
        self.skipped, self.lacking = gaps.settle(), gaps.said()
        unanswerable = any(e.label is not None and not e.label["text"] for e in out)
        if self._asked is None:
            self.version_2 = self.version_2 or unanswerable
        elif not self._asked and unanswerable:
            raise UsageError(
                "Some questions have no answer, and version_2 is off.",
                got="questions without answers",
                allowed="an answer to every question",
                next_step="set version_2: true in task_options",
            )
        return out

    def one_label(self, labels: Sequence[Any]) -> Any:
        """All the answers, each of which is right. Whether there is an answer must be the same."""
        if any(bool(label["text"]) != bool(labels[0]["text"]) for label in labels):
            return None
        pairs = dict.fromkeys(
            pair for label in labels for pair in zip(label["text"], label["answer_start"])
        )
        return {"text": [t for t, _ in pairs], "answer_start": [s for _, s in pairs]}

    @staticmethod
    def _answers(value: Any, context: str, number: int) -> dict[str, list]:
        if isinstance(value, str):
            value = {"text": [value], "answer_start": [context.find(value)]}
        if isinstance(value, list) and all(isinstance(a, dict) for a in value):
            value = {
                "text": [a.get("text") for a in value],
                "answer_start": [a.get("answer_start") for a in value],
            }
        if isinstance(value, dict) and isinstance(value.get("text"), str):
            value = {"text": [value["text"]], "answer_start": [value.get("answer_start")]}
        if (
            not isinstance(value, dict)
            or not all(isinstance(value.get(k), (list, tuple)) for k in ("text", "answer_start"))
            or len(value["text"]) != len(value["answer_start"])
            or not all(isinstance(t, str) for t in value["text"])
            or not all(_is_place(s) for s in value["answer_start"])
        ):
            raise UsageError(
                f"Row {number} has no answers.",
                got=short(value, 100, bare=True),
                allowed="{text: [...], answer_start: [...]}",
                next_step=f"correct row {number}",
            )
        texts, starts = list(value["text"]), [int(s) for s in value["answer_start"]]
        for text, start in zip(texts, starts):
            if start < 0 or context[start : start + len(text)] != text:
                raise UsageError(
                    f"An answer of row {number} does not stand in its context where it says.",
                    got=f"{short(text, 500)} at {short(start, 500, bare=True)}",
                    next_step="correct answer_start (in characters)",
                )
        return {"text": texts, "answer_start": starts}

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Spans of each context. Raises UsageError where a question leaves no room for its
        context."""
        questions = self.tokenizer(
            [e.inputs["question"].lstrip() for e in examples], add_special_tokens=False
        )["input_ids"]
        room = self.max_length - self.tokenizer.num_special_tokens_to_add(pair=True)
        stride = min(self.doc_stride, self.max_length // 2)
        longest = max(range(len(questions)), key=lambda i: len(questions[i]), default=0)
        if questions and len(questions[longest]) >= room - stride:
            stride = max(0, room - len(questions[longest]) - 1)
        if questions and len(questions[longest]) >= room:
            raise UsageError(
                "A question leaves no room for its context.",
                got=f"{len(questions[longest])} tokens: "
                f"{examples[longest].inputs['question'][:60]!r}...",
                allowed=f"fewer than {room} at max_length {self.max_length}",
                next_step="remove it, or raise --max-length",
            )
        full = self.tokenizer(
            [e.inputs["question"].lstrip() for e in examples],
            [e.inputs["context"] for e in examples],
            truncation="only_second",
            max_length=self.max_length,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        names = [n for n in self.tokenizer.model_input_names if n in full]
        features = []
        for i in range(len(full["input_ids"])):
            example = int(full["overflow_to_sample_mapping"][i])
            # Which tokens are the context's.
            context = np.asarray([s == 1 for s in full.sequence_ids(i)])
            # [tokens, 2] characters.
            offsets = np.asarray(full["offset_mapping"][i], dtype=np.int64)
            label = examples[example].label
            targets = {} if label is None else _span(label, context, offsets)
            ids = {n: np.asarray(full[n][i], dtype=np.int64) for n in names}
            features.append(
                Feature(example, ids, targets, {"context": context, "offsets": offsets})
            )
        return features

    def targets(self, features: Sequence[Feature]) -> dict[str, np.ndarray]:
        """{"start", "end": int64 [batch]}, token positions, 0 (the first token) where the span has
        no answer; and {"real": bool [batch, tokens]}, False on padding."""
        if any("start" not in f.targets for f in features):
            return {}
        lengths = np.asarray([len(f.ids["input_ids"]) for f in features])
        real = np.arange(lengths.max()) < lengths[:, None]
        return {
            "real": real,
            **{k: np.stack([f.targets[k] for f in features]) for k in ("start", "end")},
        }

    def losses(self, outputs: Any, targets: Mapping[str, Any]) -> Any:
        """Mean of the cross-entropies of start and end: torch [batch]."""
        from torch.nn import functional

        padding = ~targets["real"]  # no position: the loss must not depend on how a batch is padded
        start = functional.cross_entropy(
            outputs.start_logits.masked_fill(padding, -1e4), targets["start"], reduction="none"
        )
        end = functional.cross_entropy(
            outputs.end_logits.masked_fill(padding, -1e4), targets["end"], reduction="none"
        )
        return (start + end) / 2

    def predict(
        self,
        logits: Mapping[str, Sequence[np.ndarray]],
        features: Sequence[Feature],
        examples: Sequence[Example],
    ) -> list[Any]:
        """The best answer text of each example over its spans."""
        best: list[tuple[float, str]] = [(-np.inf, "")] * len(examples)
        null = np.full(len(examples), np.inf)
        for i, f in enumerate(features):
            start, end = logits["start_logits"][i], logits["end_logits"][i]
            null[f.example] = min(null[f.example], float(start[0] + end[0]))
            score, text = self._best(f, start, end, examples[f.example].inputs["context"])
            if score > best[f.example][0]:
                best[f.example] = (score, text)
        if not self.version_2:
            return [text for _, text in best]
        return [
            "" if null[i] > score + self.null_threshold else text
            for i, (score, text) in enumerate(best)
        ]

    def _best(
        self, f: Feature, start: np.ndarray, end: np.ndarray, context: str
    ) -> tuple[float, str]:
        inside = f.extra["context"]
        starts = [int(s) for s in np.argsort(-start)[: self.n_best] if inside[s]]
        ends = [int(e) for e in np.argsort(-end)[: self.n_best] if inside[e]]
        best, where = -np.inf, None
        for s in starts:
            for e in ends:
                if s <= e < s + self.max_answer_tokens and start[s] + end[e] > best:
                    best, where = float(start[s] + end[e]), (s, e)
        if where is None:
            return -np.inf, ""
        offsets = f.extra["offsets"]
        return best, context[offsets[where[0]][0] : offsets[where[1]][1]]

    def metric(self, predictions: Sequence[Any], examples: Sequence[Example]) -> float:
        return float(self._parts(predictions, examples)[:, 0].mean()) if examples else np.nan

    def bootstrap(
        self,
        first: Sequence[Any],
        second: Sequence[Any],
        examples: Sequence[Example],
        *,
        resamples: int = 1000,
        seed: int = 0,
    ) -> np.ndarray:
        a, b = self._parts(first, examples), self._parts(second, examples)
        return bootstrap_ratio(a, b, lambda s: s[0] / s[1], resamples, seed)

    def constant(self, examples: Sequence[Example]) -> Constant | None:
        return Constant("'no answer'", [""] * len(examples))

    def perfect(self, examples: Sequence[Example]) -> list[Any]:
        return [next(iter(e.label["text"]), "") for e in examples]

    def right(self, predictions: Sequence[Any], examples: Sequence[Example]) -> np.ndarray | None:
        if self.metric_name != "exact_match":
            return None
        return self._parts(predictions, examples)[:, 0] == 1

    def _parts(self, predictions: Sequence[str], examples: Sequence[Example]) -> np.ndarray:
        """Score of each example and 1: float64 [examples, 2]."""
        score = squad_f1 if self.metric_name == "f1" else squad_exact
        rows = [
            max((score(p, t) for t in (e.label["text"] or [""])), default=0.0)
            for p, e in zip(predictions, examples)
        ]
        return np.stack([np.asarray(rows, dtype=np.float64), np.ones(len(rows))], axis=1)


def _is_place(value: Any) -> bool:
    """Whether a value is a whole number, which JSON's 1e999, an infinity, is not."""
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def _span(
    label: Mapping[str, list], context: np.ndarray, offsets: np.ndarray
) -> dict[str, np.ndarray]:
    """Token positions of the first answer in this span; the first token where it is not wholly
    inside."""
    none = {"start": np.asarray(0), "end": np.asarray(0)}
    inside = np.flatnonzero(context)
    if not label["text"] or not len(inside):
        return none
    first = label["answer_start"][0]
    last = first + len(label["text"][0])
    if offsets[inside[0]][0] > first or offsets[inside[-1]][1] < last:
        return none
    start = inside[np.flatnonzero(offsets[inside, 0] <= first)[-1]]
    end = inside[np.flatnonzero(offsets[inside, 1] >= last)[0]]
    return {"start": np.asarray(start), "end": np.asarray(max(start, end))}


def _check_options(
    doc_stride: Any, n_best: Any, max_answer_tokens: Any, version_2: Any, null_threshold: Any
) -> None:
    """Raises UsageError for a value of the wrong kind or out of range."""
    whole = {"doc_stride": doc_stride, "n_best": n_best, "max_answer_tokens": max_answer_tokens}
    wrong = [
        (n, v, "a whole number of at least 1")
        for n, v in whole.items()
        if isinstance(v, bool) or not isinstance(v, int) or v < 1
    ]
    if version_2 not in (None, True, False):
        wrong.append(("version_2", version_2, "true, false, or left out"))
    if (
        isinstance(null_threshold, bool)
        or not isinstance(null_threshold, (int, float))
        or not np.isfinite(null_threshold)
    ):
        wrong.append(("null_threshold", null_threshold, "a finite number"))
    for name, value, allowed in wrong:
        raise UsageError(
            "An option of question-answering is not what it has to be.",
            got=f"{name}: {value!r}",
            allowed=allowed,
            next_step="correct task_options",
        )


def normalize_answer(text: str) -> str:
    """Lower case, no punctuation, no articles, single blanks: the normalisation of the official
    SQuAD evaluation."""
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def squad_exact(predicted: str, true: str) -> float:
    """1 where the normalised texts are equal."""
    return float(normalize_answer(predicted) == normalize_answer(true))


def squad_f1(predicted: str, true: str) -> float:
    """F1 over the words of the normalised texts; where either is empty, 1 if both are."""
    a, b = normalize_answer(predicted).split(), normalize_answer(true).split()
    if not a or not b:
        return float(a == b)
    same = sum((Counter(a) & Counter(b)).values())
    return 2 * same / (len(a) + len(b))
