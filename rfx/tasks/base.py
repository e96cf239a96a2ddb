"""What a task is: data -> features -> batches, a loss per example, a metric with its per-example
parts.

Everything that leaves a task for a model or an engine is NumPy or torch with named inputs; raw
logits come back as NumPy arrays, one row a feature.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np

from rfx.core.errors import UsageError
from rfx.core.inputs import InputSpec
from rfx.core.values import short
from rfx.tasks.agreement import Agreement, of_answers, of_numbers
from rfx.tasks.columns import ROLES
from rfx.tasks.identity import written
from rfx.tasks.intervals import most_of
from rfx.tasks.labels import whole
from rfx.tasks.metrics import LEAST

NAMED = 12  # classes in an error's message


@dataclass(frozen=True)
class Example:
    """One labelled example. `inputs` holds its texts, `label` what the metric needs (None where
    unlabelled)."""

    inputs: Mapping[str, Any]
    label: Any = None
    row: int = field(default=0, compare=False)  # of its file, counted from 1; 0: not known

    @property
    def hash(self) -> str:
        """Hash of the inputs alone: two examples with one text are the same example, whatever their
        labels."""
        return hashlib.sha256(written(self.inputs).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Feature:
    """One model input. An example gives one feature, or several where a long context is cut in
    spans (QA)."""

    example: int  # index of the example
    # Input name -> its array: of text int64 [tokens], input_ids, attention_mask and maybe
    # token_type_ids.
    ids: Mapping[str, np.ndarray]
    targets: Mapping[str, np.ndarray] = field(default_factory=dict)  # what the loss needs
    # What decoding needs (offsets, word starts).
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Real tokens, on which FLOPs depend. A task whose inputs have no mask says it in
        `extra["tokens"]`."""
        mask = self.ids.get("attention_mask")
        return int(self.extra.get("tokens", 1) if mask is None else mask.sum())


@dataclass(frozen=True)
class MetricResult:
    """A metric in its natural unit (accuracy 0..1, F1 0..1, Spearman -1..1), with what a bootstrap
    needs.

    `predictions` has one entry an example; `Task.metric(predictions, examples)` of a resample is
    the resampled metric.
    """

    name: str
    value: float
    predictions: Sequence[Any]


class Constant(NamedTuple):
    """A constant answer: in words, and as the predictions that it gives."""

    answer: str
    predictions: list[Any]


