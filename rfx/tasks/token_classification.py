"""One tag a word: named entities, parts of speech, edits. The first piece of a word carries its
tag."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from rfx.core.errors import UsageError
from rfx.core.registry import register
from rfx.core.values import short
from rfx.tasks.base import Constant, Example, Feature, Task
from rfx.tasks.columns import column, field, missing, must_have, refuse_halves
from rfx.tasks.gaps import Gaps
from rfx.tasks.heads import check_names
from rfx.tasks.labels import names_in, unknown_tag
from rfx.tasks.metrics import bootstrap_ratio

TRIED = 16  # constant tags; the rarer ones score less
# Of a tag's first letter: B-PER begins a span, I-PER goes on, E (or L) ends it, and S (or U) is one
# of a single word.
BEGINS, INSIDE, ENDS = ("B", "S", "U"), ("I", "E", "L"), ("E", "L", "S", "U")
IGNORED = -100  # the label of pieces that carry no tag


@register("task", "token-classification")
class TokenClassification(Task):
    """`f1` is entity-level where the tags are BIO (IOB2), IOBES or BILOU, else micro-averaged over
    tags other than O. Words cut off at `max_length` are predicted as O (tag 0 where there is no O)
    and counted."""

    name: ClassVar[str] = "token-classification"
    metrics: ClassVar[tuple[str, ...]] = ("f1", "accuracy")
    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    output_names: ClassVar[tuple[str, ...]] = ("logits",)
    token_outputs: ClassVar[bool] = True

    def examples(
        self, rows: Sequence[Mapping[str, Any]], *, need_labels: bool = True
    ) -> list[Example]:
        tokens = must_have(rows, "tokens", self.columns)
        tags = column(rows, "tags", self.columns, required=need_labels)
        self.taken = {"tokens": tokens, "tags": tags}
        names = names_in(rows, tags, self.label_names)
        bare = not need_labels and all(missing(field(row, tags)) for row in rows)
        gaps = Gaps(len(rows), judged=need_labels, strict=self.strict)
        out = []
        for number, row in enumerate(rows, 1):
            words, labels = _words(row.get(tokens), tokens, number), field(row, tags)
            if not words:
                gaps.add(number, repr(tokens))
                continue
            if bare:
                out.append(Example({"tokens": words}, row=number))
                continue
            if missing(labels):
                gaps.add(number, repr(tags), label=True)
                continue
            if isinstance(labels, str):
                labels = labels.split()
            if not isinstance(labels, (list, tuple)):
                raise UsageError(
                    f"The tags of row {number} are no list.",
                    got=f"{tags}: {short(labels, 500, bare=True)}",
                    allowed="two lists of one length, or texts with blanks between the words",
                    next_step=f"correct row {number}, or name the columns with --column",
                )
            if len(words) != len(labels):
                raise UsageError(
                    f"Row {number} has {len(words)} words and {len(labels)} tags.",
                    allowed="one tag a word",
                    next_step=f"correct row {number}",
                )
            ids = [self.label_index(t, names) for t in labels]
            if None in ids:
                raise unknown_tag(
                    labels[ids.index(None)],
                    str(tags),
                    number,
                    _every(rows, tags),
                    self.num_labels,
                    self.classes_allowed(),
                )
            out.append(Example({"tokens": words}, ids, row=number))
        self.skipped, self.lacking = gaps.settle(), gaps.said()
        return out

    @classmethod
    def check_names(cls, config: Any) -> None:
        check_names(config)

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        words = [e.inputs["tokens"] for e in examples]
        full = self.tokenizer(
            words, is_split_into_words=True, truncation=True, max_length=self.max_length
        )
        names = [n for n in self.tokenizer.model_input_names if n in full]
        features = []
        self.truncated = 0
        for i, e in enumerate(examples):
            starts: dict[int, int] = {}  # word -> its first piece
            for position, word in enumerate(full.word_ids(i)):
                if word is not None:
                    starts.setdefault(word, position)
            self.truncated += len(starts) < len(words[i])
            labels = np.full(len(full["input_ids"][i]), IGNORED, dtype=np.int64)
            if e.label is not None:
                for word, position in starts.items():
                    labels[position] = e.label[word]
            ids = {n: np.asarray(full[n][i], dtype=np.int64) for n in names}
            features.append(
                Feature(i, ids, {} if e.label is None else {"labels": labels}, {"starts": starts})
            )
        return features

    def targets(self, features: Sequence[Feature]) -> dict[str, np.ndarray]:
        """{"labels": int64 [batch, tokens]}, -100 where there is no tag; {} for unlabelled
        examples."""
        if any("labels" not in f.targets for f in features):
            return {}
        tokens = max(len(f.ids["input_ids"]) for f in features)
        out = np.full((len(features), tokens), IGNORED, dtype=np.int64)
        for row, f in enumerate(features):
            out[row, : len(f.targets["labels"])] = f.targets["labels"]
        return {"labels": out}

    def losses(self, outputs: Any, targets: Mapping[str, Any]) -> Any:
        """Mean cross-entropy over the tagged pieces of each example: torch [batch]."""
        from torch.nn import functional

        labels = targets["labels"]
        losses = functional.cross_entropy(
            outputs.logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
        )
        tagged = (labels != IGNORED).sum(1).clamp(min=1)
        return losses.sum(1) / tagged

    def predict(
        self,
        logits: Mapping[str, Sequence[np.ndarray]],
        features: Sequence[Feature],
        examples: Sequence[Example],
    ) -> list[Any]:
        """A list of tag indices an example, one a word."""
        outside = self.label_names.index("O") if "O" in self.label_names else 0
        out: list[Any] = []
        for f in features:
            tags = np.argmax(logits["logits"][len(out)], axis=-1)
            words = len(examples[f.example].inputs["tokens"])
            out.append(
                [
                    int(tags[f.extra["starts"][w]]) if w in f.extra["starts"] else outside
                    for w in range(words)
                ]
            )
        return out

    def metric(self, predictions: Sequence[Any], examples: Sequence[Example]) -> float:
        return _value(self.metric_name)(self._parts(predictions, examples).sum(0))

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
        return bootstrap_ratio(a, b, _value(self.metric_name), resamples, seed)

    def constant(self, examples: Sequence[Example]) -> Constant | None:
        """The tag that scores best if every word has it."""
        common = Counter(tag for e in examples for tag in e.label).most_common(TRIED)
        best, most = None, -math.inf
        for tag, _ in common:
            predictions = [[tag] * len(e.label) for e in examples]
            value = self.metric(predictions, examples)
            if best is None or value > most:
                best, most = Constant(repr(self.model_name(tag)), predictions), value
        return best

    def classes(
        self, predictions: Sequence[Any], examples: Sequence[Example]
    ) -> tuple[list[int], list[int]] | None:
        return list(self.answers(predictions)), [tag for e in examples for tag in e.label]

    def answers(self, predictions: Sequence[Any]) -> Sequence[Any]:
        """Every tag of every example."""
        return [tag for tags in predictions for tag in tags]

    def _parts(self, predictions: Sequence[Any], examples: Sequence[Example]) -> np.ndarray:
        """Counts an example, float64 [examples, 3]: right, predicted, true (for accuracy: right,
        words, words)."""
        rows = []
        for predicted, e in zip(predictions, examples):
            if self.metric_name == "accuracy":
                right = sum(p == t for p, t in zip(predicted, e.label))
                rows.append((right, len(e.label), len(e.label)))
            else:
                found, true = self._spans(predicted), self._spans(e.label)
                rows.append((len(found & true), len(found), len(true)))
        return np.asarray(rows, dtype=np.float64).reshape(-1, 3)

    def _spans(self, tags: Sequence[int]) -> set[tuple]:
        """Entities as (type, start, end) of BIO, IOBES or BILOU tags, as seqeval has them; (tag,
        place) of other tags but O."""
        names = [self.label_names[t] for t in tags]
        if not self._of_spans:
            return {(n, i) for i, n in enumerate(names) if n != "O"}
        spans, start, kind = set(), None, ""
        for i, name in enumerate([*names, "O"]):
            prefix, _, tag = name.partition("-")
            continues = prefix in INSIDE and tag == kind and start is not None
            if start is not None and not continues:
                spans.add((kind, start, i))
                start = None
            if prefix in BEGINS or (prefix in INSIDE and start is None):
                # An I without its B starts one, as conlleval has it.
                start, kind = i, tag
            if prefix in ENDS and start is not None:
                spans.add((kind, start, i + 1))
                start = None
        return spans

    @property
    def _of_spans(self) -> bool:
        """Whether the tags say where spans begin."""
        parts = [n.partition("-") for n in self.label_names if n != "O"]
        prefixes = {prefix for prefix, dash, _ in parts if dash}
        whole = len(parts) > 0 and all(dash for _, dash, _ in parts)
        return whole and "B" in prefixes and prefixes <= {*BEGINS, *INSIDE}


def _every(rows: Sequence[Mapping[str, Any]], tags: str | None) -> Iterator[Any]:
    """Every tag of every row."""
    for row in rows:
        found = field(row, tags)
        found = found.split() if isinstance(found, str) else found
        yield from found if isinstance(found, (list, tuple)) else ()


def _words(value: Any, name: str, number: int) -> list[str]:
    """The words of a row; none where there are none.

    Raises:
        UsageError: they are no words.
    """
    if missing(value):
        return []
    if isinstance(value, str):  # CSV: words separated by blanks
        value = value.split()
    if not isinstance(value, (list, tuple)):
        raise UsageError(
            f"{name!r} of row {number} is no list of words.",
            got=short(value, 500, bare=True),
            allowed="a list of texts, or a text with blanks between the words",
            next_step=f"correct row {number}, or name the column with --column tokens=NAME",
        )
    words = []
    for word in value:
        if missing(word) or isinstance(word, (list, tuple, dict, bytes)):
            raise UsageError(
                f"A word of row {number} is no text.",
                got=f"{name}: {short(word, 500, bare=True)}",
                allowed="texts",
                next_step=f"correct row {number}",
            )
        refuse_halves(str(word), name, number)
        words.append(str(word))
    return words


def _value(metric: str) -> Callable[[np.ndarray], float]:
    """The metric of summed counts; NaN where there is nothing to be found."""
    if metric == "accuracy":
        return lambda s: float(s[0] / s[1]) if s[1] else math.nan
    return lambda s: float(2 * s[0] / (s[1] + s[2])) if s[2] else math.nan
