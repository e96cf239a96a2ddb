"""Verify: four proofs. Shrunk, same, accurate, fast."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from rfx.core.errors import UserError, first_line, is_interrupt
from rfx.core.plan import Plan, Update
from rfx.evidence.gates import same_gate, shrunk_gate
from rfx.evidence.records import AccuracyPart, Gate, LatencyPart
from rfx.export.onnx import shape_mismatches, site_shapes
from rfx.methods.scores.divergence import outputs_divergence
from rfx.models.masks import MaskTap, plan_masks
from rfx.models.student import as_student
from rfx.pipeline.dense import Baseline
from rfx.pipeline.examples import Examples, Subject
from rfx.pipeline.session import Session
from rfx.runtimes.base import Engine
from rfx.tasks.base import MetricResult
from rfx.tasks.calibration import features_hash, run_features
from rfx.verify.accuracy import compare
from rfx.verify.latency import measure_pair

Outputs = dict[str, list[np.ndarray]]  # by name one array a feature

EVAL_BATCH = 32
FINAL_SECONDS = 6.0  # of timing the finished engine, at least
VERSION = 1  # of the dense outputs in the store
LARGEST_KEPT = (
    256 * 2**20
)  # bytes of dense outputs that the store is given; larger ones are made again
PARITY_EXAMPLES = 64
PARITY_TOLERANCE = 2e-4  # of the logits' scale: masked torch = shrunk torch, both fp32


def shrunk(subject: Subject, file: Path, plan: Plan) -> Gate:
    return shrunk_gate(shape_mismatches(file, subject.sites, plan))


def parity(
    session: Session,
    subject: Subject,
    examples: Examples,
    plan: Plan,
    update: Update,
    small,
    engine: Engine,
) -> tuple[Gate, dict]:
    """Largest differences of the raw outputs on calibration examples, masked torch and shrunk torch
    and engine."""
    features = examples.calibration_features[:PARITY_EXAMPLES]
    names = examples.task.output_names

    def collect(call) -> np.ndarray:
        logits = run_features(call, examples.task, features, EVAL_BATCH)
        return np.concatenate([np.ravel(a) for name in names for a in logits[name]])

    with session.stage("parity"):
        if (
            update.weights or update.biases
        ):  # the dense shape with zero columns and the new projections
            student = as_student(subject.model, subject.sites, plan, update)
        else:
            student = MaskTap(subject.model, subject.sites, plan_masks(plan, update.scales or None))
        with student:
            masked = collect(torch_call(subject.model, names))
        shrunk_ = collect(torch_call(small, names))
        engine_ = collect(engine.run)
    scale = max(1.0, float(np.abs(shrunk_).max()))
    differences = {
        "masked-shrunk": float(np.abs(masked - shrunk_).max()) / scale,
        "shrunk-engine": float(np.abs(shrunk_ - engine_).max()) / scale,
    }
    tolerances = dict.fromkeys(differences, PARITY_TOLERANCE)
    tolerances["shrunk-engine"] = max(
        session.runtime.tolerance(p) for p in {"fp32", session.workload.precision}
    )
    return same_gate(differences, tolerances), differences


def other_file(session: Session, subject: Subject, plain: Engine, file: Path) -> Engine:
    """The engine of another file of the same model, say a quantized one, and in the warnings
    whether it is any faster
    than the plain one: the two in turns, as dense and pruned are."""
    other = session.build(file)
    with session.stage("beside model.onnx"):
        pair = measure_pair(
            session.runtime,
            plain,
            other,
            session.workload,
            inputs=subject.inputs,
            seed=session.recipe.seed + 2,
            min_seconds=FINAL_SECONDS / 2,
        )
    low, high = pair.interval
    verdict = (
        "faster"
        if high < 1
        else "slower: keep model.onnx"
        if low > 1
        else "no faster that could be told: keep model.onnx"
    )
    session.warn(
        f"{file.name} takes {pair.ratio:.3f} ({low:.3f} to {high:.3f}) of model.onnx's latency: "
        f"{verdict}."
    )
    return other


def of_other_file(
    subject: Subject, plan: Plan, file: Path, shrunk_: Gate, same: Gate
) -> tuple[Gate, Gate]:
    """The gates of model.onnx where accuracy and latency are those of another file: shapes are
    proved there too, if it names its weights as rfx does; what was proved of model.onnx alone says
    so."""
    found = site_shapes(file, subject.sites)
    if any(channels for modules in found.values() for channels in modules.values()):
        other = shrunk(subject, file, plan)
        shrunk_ = (
            other.model_copy(update={"detail": f"{file.name}: {other.detail}"})
            if shrunk_.outcome == "pass"
            else shrunk_
        )
    else:
        shrunk_ = shrunk_.model_copy(
            update={
                "detail": f"model.onnx: {shrunk_.detail}; {file.name} names its weights otherwise "
                "and was not looked at"
            }
        )
    return shrunk_, same.model_copy(update={"detail": f"model.onnx: {same.detail}"})


def diagnose(
    session: Session, examples: Examples, file: Path, gate: Gate, folder: Path | None
) -> Gate:
    """Where an engine is not the same function and its runtime can be looked into: which tensor is the first
    that differs from ONNX Runtime's, through Polygraphy, and a script in `folder` that repeats it.
    The verdict stays what it was."""
    if (
        gate.outcome == "pass"
        or not session.served_by.capabilities.locates_differences
        or session.offline
    ):
        return gate
    from rfx.verify.parity import compare_runtimes, save_repro

    inputs = [
        {n: np.asarray(a) for n, a in batch.items()}
        for batch in _engine_inputs(examples, PARITY_EXAMPLES)
    ]
    try:
        found = compare_runtimes(
            file,
            inputs,
            runtime=session.runtime.name,
            tolerance=session.runtime.tolerance(session.workload.precision),
        )
        if found is None:
            return gate
        script = (
            f"; repeat it with {save_repro(folder, found).name}"
            if folder is not None
            else f"; repeat it: {found.command}"
        )
    except Exception as error:
        if is_interrupt(error):
            raise
        why = (
            f"{error.what} {error.got or ''}".rstrip()
            if isinstance(error, UserError)
            else first_line(error)
        )
        return gate.model_copy(update={"detail": f"{gate.detail}; not located: {why}"})
    return gate.model_copy(update={"detail": f"{gate.detail}; {found}{script}"})


def _engine_inputs(examples: Examples, count: int) -> list[dict]:
    """The batches that `parity` runs, as they reach an engine."""
    seen: list[dict] = []

    def keep(inputs):
        seen.append({n: np.array(a) for n, a in inputs.items()})
        raise _Enough

    for start in range(0, count, EVAL_BATCH):
        try:
            run_features(
                keep,
                examples.task,
                examples.calibration_features[start : start + EVAL_BATCH],
                EVAL_BATCH,
            )
        except _Enough:
            continue
    return seen


class _Enough(Exception):
    pass


def torch_call(model, names) -> Callable:
    """A torch model as a function from named int64 arrays to named arrays, like an engine's
    `run`."""
    import torch

    def call(inputs):
        with torch.inference_mode():
            out = model(**{k: torch.from_numpy(np.asarray(v)) for k, v in inputs.items()})
        return {name: getattr(out, name).numpy() for name in names}

    return call


def evaluate(session: Session, examples: Examples, engine: Engine, title: str) -> Outputs:
    """Raw outputs of an engine on the whole evaluation set."""
    features = examples.evaluation_features
    with session.progress.bar(title, len(features)) as bar:
        return run_features(engine.run, examples.task, features, EVAL_BATCH, advance=bar.advance)


def _result(examples: Examples, outputs: Outputs) -> MetricResult:
    """Predictions and metric."""
    task, evaluation = examples.task, examples.evaluation
    predictions = task.predict(outputs, examples.evaluation_features, evaluation)
    return MetricResult(task.metric_name, task.metric(predictions, evaluation), predictions)


def accuracy(
    session: Session,
    subject: Subject,
    examples: Examples,
    dense: Baseline,
    engine: Engine,
    *,
    fresh: bool = False,
) -> AccuracyPart:
    """The pruned engine against the dense one on the whole evaluation set.

    Args:
        fresh: evaluate the dense engine again, even where the store knows its outputs on this set.
    """
    task, recipe, store = examples.task, session.recipe, session.store
    with session.stage("accuracy"):
        key = store.key(
            VERSION,
            "outputs",
            subject.hash,
            features_hash(examples.evaluation_features),
            task.name,
            recipe.task_options,
            session.runtime.name,
            session.runtime.version(),
            session.runtime.device(),
            recipe.workload.precision,
        )
        before = None if fresh else _unpack(store.get_arrays("dense-outputs", key), examples)
        if before is None:
            before = evaluate(session, examples, dense.engine, "evaluating the dense model")
            packed = _pack(before)
            if sum(a.nbytes for a in packed.values()) <= LARGEST_KEPT:
                store.put_arrays("dense-outputs", key, packed)
        after = evaluate(session, examples, engine, "evaluating the pruned model")
        return compare(
            task,
            _result(examples, before),
            _result(examples, after),
            examples.evaluation,
            max_drop=recipe.limits.max_drop,
            seed=recipe.seed,
            divergence=outputs_divergence(before, after, task.output_names),
        )


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
        if name not in packed or len(packed.get(f"{name}/rows", ())) != len(
            examples.evaluation_features
        ):
            return None
        outputs[name] = np.split(packed[name], np.cumsum(packed[f"{name}/rows"])[:-1])
    return outputs


def latency(
    session: Session,
    subject: Subject,
    dense: Baseline,
    engine: Engine,
    predicted_ratio: float | None,
) -> LatencyPart:
    """A fresh interleaved measurement of the final artefact."""
    with session.stage("latency"):
        return measure_pair(
            session.runtime,
            dense.engine,
            engine,
            session.workload,
            target=session.recipe.budget.latency,
            predicted_ratio=predicted_ratio,
            inputs=subject.inputs,
            seed=session.recipe.seed + 1,
            min_seconds=FINAL_SECONDS,
        )
