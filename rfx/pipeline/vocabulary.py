"""A smaller vocabulary of the finished model: which entries stay, and what that costs.

What is searched and compared with (scores, tables, the dense model, the rival) keeps the full
vocabulary and the tokenizer that it came with: it is what people would use instead. Finished files
have the smaller table, and are fed what their own tokenizer gives.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rfx.core.artefact import Artefact
from rfx.core.errors import UsageError
from rfx.core.plan import Plan, Update
from rfx.evidence.records import Evidence, TablePart, VocabularyPart
from rfx.measure.accuracy import drop_interval
from rfx.methods.scores.divergence import outputs_divergence
from rfx.models.subject import Subject
from rfx.models.vocabulary import (
    Vocabulary,
    entries_to_keep,
    load_tokenizer,
    of_tokenizers,
    require_word_pieces,
    smaller,
    word_table,
)
from rfx.pipeline.baseline import Call, Outputs, evaluate, result_of, served_batch
from rfx.pipeline.dense import export_model, workload_of
from rfx.pipeline.examples import make_task
from rfx.pipeline.ids import check_features
from rfx.pipeline.make import own_metadata, shrunk_model
from rfx.pipeline.quantizing import Quantizing
from rfx.pipeline.resolve import Resolved
from rfx.pipeline.session import Session
from rfx.recipe.spec import Recipe
from rfx.runtimes.base import Engine
from rfx.tasks.base import Feature
from rfx.tasks.calibration import run_features
from rfx.tasks.examples import Examples

COMPARED = 64  # calibration examples that both files are given
PART = 512  # training examples that are encoded at once
IDS = "input_ids"


def with_vocabulary(session: Session, resolved: Resolved) -> Resolved:
    """The same with the vocabulary that finished models keep, where the recipe asks for a smaller
    one.

    Raises:
        UnsupportedModelError: the tokenizer is of another kind, or the model reads its table of
            embeddings elsewhere too.
    """
    recipe, subject, examples = resolved.recipe, resolved.subject, resolved.examples
    if not recipe.vocabulary.prune:
        return resolved
    require_word_pieces(subject.preprocessor, subject.source)
    _, table = word_table(subject.model)
    with session.stage("vocabulary"):
        used = _used(session, subject, examples)
        kept = entries_to_keep(subject.preprocessor, used, table.num_embeddings)
        vocabulary = smaller(subject.preprocessor, kept, table.num_embeddings)
    session.note(
        f"the vocabulary keeps {vocabulary.after} of {vocabulary.before} entries: {len(used)} "
        f"occur in {len(examples.training)} training examples"
    )
    return _with(session, resolved, vocabulary)


def of_output(session: Session, resolved: Resolved, folder: Path, before: Evidence) -> Resolved:
    """The same with the vocabulary of an output: that of its own tokenizer.

    Raises:
        UsageError: it is not the one that the evidence is of.
    """
    known, subject = before.vocabulary, resolved.subject
    if known is None:
        return resolved
    _, table = word_table(subject.model)
    own = load_tokenizer(folder / "model")
    vocabulary = of_tokenizers(subject.preprocessor, own, table.num_embeddings)
    if vocabulary.hash != known.hash:
        raise UsageError(
            "The tokenizer of this output has another vocabulary than its evidence says.",
            got=f"{vocabulary.after} entries, hash {vocabulary.hash}",
            allowed=f"{known.after} entries, hash {known.hash}",
            next_step="copy the whole output again, or run rfx prune-export again",
        )
    return _with(session, resolved, vocabulary)


def _used(session: Session, subject: Subject, examples: Examples) -> set[int]:
    """The ids of all pieces of the training examples."""
    task, training = examples.task, examples.training
    used = {i for text in task.fixed_texts() for i in task.tokenizer(text)[IDS]}
    with session.progress.bar("encoding the training examples", len(training)) as bar:
        for start in range(0, len(training), PART):
            part = training[start : start + PART]
            features = task.encode(part)
            check_features(subject, "training", features, part)
            for feature in features:
                used.update(feature.ids[IDS].tolist())
            bar.advance(len(part))
    return used


def _with(session: Session, resolved: Resolved, vocabulary: Vocabulary) -> Resolved:
    subject = replace(resolved.subject, vocabulary=vocabulary)
    examples = resolved.examples
    task = make_task(resolved.recipe, subject.as_served)
    vars(task).update({**vars(examples.task), "tokenizer": vocabulary.tokenizer})
    evaluation = tuple(task.encode(examples.evaluation))
    if (more := task.truncated - examples.truncated) > 0:
        session.warn(
            f"{more} more evaluation examples are longer than {task.max_length} tokens "
            "with the smaller vocabulary, and are cut."
        )
    again = replace(
        examples,
        task=task,
        calibration_features=tuple(task.encode(examples.calibration)),
        evaluation_features=evaluation,
        again=None,
    )
    return replace(resolved, subject=subject, examples=replace(examples, again=again))


def in_full(call: Call, vocabulary: Vocabulary | None) -> Call:
    """A model of the full vocabulary, fed the ids of the smaller one."""
    if vocabulary is None:
        return call

    def run(inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return call(_in_full(inputs, vocabulary))

    return run


def _in_full(inputs: Mapping[str, np.ndarray], vocabulary: Vocabulary) -> dict[str, np.ndarray]:
    return {n: vocabulary.back(a) if n == IDS else a for n, a in inputs.items()}


def divergence(examples: Examples, before: Outputs, after: Outputs) -> float | None:
    """Divergence of a finished model's outputs on the evaluation set from the dense model's; None
    where no input of the two can be compared. Outputs that have one row a token are compared where
    both tokenizers give the same pieces."""
    names = examples.task.output_names
    if examples.again is None or not examples.task.token_outputs:
        return outputs_divergence(before, after, names)
    pairs = _alike(examples)
    if not pairs:
        return None
    one, other = (
        {name: [side[name][pair[at]] for pair in pairs] for name in names}
        for at, side in enumerate((before, after))
    )
    return outputs_divergence(one, other, names)


def _alike(examples: Examples) -> list[tuple[int, int]]:
    """The evaluation features that both tokenizers give: their places."""
    served = examples.served.task.tokenizer
    names = {i: token for token, i in served.get_vocab().items()}
    full = examples.task.tokenizer.get_vocab()
    known = {
        (f.example, tuple(f.ids[IDS].tolist())): at
        for at, f in enumerate(examples.evaluation_features)
    }
    found = []
    for at, f in enumerate(examples.served.evaluation_features):
        ids = tuple(full[names[i]] for i in f.ids[IDS].tolist())
        if (there := known.get((f.example, ids))) is not None:
            found.append((there, at))
    return found


@dataclass(frozen=True)
class Finished:
    """A finished model, whose vocabulary is smaller.

    Args:
        subject: the model that plan and update belong to, with the full vocabulary.
        artefact: its files.
        engine: what runs them.
        after: its outputs on the evaluation set.
        quantizing: what made them at a quantized precision.
        table: the latency table that the plan was found by, which the files name.
    """

    subject: Subject
    plan: Plan
    update: Update
    artefact: Artefact
    engine: Engine
    after: Outputs
    quantizing: Quantizing | None
    table: TablePart | None = None


def answered(session: Session, recipe: Recipe, examples: Examples, engine: Engine) -> Outputs:
    """What a finished model gives on the evaluation set."""
    batch = served_batch(recipe, recipe.workload.precision)
    return evaluate(session, examples.served, engine, "evaluating the pruned model", batch)


def vocabulary_part(
    session: Session, recipe: Recipe, examples: Examples, made: Finished
) -> VocabularyPart | None:
    """What the smaller vocabulary costs: the same pruned model is written with the full one, and
    evaluated too. None where all of the vocabulary stays."""
    vocabulary = made.subject.vocabulary
    if vocabulary is None:
        return None
    folder = session.store.scratch("full-vocabulary")
    try:
        with session.stage("beside the full vocabulary"):
            artefact = export_model(
                recipe,
                made.subject,
                shrunk_model(made.subject, made.plan, made.update),
                folder,
                examples.task.graph_outputs(),
                made.plan,
                metadata=own_metadata(recipe, made.table),
                keep_fp32=recipe.quantization.keep_fp32,
                quantizing=_quantizing_in_full(made.quantizing, vocabulary),
            )
            full_bytes = sum(file.stat().st_size for file in artefact.files)
            engine = session.build(artefact, workload_of(recipe))
            try:
                batch = served_batch(recipe, recipe.workload.precision)
                title = "evaluating with the full vocabulary"
                outputs = evaluate(session, examples, engine, title, batch)
                difference = _difference(examples, made.engine, engine, vocabulary, batch)
            finally:
                engine.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    task = examples.task
    full, small = result_of(examples, outputs), result_of(examples.served, made.after)
    like = task.agreement(full.predictions, small.predictions)
    return VocabularyPart(
        before=vocabulary.before,
        after=vocabulary.after,
        hash=vocabulary.hash,
        training=len(examples.training),
        bytes=sum(file.stat().st_size for file in made.artefact.files),
        full_bytes=full_bytes,
        texts=len(examples.evaluation),
        difference=difference,
        tolerance=session.target.here.tolerance(recipe.workload.precision),
        metric=small.value,
        full_metric=full.value,
        drop=100 * (full.value - small.value),
        interval=drop_interval(task, full, small, examples.evaluation, recipe.seed),
        agreement=like.share,
        agreement_interval=like.interval,
        min_agreement=recipe.limits.min_vocabulary_agreement,
        **_counted(examples, vocabulary),
    )


def _difference(
    examples: Examples, small: Engine, full: Engine, vocabulary: Vocabulary, batch: int
) -> float:
    """Largest difference of the outputs of both engines on the same pieces of calibration examples,
    as a share of the outputs' scale."""
    served = examples.served
    features, names = served.calibration_features[:COMPARED], served.task.output_names

    def collect(call: Call) -> np.ndarray:
        outputs = run_features(call, served.task, features, batch)
        return np.concatenate([np.ravel(a) for name in names for a in outputs[name]])

    one, other = collect(small.run), collect(in_full(full.run, vocabulary))
    return float(np.abs(one - other).max()) / max(1.0, float(np.abs(other).max()))


