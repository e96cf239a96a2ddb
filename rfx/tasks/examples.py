"""The examples of a job: what is calibrated on, what is judged on, and the proof that they are not
the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from rfx.core.errors import UnsupportedModelError, UsageError
from rfx.core.values import short
from rfx.tasks.base import Example, Feature, Task
from rfx.tasks.calibration import (
    Batches,
    choose,
    conflicts,
    distinct,
    drop_near_copies,
    drop_overlap,
    overlap,
    set_hash,
)
from rfx.tasks.columns import (
    NoSuchColumnError,
    columns_of,
    columns_said,
    missing,
    numbers_alone,
    written_as,
)
from rfx.tasks.columns import (
    field as value_of,
)
from rfx.tasks.data import load_examples
from rfx.tasks.labels import NumberedError, mapping_said
from rfx.tasks.rows import Note, Row, silent

FEWEST = 8  # training examples
_PAIR = "text_pair"  # the role of a second text
NAMED = 3  # groups and rows in a message


@dataclass(frozen=True)
class Source:
    """Where examples lie: a file or a `datasets` name, its split, and how many rows are read.

    Args:
        rows: what stands there, where it has been read already.
    """

    name: str
    split: str = "train"
    limit: int | None = None
    rows: tuple[Row, ...] | None = None

    def read(self, note: Note = silent) -> list[Row]:
        """The rows. Raises UsageError as `rfx.tasks.data.load_examples`."""
        if self.rows is not None:
            return list(self.rows)
        return load_examples(self.name, split=self.split, limit=self.limit, note=note)


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
        near_copies: those that were left out because the evaluation set has nearly the same.
        duplicates: evaluation examples that were left out because they repeat another.
        skipped: rows of both sets that were left out because they lack a text or a label.
        contradictory: evaluation rows that were left out because their inputs stand there with
            another label too.
        label_mapping: the labels of the data -> what the model calls them.
        training: all training examples that calibration was drawn from.
        truncated: evaluation examples that are longer than the model takes, and are cut.
        again: the same examples as the tokenizer of a smaller vocabulary encodes them; None: there
            is none.
    """

    task: Task
    calibration: tuple[Example, ...]
    evaluation: tuple[Example, ...]
    calibration_features: tuple[Feature, ...]
    evaluation_features: tuple[Feature, ...]
    training_hash: str
    dropped_overlap: int = 0
    near_copies: int = 0
    duplicates: int = 0
    skipped: int = 0
    contradictory: int = 0
    label_mapping: Mapping[str, str] = field(default_factory=dict)
    training: tuple[Example, ...] = ()
    truncated: int = 0
    again: Examples | None = None

    @property
    def served(self) -> Examples:
        """The examples as a finished model is given them."""
        return self.again or self

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
    def repeated_calibration(self) -> int:
        """How many calibration examples have the inputs of another one."""
        return len(self.calibration) - len(distinct(self.calibration))

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
    rows, judged_rows = train.read(note), evaluation.read(note)
    both = {"training": rows, "evaluation": judged_rows}
    with _part("training", both, "correct the --train file; without any labels it is taken too"):
        training = task.examples(rows, need_labels=False)
    taken = columns_said(task.taken)
    skipped = task.skipped
    if skipped:
        warn(_skipped(task, len(rows), "training", "calibration"))
    with _part("evaluation", both, "correct the --eval file; only --train may go without labels"):
        whole = task.examples(judged_rows)
    if task.skipped:
        warn(_skipped(task, len(judged_rows), "evaluation", "the evaluation"))
    skipped += task.skipped
    _of_one_form(training, whole)
    if columns_said(task.taken) != taken:
        taken = f"{taken} in the training set and {columns_said(task.taken)} in the evaluation set"
    if taken:
        note(f"columns read: {taken}")
    for part, examples in (("training", training), ("evaluation", whole)):
        if numbers := numbers_alone([e.inputs for e in examples]):
            warn(
                f"Every {' and every '.join(numbers)} of the {part} examples is a number; if that "
                "is another column than the one with the texts, name that with --column."
            )
    if task.mapping:
        note(mapping_said(task.mapping))
    if found := _settled(task, training)[1]:
        warn(
            f"{_many(len(found), 'training example', 'stand')} there with different labels: "
            f"{_rows(found)}."
        )
    one, contradictory = _of_one_label(task, whole, note, warn)
    judged = distinct(one)
    if len(judged) < len(one):
        warn(
            f"{_many(len(one) - len(judged), 'evaluation example', 'repeat')} another one; each "
            "counts once."
        )
    # Also what the evaluation leaves out is not for calibration: the files are to be disjoint.
    training, dropped = drop_overlap(training, whole)
    if dropped:
        warn(
            f"{dropped} training examples stand in the evaluation set too; they are left out of "
            "calibration."
        )
    training, near = drop_near_copies(training, whole)
    if near:
        warn(
            f"{_many(near, 'training example', 'differ')} from one of the evaluation set in case, "
            "blanks or punctuation alone, and no calibration is done on such examples."
        )
    _require_enough(len(training), dropped + near)
    chosen = choose(training, count, seed, replacement=replacement)
    if len(chosen) < count:
        note(f"calibrating on all {len(chosen)} training examples ({count} asked)")
    calibration = [training[i] for i in chosen]
    repeated = len(calibration) - len(distinct(calibration))
    if repeated and not replacement:
        warn(f"{_many(repeated, 'calibration example', 'repeat')} another one.")

    def encode(examples: Sequence[Example], part: str) -> tuple[Feature, ...]:
        features = task.encode(examples)
        if task.truncated:
            note(
                f"{task.truncated} of {max(len(examples), len(features))} {part} texts are longer "
                f"than {task.max_length} tokens and are cut (--max-length)"
            )
        return tuple(features)

    calibration_features = encode(calibration, "calibration")
    evaluation_features = encode(judged, "evaluation")
    return Examples(
        task,
        tuple(calibration),
        tuple(judged),
        calibration_features,
        evaluation_features,
        set_hash(training),
        dropped,
        near,
        len(one) - len(judged),
        skipped,
        contradictory,
        dict(task.mapping),
        tuple(training),
        task.truncated,  # by the last of the two
    )


