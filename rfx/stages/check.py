"""Verify: four proofs. Shrunk, same, accurate, fast."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from rfx.calibration import features_hash, run_features
from rfx.errors import UserError, first_line, is_interrupt
from rfx.export.onnx import shape_mismatches, site_shapes
from rfx.masks import MaskTap, plan_masks
from rfx.plan import Plan, Update
from rfx.runtimes.base import Engine
from rfx.scores.divergence import outputs_divergence
from rfx.stages.load import Model, Workload
from rfx.stages.measure import Baseline
from rfx.stages.run import Run
from rfx.surgery.student import as_student
from rfx.tasks.base import MetricResult
from rfx.verify.accuracy import compare
from rfx.verify.evidence import AccuracyPart, Gate, LatencyPart
from rfx.verify.gates import same_gate, shrunk_gate
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


def shrunk(loaded: Model, file: Path, plan: Plan) -> Gate:
    return shrunk_gate(shape_mismatches(file, loaded.sites, plan))


def parity(
    run: Run, loaded: Model, workload: Workload, plan: Plan, update: Update, small, engine: Engine
) -> tuple[Gate, dict]:
    """Largest differences of the raw outputs on calibration examples, masked torch and shrunk torch
    and engine."""
    features = workload.calibration_features[:PARITY_EXAMPLES]
    names = workload.task.output_names

    def collect(call) -> np.ndarray:
        logits = run_features(call, workload.task, features, EVAL_BATCH)
        return np.concatenate([np.ravel(a) for name in names for a in logits[name]])

    with run.stage("parity"):
        if (
            update.weights or update.biases
        ):  # the dense shape with zero columns and the new projections
            student = as_student(loaded.model, loaded.sites, plan, update)
        else:
            student = MaskTap(loaded.model, loaded.sites, plan_masks(plan, update.scales or None))
        with student:
            masked = collect(torch_call(loaded.model, names))
        shrunk_ = collect(torch_call(small, names))
        engine_ = collect(engine.run)
    scale = max(1.0, float(np.abs(shrunk_).max()))
    differences = {
        "masked-shrunk": float(np.abs(masked - shrunk_).max()) / scale,
        "shrunk-engine": float(np.abs(shrunk_ - engine_).max()) / scale,
    }
    tolerances = dict.fromkeys(differences, PARITY_TOLERANCE)
    tolerances["shrunk-engine"] = max(
        run.runtime.tolerance(p) for p in {"fp32", run.conditions.precision}
    )
    return same_gate(differences, tolerances), differences


def other_file(run: Run, loaded: Model, plain: Engine, file: Path) -> Engine:
    """The engine of another file of the same model, say a quantized one, and in the warnings
    whether it is any faster
    than the plain one: the two in turns, as dense and pruned are."""
    other = run.build(file)
    with run.stage("beside model.onnx"):
        pair = measure_pair(
            run.runtime,
            plain,
            other,
            run.conditions,
            vocab_size=int(loaded.model.config.vocab_size),
            seed=run.recipe.seed + 2,
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
    run.warn(
        f"{file.name} takes {pair.ratio:.3f} ({low:.3f} to {high:.3f}) of model.onnx's latency: "
        f"{verdict}."
    )
    return other


def of_other_file(
    loaded: Model, plan: Plan, file: Path, shrunk_: Gate, same: Gate
) -> tuple[Gate, Gate]:
    """The gates of model.onnx where accuracy and latency are those of another file: shapes are
    proved there too, if it names its weights as rfx does; what was proved of model.onnx alone says
    so."""
    found = site_shapes(file, loaded.sites)
    if any(channels for modules in found.values() for channels in modules.values()):
        other = shrunk(loaded, file, plan)
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


def diagnose(run: Run, workload: Workload, file: Path, gate: Gate, folder: Path | None) -> Gate:
    """Where an engine of the TensorRT family is not the same function: which tensor is the first
    that differs from ONNX Runtime's, through Polygraphy, and a script in `folder` that repeats it.
    The verdict stays what it was."""
    if gate.outcome == "pass" or run.served_by.name not in ("trt", "trt-rtx") or run.offline:
        return gate
    from rfx.verify.parity import compare_runtimes, save_repro

    inputs = [
        {n: np.asarray(a) for n, a in batch.items()}
        for batch in _engine_inputs(workload, PARITY_EXAMPLES)
    ]
    try:
        found = compare_runtimes(
            file,
            inputs,
            runtime=run.runtime.name,
            tolerance=run.runtime.tolerance(run.conditions.precision),
        )
        if found is None:
            return gate
        script = (
            f"; repeat it with {save_repro(folder, found).name}"
            if folder is not None
            else f"; repeat it: {found.command}"
        )
    except Exception as error:  # noqa: BLE001 - the verdict stands without it: no failure of the search may cost the finished run
        if is_interrupt(error):
            raise
        why = (
            f"{error.what} {error.got or ''}".rstrip()
            if isinstance(error, UserError)
            else first_line(error)
        )
        return gate.model_copy(update={"detail": f"{gate.detail}; not located: {why}"})
    return gate.model_copy(update={"detail": f"{gate.detail}; {found}{script}"})


def _engine_inputs(workload: Workload, examples: int) -> list[dict]:
    """The batches that `parity` runs, as they reach an engine."""
    seen: list[dict] = []

    def keep(inputs):
        seen.append({n: np.array(a) for n, a in inputs.items()})
        raise _Enough

    for start in range(0, examples, EVAL_BATCH):
        try:
            run_features(
                keep,
                workload.task,
                workload.calibration_features[start : start + EVAL_BATCH],
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


def evaluate(run: Run, workload: Workload, engine: Engine, title: str) -> Outputs:
    """Raw outputs of an engine on the whole evaluation set."""
    features = workload.evaluation_features
    with run.progress.bar(title, len(features)) as bar:
        return run_features(engine.run, workload.task, features, EVAL_BATCH, advance=bar.advance)


def _result(workload: Workload, outputs: Outputs) -> MetricResult:
    """Predictions and metric."""
    task, examples = workload.task, workload.evaluation
    predictions = task.predict(outputs, workload.evaluation_features, examples)
    return MetricResult(task.metric_name, task.metric(predictions, examples), predictions)


def accuracy(
    run: Run,
    loaded: Model,
    workload: Workload,
    dense: Baseline,
    engine: Engine,
    *,
    fresh: bool = False,
) -> AccuracyPart:
    """The pruned engine against the dense one on the whole evaluation set.

    Args:
        fresh: evaluate the dense engine again, even where the store knows its outputs on this set.
    """
    task, recipe, store = workload.task, run.recipe, run.store
    with run.stage("accuracy"):
        key = store.key(
            VERSION,
            "outputs",
            loaded.hash,
            features_hash(workload.evaluation_features),
            task.name,
            recipe.task_options,
            run.runtime.name,
            run.runtime.version(),
            run.runtime.device(),
            recipe.conditions.precision,
        )
        before = None if fresh else _unpack(store.get_arrays("dense-outputs", key), workload)
        if before is None:
            before = evaluate(run, workload, dense.engine, "evaluating the dense model")
            packed = _pack(before)
            if sum(a.nbytes for a in packed.values()) <= LARGEST_KEPT:
                store.put_arrays("dense-outputs", key, packed)
        after = evaluate(run, workload, engine, "evaluating the pruned model")
        return compare(
            task,
            _result(workload, before),
            _result(workload, after),
            workload.evaluation,
            max_drop=recipe.max_drop,
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


def _unpack(packed: dict[str, np.ndarray] | None, workload: Workload) -> Outputs | None:
    """Back again; None where there is nothing, or nothing of this evaluation set."""
    if packed is None:
        return None
    outputs = {}
    for name in workload.task.output_names:
        if name not in packed or len(packed.get(f"{name}/rows", ())) != len(
            workload.evaluation_features
        ):
            return None
        outputs[name] = np.split(packed[name], np.cumsum(packed[f"{name}/rows"])[:-1])
    return outputs


def latency(
    run: Run, loaded: Model, dense: Baseline, engine: Engine, predicted_ratio: float | None
) -> LatencyPart:
    """A fresh interleaved measurement of the final artefact."""
    with run.stage("latency"):
        return measure_pair(
            run.runtime,
            dense.engine,
            engine,
            run.conditions,
            target=run.recipe.budget.latency,
            predicted_ratio=predicted_ratio,
            vocab_size=int(loaded.model.config.vocab_size),
            seed=run.recipe.seed + 1,
            min_seconds=FINAL_SECONDS,
        )
