"""The dense model's own accuracy, measured before any work is spent on pruning it: everything that
follows is compared with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rfx.export.precision.convert import is_quantized
from rfx.methods.build import build
from rfx.models.subject import Subject
from rfx.pipeline.dense import Baseline, compared_at
from rfx.pipeline.score import codes
from rfx.pipeline.session import Session
from rfx.recipe.spec import Recipe
from rfx.runtimes.base import Engine
from rfx.tasks.base import Example, MetricResult
from rfx.tasks.baseline import Weakness, another_order, weakness
from rfx.tasks.calibration import features_hash, run_features
from rfx.tasks.examples import Examples

if TYPE_CHECKING:
    from torch import nn

Outputs = dict[str, list[np.ndarray]]  # by name one array a feature
Call = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]

EVAL_BATCH = 32
VERSION = 2  # of the dense outputs in the store
LARGEST_KEPT = 256 * 2**20  # bytes of dense outputs that the store is given; larger ones are remade
LOOKED_AT = 256  # calibration examples whose labels are compared with the model's own answers


def dense_accuracy(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    examples: Examples,
    dense: Baseline,
    *,
    again: bool = False,
) -> Outputs:
    """The dense engine's outputs on the evaluation set, which must be better than a constant
    answer, with the labels in the order of the data.

    Args:
        again: an existing output is measured, whose recipe is settled: the engine is evaluated
            even where the store knows its outputs, and the advice is to make the output anew.

    Raises:
        UsageError: they are not, and --allow-weak-baseline was not given.
    """
    with session.stage("dense accuracy") as clock:
        outputs, clock.cached = dense_outputs(
            session, recipe, subject, examples, dense, fresh=again
        )
        result = result_of(examples, outputs)
        session.note(
            f"the dense model: {result.name} {100 * result.value:.2f} on "
            f"{len(examples.evaluation)} examples"
        )
        if not np.isfinite(result.value):
            session.warn(
                f"The metric {result.name} is not defined on this evaluation set, e.g. because all "
                "its labels are equal: accuracy cannot be judged. Give another --metric or more "
                "evaluation examples."
            )
        found = of_evaluation(recipe, examples, result)
        if again and found is not None:
            found = replace(found, next_step=f"run rfx prune-export again: {found.next_step}")
        _settle(session, recipe, found)
        return outputs


def of_evaluation(recipe: Recipe, examples: Examples, dense: MetricResult) -> Weakness | None:
    """What is wrong with the dense model's predictions on the evaluation set."""
    return weakness(examples.task, dense.predictions, examples.evaluation, seed=recipe.seed)


def check_calibration(
    session: Session, recipe: Recipe, subject: Subject, examples: Examples
) -> None:
    """Whether the labels of the calibration examples are in the model's order, where the scores
    depend on them: the model itself answers some.

    Raises:
        UsageError: they are not, and --allow-weak-baseline was not given.
    """
    scorer = build(recipe.method, seed=recipe.seed, labelled=examples.labelled).scorer
    if not examples.labelled or not scorer.uses_labels:
        return
    task = examples.task
    features = [f for f in examples.calibration_features if f.example < LOOKED_AT]
    some: Sequence[Example] = examples.calibration[:LOOKED_AT]
    outputs = run_features(torch_call(subject.model, task.output_names), task, features, EVAL_BATCH)
    found = another_order(task, task.predict(outputs, features, some), some)
    if found is not None:
        what = found.what.replace("in the data", "of the calibration examples")
        _settle(session, recipe, replace(found, what=what))


def _settle(session: Session, recipe: Recipe, found: Weakness | None) -> None:
    """Stop for a weakness that is shown, unless it was allowed; warn of every other."""
    if found is None:
        return
    if found.sure and not recipe.limits.allow_weak_baseline:
        raise found.error()
    session.warn(f"{found.what} {found.got}. To mend it: {found.next_step}.")


def dense_outputs(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    examples: Examples,
    dense: Baseline,
    *,
    fresh: bool = False,
    precision: str | None = None,
    title: str = "evaluating the dense model",
) -> tuple[Outputs, bool]:
    """Raw outputs of the dense engine on the evaluation set, and whether the store had them.

    Args:
        precision: of the engine, where it is another than that which everything is compared with.
        fresh: evaluate the engine again, even where the store knows its outputs on this set.
    """
    task, store, here = examples.task, session.store, session.target.here
    batch = EVAL_BATCH if precision is None else served_batch(recipe, precision)
    key = store.key(
        VERSION,
        "outputs",
        subject.hash,
        features_hash(examples.evaluation_features),
        task.name,
        recipe.task_options,
        here.name,
        here.version(),
        here.device(),
        precision or compared_at(recipe),
        dense.made_by,
        batch,
        recipe.exporter,
        *codes(recipe, task=task.name, runtime=here.name),
    )
    kept = None if fresh else _unpack(store.get_arrays("dense-outputs", key), examples)
    if kept is not None:
        return kept, True
    outputs = evaluate(session, examples, dense.engine, title, batch)
    packed = _pack(outputs)
    if sum(a.nbytes for a in packed.values()) <= LARGEST_KEPT:
        store.put_arrays("dense-outputs", key, packed)
    return outputs, False


def torch_call(model: nn.Module, names: tuple[str, ...]) -> Call:
    """A torch model as a function from named int64 arrays to named arrays, like an engine's
    `run`."""
    import torch

    def call(inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        with torch.inference_mode():
            out = model(**{k: torch.from_numpy(np.asarray(v)) for k, v in inputs.items()})
        return {name: getattr(out, name).numpy() for name in names}

    return call


def served_batch(recipe: Recipe, precision: str) -> int:
    """How many examples are evaluated at once at a precision: what is quantized computes its
    scales over the batch and its padding, so that it is evaluated as it is served."""
    return recipe.workload.batch if is_quantized(precision) else EVAL_BATCH


def evaluate(
    session: Session, examples: Examples, engine: Engine, title: str, batch: int = EVAL_BATCH
) -> Outputs:
    """Raw outputs of an engine on the whole evaluation set, so many examples at once."""
    features = examples.evaluation_features
    with session.progress.bar(title, len(features)) as bar:
        return run_features(engine.run, examples.task, features, batch, advance=bar.advance)


def result_of(examples: Examples, outputs: Outputs) -> MetricResult:
    """Predictions and metric."""
    task, judged = examples.task, examples.evaluation
    predictions = task.predict(outputs, examples.evaluation_features, judged)
    return MetricResult(task.metric_name, task.metric(predictions, judged), predictions)


def _pack(outputs: Outputs) -> dict[str, np.ndarray]:
    """All features' arrays of an output in one, and how many rows each has."""
    packed = {}
    for name, arrays in outputs.items():
        rows = [np.atleast_1d(a) for a in arrays]
        packed[name] = np.concatenate(rows)
        packed[f"{name}/rows"] = np.array([len(a) for a in rows], dtype=np.int64)
    return packed


def _unpack(packed: dict[str, np.ndarray] | None, examples: Examples) -> Outputs | None:
    """Back again; None where there is nothing, or nothing of this evaluation set."""
    if packed is None:
        return None
    outputs = {}
    for name in examples.task.output_names:
        rows = packed.get(f"{name}/rows", np.empty(0))
        if name not in packed or len(rows) != len(examples.evaluation_features):
            return None
        outputs[name] = list(np.split(packed[name], np.cumsum(rows)[:-1]))
    return outputs