class Task(ABC):
    name: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]  # the first is the default
    auto_class: ClassVar[str]  # transformers Auto class that loads a model with this head
    output_names: ClassVar[tuple[str, ...]]  # fields of the model's output, e.g. ("logits",)
    head_positions: ClassVar[str] = (
        "all"  # which positions of the last layer the head reads: "first" or "all"
    )
    token_outputs: ClassVar[bool] = False  # whether the outputs have one row a token

    metric_name: str
    roles: ClassVar[tuple[str, ...]] = tuple(ROLES)  # of columns that a recipe may name
    joined: str = ""  # what `one_label` makes of different labels, where it is to be said
    max_length: int
    truncated: int = 0  # examples cut at max_length by the last `encode`
    strict: bool = False  # whether evaluation rows without a text or a label are refused
    skipped: int = 0  # rows without a text or a label that the last `examples` left out
    lacking: str = ""  # which these are and what they lack, in words

    def __init__(
        self,
        tokenizer: Any,
        *,
        num_labels: int,
        id2label: Mapping[int, str],
        max_length: int = 128,
        metric: str | None = None,
        columns: Mapping[str, str] | None = None,
        label_names: Sequence[str] | None = None,
    ) -> None:
        if metric is not None and metric not in self.metrics:
            raise UsageError(
                f"{self.name} has no such metric.",
                got=metric,
                allowed=", ".join(self.metrics),
                next_step="give one of these with --metric, or none for the usual one",
            )
        if label_names and len(label_names) != num_labels:
            raise UsageError(
                f"There are {len(label_names)} label names for a model with {num_labels} labels.",
                got=", ".join(label_names),
                allowed=f"{num_labels} names, in the model's order",
                next_step="correct --labels (recipe: data.labels)",
            )
        self.tokenizer, self.num_labels, self.max_length = tokenizer, num_labels, max_length
        given = list(label_names or ())
        twice = sorted({n for n in given if given.count(n) > 1})
        if twice:
            raise UsageError(
                "Two classes cannot have one name.",
                got=", ".join(given),
                allowed="a name for each class",
                next_step=f"correct --labels (recipe: data.labels): {', '.join(map(repr, twice))}",
            )
        self.id2label = {int(k): str(v) for k, v in id2label.items()}
        self.columns = dict(columns or {})
        self.label_names = (
            list(label_names) if label_names else [self.id2label[i] for i in sorted(self.id2label)]
        )
        self.metric_name = metric or self.metrics[0]
        self.called: dict[str, int] = {}  # label as the data have it -> the model's index
        # Role -> the column that the last `examples` took for it; None: there is none.
        self.taken: dict[str, str | None] = {}

    @abstractmethod
    def examples(
        self, rows: Sequence[Mapping[str, Any]], *, need_labels: bool = True
    ) -> list[Example]:
        """Examples from rows of a file, labels validated; without `need_labels` a file may have
        none at all. Raises UsageError naming row and column."""

    def one_label(self, labels: Sequence[Any]) -> Any:
        """The label of an input that stands there with several different ones. None: they
        contradict one another, and no answer to it is right."""
        return None

    def class_index(self, value: Any, names: Sequence[str] | None = None) -> int | None:
        """The model's index of a class. Data name it by its index in their own `names`, by the name
        that the model or the user gives it (in any case, where no other has it too), or, where the
        number is no name, by the model's index; None where it is none of these."""
        exact = [str(n) for n in self.label_names]
        lowered = [n.lower() for n in exact]
        number = whole(value)
        if (
            names  # for numbers as text too: every value of a CSV is one
            and number is not None
            and 0 <= number < len(names)
            and str(names[number]).lower() in lowered
        ):
            # A dataset's class order need not be the model's.
            value, number = (
                str(names[number]),
                None,
            )
        text = str(value).strip()
        # 1 and 1.0 are the class "1" too, and true is "True", whatever index that has.
        for name in (text, *([] if number is None else [str(number)])):
            if exact.count(name) == 1:
                return exact.index(name)
            if lowered.count(name.lower()) == 1:
                return lowered.index(name.lower())
        return number if number is not None and 0 <= number < self.num_labels else None

    def label_index(self, value: Any, names: Sequence[str] | None = None) -> int | None:
        """As `class_index`, and remembered in `called`.

        Raises:
            UsageError: another file had the same label for another class, by names of its own.
        """
        index = self.class_index(value, names)
        if index is not None:
            number = None if isinstance(value, (str, bool)) else whole(value)
            called = str(value).strip() if number is None else str(number)
            before = self.called.setdefault(called, index)
            if before != index:
                raise UsageError(
                    "One label means two classes.",
                    got=f"{short(called, bare=True)} is {self.model_name(before)!r} in one "
                    f"file and {self.model_name(index)!r} in another, by the names that they have "
                    "for it",
                    allowed="one meaning of a label in all files",
                    next_step="write the names of the labels in place of their numbers, or count "
                    "them alike in both files",
                )
            self._refuse_collision(called, index)
        return index

    def _refuse_collision(self, called: str, index: int) -> None:
        """Raises UsageError where two numbers of the data mean one class: one of them is the name
        of the class, as with --labels 1,2, and another is its place, counted from 0."""
        number = whole(called)
        names = {whole(str(name)) for name in self.label_names} - {None}
        for other, taken in self.called.items():
            if taken != index or number is None or whole(other) in (None, number):
                continue
            if not names & {number, whole(other)}:  # data that name their own numbers
                continue
            raise UsageError(
                "Two numbers in the data mean one class.",
                got=f"{short(other, 40, bare=True)} and {short(called, 40, bare=True)} are both "
                f"{self.model_name(index)!r}: the one by its name, the other counted from 0",
                allowed="one way of counting in the training and in the evaluation data",
                next_step="count the labels alike in both files, or write their names",
            )

    @property
    def mapping(self) -> dict[str, str]:
        """The labels of the data -> what the model itself calls them."""
        return {value: self.model_name(index) for value, index in self.called.items()}

    @classmethod
    def check_model(cls, config: Any) -> None:
        """Raises UnsupportedModelError for a model whose configuration says that it has a head of
        another kind than the task judges."""
        return

    @classmethod
    def check_names(cls, config: Any) -> None:
        """Raises UsageError for a model whose configuration contradicts itself about the names of
        its labels; not asked where the user names them."""
        return

    def model_name(self, index: int) -> str:
        """What the model itself calls a class; its number where it has no name for it."""
        return self.id2label.get(index, str(index))

    def classes_allowed(self) -> str:
        """What `class_index` takes, for an error's message: the first names alone where there are
        many."""
        names = [str(n) for i, n in enumerate(self.label_names) if str(n) != str(i)]
        if names and all(name.isdigit() for name in names):  # a name comes before a number
            listed = ", ".join(map(str, self.label_names[:NAMED]))
            same = {str(n) for n in self.label_names} == {str(i) for i in range(self.num_labels)}
            return listed if same else f"the names {listed}, or 0..{self.num_labels - 1}"
        return ", ".join(
            [f"0..{self.num_labels - 1}", *names[:NAMED], *(["..."] if len(names) > NAMED else [])]
        )

    @classmethod
    def load_preprocessor(cls, source: str) -> Any:
        """What turns raw examples into inputs of the model at `source`; it has `save_pretrained`.
        None: the model's tokenizer."""
        return None

    @classmethod
    def input_spec(cls, model: Any, preprocessor: Any) -> InputSpec | None:
        """What the exported graph is fed. None: the token ids and what the tokenizer gives with
        them."""
        return None

    def length(self, feature: Feature) -> int:
        """Tokens of a feature, by which batches are sorted and padded; the same for all where
        inputs have one size."""
        return len(feature.ids["input_ids"])

    @abstractmethod
    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Tokenise. Raises UsageError for labels out of range and the like."""

    def collate(
        self, features: Sequence[Feature], pad_to: int | None = None
    ) -> dict[str, np.ndarray]:
        """Pad to the longest of the batch (or to `pad_to`): named int64 arrays [batch, tokens]."""
        tokens = max(max(len(f.ids["input_ids"]) for f in features), pad_to or 0)
        fill = {
            "input_ids": self.tokenizer.pad_token_id or 0,
            "token_type_ids": self.tokenizer.pad_token_type_id or 0,
        }
        out = {}
        for name in features[0].ids:
            array = np.full((len(features), tokens), fill.get(name, 0), dtype=np.int64)
            for row, f in enumerate(features):
                array[row, : len(f.ids[name])] = f.ids[name]
            out[name] = array
        return out

    @abstractmethod
    def targets(self, features: Sequence[Feature]) -> dict[str, np.ndarray]:
        """Targets of a batch, first axis the batch, padded as `collate` pads."""

    @abstractmethod
    def losses(self, outputs: Any, targets: Mapping[str, Any]) -> Any:
        """Loss of each feature, torch [batch]. `outputs` is the model's output object, `targets`
        torch tensors."""

    @abstractmethod
    def predict(
        self,
        logits: Mapping[str, Sequence[np.ndarray]],
        features: Sequence[Feature],
        examples: Sequence[Example],
    ) -> list[Any]:
        """One prediction an example from the raw outputs: name -> one array a feature, cut to its
        own tokens."""

    @abstractmethod
    def metric(self, predictions: Sequence[Any], examples: Sequence[Example]) -> float:
        """The metric, natural unit, higher is better. NaN where these examples do not define
        it."""

    def answers(self, predictions: Sequence[Any]) -> Sequence[Any]:
        """What two models can agree in, one by one: here one prediction an example."""
        return predictions

    def agreement(self, first: Sequence[Any], second: Sequence[Any]) -> Agreement:
        """How like each other two models' predictions on the same examples are."""
        a, b = self.answers(first), self.answers(second)
        if any(isinstance(x, float) for x in a):
            return of_numbers(a, b)
        return of_answers(a, b)

    def constant(self, examples: Sequence[Example]) -> Constant | None:
        """The constant answer that scores best on these examples: what a model must beat. None
        where the task knows of none."""
        return None

    def perfect(self, examples: Sequence[Example]) -> list[Any]:
        """The predictions of a model that is always right."""
        return [e.label for e in examples]

    def classes(
        self, predictions: Sequence[Any], examples: Sequence[Example]
    ) -> tuple[list[int], list[int]] | None:
        """Predicted and true classes, one for one; None for a task without classes."""
        return None

    def right(self, predictions: Sequence[Any], examples: Sequence[Example]) -> np.ndarray | None:
        """Whether each prediction is right, bool [examples], where the metric is the share of right
        ones; None for every other metric."""
        return None

    @property
    def least(self) -> float:
        """The smallest value that the metric can have."""
        return LEAST.get(self.metric_name, 0.0)

    def extremes(
        self, predictions: Sequence[Any], differs: np.ndarray, examples: Sequence[Example]
    ) -> tuple[float, float]:
        """Worst and best metric if as many examples were answered otherwise as those that differ
        from another model's allow (the one-sided 95 % bound).

        Args:
            differs: bool [examples], whether the prediction is another than the other model's.
        """
        n, value = len(examples), self.metric(predictions, examples)
        count = int(differs.sum())
        more = most_of(count, n) - count / n
        return value - more * (value - self.least), value + more * (1 - value)

    def bootstrap(
        self,
        first: Sequence[Any],
        second: Sequence[Any],
        examples: Sequence[Example],
        *,
        resamples: int = 1000,
        seed: int = 0,
    ) -> np.ndarray:
        """Paired bootstrap of metric(first) - metric(second): float64 [resamples]. Tasks override
        it where per-example parts make it fast."""
        rng = np.random.default_rng(seed)
        n = len(examples)
        out = np.empty(resamples)
        for r in range(resamples):
            rows = rng.integers(0, n, n)
            picked = [examples[i] for i in rows]
            out[r] = self.metric([first[i] for i in rows], picked) - self.metric(
                [second[i] for i in rows], picked
            )
        return out