def _quantizing_in_full(made: Quantizing | None, vocabulary: Vocabulary) -> Quantizing | None:
    """The same, shown the same pieces: its scales are those of the finished file."""
    if made is None:
        return None
    return replace(made, feeds=tuple(_in_full(feed, vocabulary) for feed in made.feeds))


def _counted(examples: Examples, vocabulary: Vocabulary) -> dict[str, int]:
    """How the two tokenizers encode the evaluation set."""
    pieces = {}
    for name, side in (("full_", examples), ("", examples.served)):
        unknown = side.task.tokenizer.unk_token_id
        rows = [f.ids[IDS] for f in side.evaluation_features]
        pieces[f"{name}pieces"] = sum(len(row) for row in rows)
        pieces[f"{name}unknown"] = sum(int((row == unknown).sum()) for row in rows)
    one = _by_example(examples.evaluation_features, len(examples.evaluation))
    other = _by_example(examples.served.evaluation_features, len(examples.evaluation), vocabulary)
    pieces["otherwise"] = sum(a != b for a, b in zip(one, other, strict=True))
    return pieces


def _by_example(
    features: Sequence[Feature], count: int, vocabulary: Vocabulary | None = None
) -> list[list[list[int]]]:
    """The ids of each example's features, as those of the full vocabulary."""
    found: list[list[list[int]]] = [[] for _ in range(count)]
    for feature in features:
        ids = feature.ids[IDS]
        found[feature.example].append(
            (ids if vocabulary is None else vocabulary.back(ids)).tolist()
        )
    return found
