"""The examples of a job: what is calibrated on, what is judged on, and the proof that they are not
the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rfx.core.errors import UsageError
from rfx.tasks.base import Example, Feature, Task
from rfx.tasks.calibration import Batches, choose, drop_overlap, overlap, set_hash
from rfx.tasks.data import load_examples

FEWEST = 8  # training examples


@dataclass(frozen=True)
class Source:
    """Where examples lie: a file or a `datasets` name, its split, and how many rows are read."""

    name: str
    split: str = "train"
    limit: int | None = None


@dataclass(frozen=True)
class Examples:
    """The examples of a job, disjoint: calibration is drawn from the training set, evaluation takes
    part in no choice.

    Args:
        task: has the loss, the outputs' names and the metric.
        calibration: the examples that scores and compensation are computed from.
        evaluation: the examples that accuracy is measured on.
        calibration_features: those of calibration as model inputs; a long context of a
            question has several features.
        evaluation_features: those of evaluation.
        training_hash: of all training examples that calibration was drawn from.
        dropped_overlap: training examples that were left out because the evaluation set has them.
    """

    task: Task
    calibration: tuple[Example, ...]
    evaluation: tuple[Example, ...]
    calibration_features: tuple[Feature, ...]
    evaluation_features: tuple[Feature, ...]
    training_hash: str
    dropped_overlap: int = 0

    @property
    def labelled(self) -> bool:
        """Whether every calibration example has a label."""
        return all(e.label is not None for e in self.calibration)

    @property
    def calibration_hash(self) -> str:
        return set_hash(self.calibration)

    @property
    def evaluation_hash(self) -> str:
        return set_hash(self.evaluation)

    @property
    def overlap(self) -> int:
        """How many evaluation examples have the inputs of a calibration example."""
        return overlap(self.calibration, self.evaluation)

    @property
    def mean_tokens(self) -> float:
        """Mean number of tokens of a calibration feature."""
        features = self.calibration_features
        return sum(f.tokens for f in features) / len(features)

    def batches(self, size: int) -> Batches:
        """The calibration features as batches of (inputs, targets) tensors, in a fixed order."""
        return Batches(self.task, self.calibration_features, size)


def read_examples(
    task: Task,
    *,
    train: Source,
    evaluation: Source,
    count: int,
    seed: int = 0,
    replacement: bool = False,
    note: Callable[[str], None] = lambda text: None,
    warn: Callable[[str], None] = lambda text: None,
) -> Examples:
    """Read both parts, leave out of training what stands in the evaluation set, draw `count`
    calibration examples with `seed`, and tokenise.

    Args:
        replacement: draw with replacement, as the reference code of Kwon et al. 2022 does.
        note, warn: told what a user should know.

    Raises:
        UsageError: whatever is wrong with a file, a column or a label; too few examples.
    """
    rows = load_examples(train.name, split=train.split, limit=train.limit)
    with _part("training", "correct the --train file; without any labels it is taken too"):
        training = task.examples(rows, need_labels=False)
    rows = load_examples(evaluation.name, split=evaluation.split, limit=evaluation.limit)
    with _part("evaluation", "correct the --eval file; only --train may go without labels"):
        judged = task.examples(rows)
    training, dropped = drop_overlap(training, judged)
    if dropped:
        warn(
            f"{dropped} training examples stand in the evaluation set too; they are left out of "
            "calibration."
        )
    _require_enough(len(training), dropped)
    chosen = choose(training, count, seed, replacement=replacement)
    if len(chosen) < count:
        note(f"calibrating on all {len(chosen)} training examples ({count} asked)")
    calibration = [training[i] for i in chosen]

    def encode(examples: Sequence[Example], part: str) -> tuple[Feature, ...]:
        features = task.encode(examples)
        if task.truncated:
            note(
                f"{task.truncated} of {len(examples)} {part} texts are longer than "
                f"{task.max_length} tokens and are cut (--max-length)"
            )
        return tuple(features)

    return Examples(
        task,
        tuple(calibration),
        tuple(judged),
        encode(calibration, "calibration"),
        encode(judged, "evaluation"),
        set_hash(training),
        dropped,
    )


def _require_enough(count: int, dropped: int) -> None:
    if count >= FEWEST:
        return
    left = f" after leaving out {dropped} that are in the evaluation set" if dropped else ""
    raise UsageError(
        "There are too few training examples to calibrate on.",
        got=f"{count}{left}",
        allowed=f"at least {FEWEST}, better 512 to 2048",
        next_step="give a --train file other than the --eval file"
        if dropped
        else "give a --train file with more of them",
    )


@contextmanager
def _part(name: str, next_step: str) -> Iterator[None]:
    """What is wrong with examples is said with whose they are."""
    try:
        yield
    except UsageError as error:
        raise UsageError(
            f"The {name} examples: {error.what}",
            got=error.got,
            allowed=error.allowed,
            next_step=error.next_step or next_step,
        ) from None