def _settled(task: Task, examples: Sequence[Example]) -> tuple[dict[str, Any], list[list[Example]]]:
    """Of the inputs that stand there with different labels: the one label of those that the task
    can give one, by their hash, and all examples of each of the others."""
    settled: dict[str, Any] = {}
    wrong: list[list[Example]] = []
    for group in conflicts(examples):
        label = task.one_label([e.label for e in group])
        if label is None:
            wrong.append(group)
        else:
            settled[group[0].hash] = label
    return settled, wrong


def _of_one_label(
    task: Task,
    examples: Sequence[Example],
    note: Callable[[str], None],
    warn: Callable[[str], None],
) -> tuple[list[Example], int]:
    """The evaluation examples without those whose inputs stand there with labels that contradict
    one another, and how many those were. An answer to them is right by one row and wrong by
    another, so that which row comes first would decide on the accuracy.

    Raises:
        UsageError: all do, or some do with `strict`.
    """
    settled, wrong = _settled(task, examples)
    if settled and task.joined:
        note(
            f"{_many(len(settled), 'evaluation example', 'stand')} there with different labels; "
            f"{task.joined} counts"
        )
    out = {group[0].hash for group in wrong}
    kept = [
        replace(e, label=settled[e.hash]) if e.hash in settled else e
        for e in examples
        if e.hash not in out
    ]
    if not wrong:
        return kept, 0
    said = f"{_many(len(wrong), 'evaluation example', 'stand')} there with different labels"
    if task.strict or not kept:
        raise UsageError(
            f"{said}, so that no answer to it is right."
            if len(wrong) == 1
            else f"{said}, so that no answer to them is right.",
            got=_rows(wrong),
            allowed="one label for each text" + (" with --strict" if task.strict else ""),
            next_step="keep the right label of each in the --eval file, such as the one that most "
            "people gave",
        )
    warn(
        f"{said}: {_rows(wrong)}. No answer to {'it' if len(wrong) == 1 else 'them'} is right, so "
        f"that the evaluation leaves {'it' if len(wrong) == 1 else 'them'} out."
    )
    return kept, len(examples) - len(kept)


def _rows(groups: Sequence[Sequence[Example]]) -> str:
    """The rows of some groups of examples that have the same inputs, and what they say."""
    said = []
    for group in groups[:NAMED]:
        numbers = [str(e.row) for e in group[:NAMED]] + ["..."] * (len(group) > NAMED)
        text = short(next(iter(group[0].inputs.values()), ""), 60)
        said.append(f"rows {', '.join(numbers)} ({text})")
    return "; ".join(said) + ("; ..." if len(groups) > NAMED else "")


def _many(count: int, what: str, verb: str) -> str:
    return f"{count} {what} {verb}s" if count == 1 else f"{count} {what}s {verb}"


def _skipped(task: Task, of: int, part: str, place: str) -> str:
    which = f": {task.lacking}" if task.lacking else ""
    return (
        f"{task.skipped} of {of} {part} rows lack a text or a label; they are left out of {place}"
        f"{which}."
    )


def _of_one_form(training: Sequence[Example], judged: Sequence[Example]) -> None:
    """Raises UsageError where one file has single texts and the other one pairs: a model that was
    trained on the one computes something else on the other."""
    first, second = (set(e[0].inputs) if e else set() for e in (training, judged))
    if not first or not second or _PAIR not in first ^ second:
        return
    pairs, single = ("training", "evaluation") if _PAIR in first else ("evaluation", "training")
    raise UsageError(
        f"The {pairs} examples are pairs of texts, and the {single} examples are single texts.",
        got=f"no second text in the {single} examples",
        allowed="in both files what the model was trained on",
        next_step=f"give {single} examples with a second text, or name its column with --column "
        f"{_PAIR}=NAME, which holds for both files",
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
def _part(name: str, both: Mapping[str, Sequence[Row]], next_step: str) -> Iterator[None]:
    """What is wrong with examples is said with whose they are.

    Args:
        both: the rows of the training and of the evaluation examples.
    """
    other = next(part for part in both if part != name)
    try:
        yield
    except NoSuchColumnError as error:
        raise error.of_two(name, other, columns_of(both[other])) from None
    except (UsageError, UnsupportedModelError) as error:
        if isinstance(error, NumberedError):
            values = _labels(both[other], error.column)
            if apart := error.of_two(name, other, values):
                raise apart from None
        kind = UsageError if isinstance(error, UsageError) else UnsupportedModelError
        raise kind(
            f"The {name} examples: {error.what}",
            got=error.got,
            allowed=error.allowed,
            next_step=error.next_step or next_step,
        ) from None


def _labels(rows: Sequence[Row], name: str) -> Iterator[Any]:
    """The labels in a column, those in lists one by one; none where there is no such column."""
    found = written_as(columns_of(rows), name)
    for row in rows:
        value = value_of(row, found)
        if isinstance(value, str) and value.strip().count(" "):
            value = value.split()  # the tags of words
        if not missing(value):
            yield from value if isinstance(value, (list, tuple)) else (value,)
