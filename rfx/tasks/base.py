"""What a task is: data -> features -> batches, a loss per example, a metric with its per-example
parts.

Everything that leaves a task for a model or an engine is NumPy or torch with named inputs; raw
logits come back as NumPy arrays, one row a feature.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from rfx.core.errors import UsageError
from rfx.core.inputs import InputSpec
from rfx.tasks.columns import ROLES

NAMED = 12  # classes in an error's message


@dataclass(frozen=True)
class Example:
    """One labelled example. `inputs` holds its texts, `label` what the metric needs (None where
    unlabelled)."""

    inputs: Mapping[str, Any]
    label: Any = None

    @property
    def hash(self) -> str:
        """Hash of the inputs alone: two examples with one text are the same example, whatever their
        labels."""
        return hashlib.sha256(
            json.dumps(self.inputs, sort_keys=True, default=str).encode()
        ).hexdigest()[:16]


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
    max_length: int
    truncated: int = 0  # examples cut at max_length by the last `encode`

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
                f"{self.name} has no such metric.", got=metric, allowed=", ".join(self.metrics)
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

    @abstractmethod
    def examples(
        self, rows: Sequence[Mapping[str, Any]], *, need_labels: bool = True
    ) -> list[Example]:
        """Examples from rows of a file, labels validated; without `need_labels` a file may have
        none at all. Raises UsageError naming row and column."""

    def class_index(self, value: Any, names: Sequence[str] | None = None) -> int | None:
        """The model's index of a class. Data name it by its index in their own `names`, by the name
        that the model or the user gives it (in any case, where no other has it too), or, where the
        number is no name, by the model's index; None where it is none of these."""
        exact = [str(n) for n in self.label_names]
        lowered = [n.lower() for n in exact]
        number = _whole(value)
        if (
            names
            and not isinstance(value, str)
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

    def classes_allowed(self) -> str:
        """What `class_index` takes, for an error's message: the first names alone where there are
        many."""
        names = [str(n) for i, n in enumerate(self.label_names) if str(n) != str(i)]
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
        """The metric, natural unit, higher is better."""

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


def _whole(value: Any) -> int | None:
    """A whole number, also as text or float (1, True, "1", "1.0", 1.0); None for anything else."""
    try:
        number = float(value) if "_" not in str(value) else math.nan  # Python reads 1_0 as 10
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() else None
