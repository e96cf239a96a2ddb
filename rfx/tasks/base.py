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
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from rfx.core.errors import UsageError
from rfx.core.inputs import InputSpec
from rfx.tasks.agreement import Agreement, of_answers, of_numbers
from rfx.tasks.classes import Classes
from rfx.tasks.columns import ROLES
from rfx.tasks.identity import written
from rfx.tasks.intervals import most_of
from rfx.tasks.metrics import LEAST

Divergence = Literal["KL", "squared difference", "cosine distance"]
LETTERS = 1000  # of a text for each token that is kept: far more than any token takes


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

    @property
    def pieces(self) -> tuple[Mapping[str, Any], ...]:
        """The inputs that the model is fed at once: all, or where it is fed several texts one after
        the other those of each. Calibration and evaluation have none in common."""
        return (self.inputs,)


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


class Task(Classes, ABC):
    name: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]  # the first is the default
    auto_class: ClassVar[str]  # transformers Auto class that loads a model with this head
    output_names: ClassVar[tuple[str, ...]]  # fields of the model's output, e.g. ("logits",)
    head_positions: ClassVar[str] = (
        "all"  # which positions of the last layer the head reads: "first" or "all"
    )
    token_outputs: ClassVar[bool] = False  # whether the outputs have one row a token
    more_outputs: ClassVar[tuple[str, ...]] = ()  # that files have too, and nothing is judged by
    own_head: ClassVar[bool] = True  # whether its Auto class tells that a model is for it
    sentence: ClassVar[bool] = False  # whether the model gives one vector a text, whatever its head

    metric_name: str
    # What its outputs' divergence from another model's is; None: the metric tells it.
    divergence_kind: Divergence | None = None
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
        self.columns = dict(columns or {})
        self.id2label = {int(k): str(v) for k, v in id2label.items()}
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

    @classmethod
    def graph_outputs(cls) -> tuple[str, ...]:
        """The outputs of exported files, in their order."""
        return (*cls.more_outputs, *cls.output_names)

    def note_in(self, config: Any) -> None:
        """Write into the model's configuration how its texts are written, where others read it."""

    def fixed_texts(self) -> list[str]:
        """Texts of the task's own that every input has, such as prompts."""
        return []

    @classmethod
    def options_of(cls, config: Any) -> dict[str, Any]:
        """Options of the task that a model's configuration says; the recipe's come before them."""
        return {}

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

    def start_of(self, text: str) -> str:
        """The part of a text that its tokens are taken from: tokenizers go through all of it before
        they cut it, which takes minutes for a text of megabytes."""
        most = LETTERS * max(self.max_length, 1)
        if len(text) <= most:
            return text
        return text[-most:] if self.tokenizer.truncation_side == "left" else text[:most]

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

    def at_once(self, examples: Sequence[Example]) -> int | None:
        """How many inputs are served together, by the evaluation examples; None: they say nothing
        of it."""
        return None

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
