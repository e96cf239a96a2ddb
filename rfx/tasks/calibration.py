"""Which examples, in which batches; disjoint from the evaluation set, proved by hashes in the
evidence."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.tasks.identity import written

if TYPE_CHECKING:
    from rfx.tasks.base import Example, Feature, Task

RunFunction = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


class Batches:
    """Calibration features as batches of `(inputs, targets)`: dicts of torch tensors [batch,
    tokens], padded to the longest of the batch, in the order given. Can be gone through again and
    again; `len()` is the number of batches."""

    def __init__(self, task: Task, features: Sequence[Feature], batch_size: int):
        self.task, self.features, self.batch_size = task, list(features), batch_size

    def __len__(self) -> int:
        return -(-len(self.features) // self.batch_size)

    @property
    def numbers(self) -> list[int]:
        """Of each feature the number of its example in the sample: a long context of a question has
        several features, which must not be parted by a split."""
        return [f.example for f in self.features]

    def only(self, wanted: Callable[[int], bool]) -> Batches:
        """Batches of the features whose example's number in the sample is `wanted`."""
        return Batches(self.task, [f for f in self.features if wanted(f.example)], self.batch_size)

    def __iter__(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        import torch

        for start in range(0, len(self.features), self.batch_size):
            part = self.features[start : start + self.batch_size]
            inputs = {k: torch.from_numpy(v) for k, v in self.task.collate(part).items()}
            yield inputs, {k: torch.from_numpy(v) for k, v in self.task.targets(part).items()}


def choose(examples: Sequence[Example], n: int, seed: int, replacement: bool = False) -> np.ndarray:
    """Indices of `n` examples drawn with `seed`, all of them where there are fewer; with
    replacement as the reference of Kwon et al. draws (duplicates occur)."""
    if replacement:
        # Numpy's global generator of their day, so that a seed draws the examples it drew there.
        return np.random.RandomState(seed).choice(len(examples), n)
    return np.random.default_rng(seed).permutation(len(examples))[:n]


def set_hash(examples: Sequence[Example]) -> str:
    """Hash of a set of examples, whatever their order."""
    return hashlib.sha256("".join(sorted({e.hash for e in examples})).encode()).hexdigest()[:16]


def features_hash(features: Sequence[Feature]) -> str:
    """Hash of model inputs and targets, in their order: what a score depends on besides the
    model."""
    digest = hashlib.sha256()
    for f in features:
        for part in (f.ids, f.targets):
            for name in sorted(part):
                array = np.asarray(part[name])
                digest.update(f"{name}{array.dtype}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:24]


def overlap(first: Sequence[Example], second: Sequence[Example]) -> int:
    """How many examples of `second` have inputs of an example of `first`."""
    known = _pieces(first)
    return sum(not known.isdisjoint(_pieces([e])) for e in second)


def drop_overlap(
    train: Sequence[Example], evaluation: Sequence[Example]
) -> tuple[list[Example], int]:
    """`train` without the examples whose inputs stand in `evaluation`, and how many those were."""
    known = _pieces(evaluation)
    kept = [e for e in train if known.isdisjoint(_pieces([e]))]
    return kept, len(train) - len(kept)


def _pieces(examples: Sequence[Example]) -> set[str]:
    """What the model is fed at once, of all examples."""
    return {written(piece) for e in examples for piece in e.pieces}


def near_keys(example: Example) -> set[str]:
    """Of each of its pieces a text that is equal for inputs that differ in case, blanks,
    punctuation or the form of their characters alone."""
    return {written(_plain(piece)) for piece in example.pieces}


def drop_near_copies(
    train: Sequence[Example], evaluation: Sequence[Example]
) -> tuple[list[Example], int]:
    """`train` without the examples that are nearly those of `evaluation`, and how many those
    were."""
    known = {key for e in evaluation for key in near_keys(e)}
    kept = [e for e in train if known.isdisjoint(near_keys(e))]
    return kept, len(train) - len(kept)


def distinct(examples: Sequence[Example]) -> list[Example]:
    """The examples without those whose inputs stand in an earlier one."""
    first: dict[str, Example] = {}
    for e in examples:
        first.setdefault(e.hash, e)
    return list(first.values())


def conflicts(examples: Sequence[Example]) -> list[list[Example]]:
    """The inputs that stand there with different labels: of each all examples that have it."""
    groups: dict[str, list[Example]] = {}
    for e in examples:
        if e.label is not None:
            groups.setdefault(e.hash, []).append(e)
    return [g for g in groups.values() if any(e.label != g[0].label for e in g)]


def _plain(value: Any) -> Any:
    """A text in lower case, its words parted by single blanks, without punctuation; and so within
    lists and tables. A text of nothing but signs stays as it is."""
    if isinstance(value, str):
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", value).casefold())
        # The marks of many scripts (vowels of Devanagari, for one) are no letters to \w.
        kept = "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text)
        return " ".join(kept.split()) or value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        words = [_plain(v) for v in value]
        return " ".join(words) if all(isinstance(w, str) for w in words) else words
    return value


def run_features(
    run: RunFunction,
    task: Task,
    features: Sequence[Feature],
    batch_size: int,
    *,
    pad_multiple: int = 8,
    advance: Callable[[int], None] | None = None,
) -> dict[str, list[np.ndarray]]:
    """Raw outputs of every feature, in the order given.

    Features are run sorted by length, so that little is padded; token-wise outputs are cut to the
    feature's own tokens.

    Args:
        run: named int64 arrays [batch, tokens] -> named arrays, first axis the batch: a model or an
            engine.
        pad_multiple: batches are padded to a multiple of this, which spares engines new shapes; a
            text alone is not padded at all, as it is not where it is served.
        advance: called with the number of features done.

    Returns:
        Output name -> one array a feature, [labels] or [tokens, labels] or [tokens].
    """
    order = sorted(range(len(features)), key=lambda i: task.length(features[i]))
    nothing = np.empty(0)  # until its batch has run
    results: dict[str, list[np.ndarray]] = {
        name: [nothing] * len(features) for name in task.output_names
    }
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        part = [features[i] for i in rows]
        longest = max(task.length(f) for f in part)
        multiple = 1 if batch_size == 1 else pad_multiple
        padded = min(-(-longest // multiple) * multiple, max(task.max_length, longest))
        inputs = task.collate(part, pad_to=padded)
        out = run(inputs)
        for name in task.output_names:
            for row, i in enumerate(rows):
                array = np.asarray(out[name][row])
                token_wise = array.ndim >= 1 and task.token_outputs and array.shape[0] == padded
                results[name][i] = array[: task.length(features[i])] if token_wise else array
        if advance:
            advance(len(rows))
    return results
