"""Verify: five proofs. The file is shrunk, it is the same function, it is accurate, it answers as
the dense model does, it is fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.core.artefact import MODEL, Artefact
from rfx.core.errors import UserError, first_line, is_interrupt
from rfx.core.plan import Plan, Update
from rfx.evidence.gates import (
    OTHER_FILE,
    accuracy_gate,
    agreement_gate,
    latency_gate,
    predicted_latency_gate,
    quantized_gate,
    same_gate,
    shrunk_gate,
    size_gate,
    vocabulary_gate,
)
from rfx.evidence.records import (
    AccuracyPart,
    Gate,
    LatencyPart,
    QuantizationPart,
    RivalLatency,
    SizePart,
    VocabularyPart,
)
from rfx.export.onnx import row_mismatches, shape_mismatches, site_shapes
from rfx.measure.accuracy import compare
from rfx.measure.latency import measure_pair, measure_with_rival
from rfx.models.masks import MaskTap, plan_masks
from rfx.models.student import as_student
from rfx.models.subject import Subject
from rfx.models.vocabulary import with_table_of, word_table
from rfx.pipeline.baseline import (
    EVAL_BATCH,
    Call,
    Outputs,
    dense_outputs,
    evaluate,
    of_evaluation,
    result_of,
    served_batch,
    torch_call,
)
from rfx.pipeline.dense import Baseline, compared_at, workload_of
from rfx.pipeline.session import Session
from rfx.pipeline.vocabulary import divergence, in_full
from rfx.recipe.spec import Recipe
from rfx.runtimes.base import Engine
from rfx.tasks.calibration import run_features
from rfx.tasks.examples import Examples

if TYPE_CHECKING:
    from torch import nn

FINAL_SECONDS = 6.0  # of timing the finished engine, at least
PARITY_EXAMPLES = 64
EXACT = 1e-7  # the same: rows of a table that were copied make no other number
PARITY_TOLERANCE = 2e-4  # of the logits' scale: masked torch = shrunk torch, both fp32


def shrunk(subject: Subject, files: Sequence[Path], plan: Plan) -> Gate:
    """Whether the exported files have the shapes of the plan, and the rows of the vocabulary that
    stays."""
    wrong = shape_mismatches(files, subject.sites, plan)
    if subject.vocabulary is not None:
        name, _ = word_table(subject.model)
        wrong += row_mismatches(files, name, subject.vocabulary.after)
    return shrunk_gate(wrong)


def parity(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    examples: Examples,
    plan: Plan,
    update: Update,
    small: nn.Module,
    engine: Engine,
    *,
    masked_too: bool = True,
) -> tuple[Gate, dict[str, float]]:
    """Largest differences of the raw outputs on calibration examples: masked torch, shrunk torch
    and engine. Where the vocabulary is smaller, its ids are turned into those of the full one for
    the masked model, and for the shrunk one that still has all of it.

    Args:
        masked_too: `subject` has the weights that the small model was made of.
    """
    vocabulary, examples = subject.vocabulary, examples.served
    features = examples.calibration_features[:PARITY_EXAMPLES]
    names = examples.task.output_names

    def collect(call: Call) -> np.ndarray:
        logits = run_features(call, examples.task, features, EVAL_BATCH)
        return np.concatenate([np.ravel(a) for name in names for a in logits[name]])

    with session.stage("parity"):
        masked = full = None
        if masked_too:
            with _masked(subject, plan, update):
                masked = collect(in_full(torch_call(subject.model, names), vocabulary))
        if masked_too and vocabulary is not None:
            whole = with_table_of(small, subject.model)
            full = collect(in_full(torch_call(whole, names), vocabulary))
        sliced = collect(torch_call(small, names))
        run = collect(engine.run)
    scale = max(1.0, float(np.abs(sliced).max()))
    differences = {"shrunk-engine": float(np.abs(sliced - run).max()) / scale}
    if masked is not None:
        differences = {"masked-shrunk": float(np.abs(masked - sliced).max()) / scale, **differences}
    if full is not None:
        differences["full-sliced"] = float(np.abs(full - sliced).max()) / scale
    here, precision = session.target.here, compared_at(recipe)
    tolerances = {
        "masked-shrunk": PARITY_TOLERANCE,
        "full-sliced": EXACT,
        "shrunk-engine": max(here.tolerance(p) for p in {"fp32", precision}),
    }
    return same_gate(differences, {name: tolerances[name] for name in differences}), differences


def _masked(subject: Subject, plan: Plan, update: Update) -> AbstractContextManager[Any]:
    """The dense model computing what the plan and its update say."""
    if update.weights or update.biases:
        # The dense shape with zero columns and the new projections.
        return as_student(subject.model, subject.sites, plan, update)
    return MaskTap(subject.model, subject.sites, plan_masks(plan, update.scales or None))


def other_file(
    session: Session, recipe: Recipe, subject: Subject, plain: Engine, file: Path
) -> Engine:
    """The engine of another file of the same model, say a quantized one, and in the warnings
    whether it is any faster than the plain one: the two run in turns, as dense and pruned do."""
    workload = workload_of(recipe)
    other = session.build(file, workload)
    with session.stage("beside model.onnx"):
        pair = measure_pair(
            session.target.here,
            plain,
            other,
            workload,
            inputs=subject.as_served.inputs,
            seed=recipe.seed + 2,
            min_seconds=FINAL_SECONDS / 2,
        )
    low, high = pair.interval
    if high < 1:
        said = "it is faster"
    elif low > 1:
        said = "it is slower: keep model.onnx"
    else:
        said = "which of the two is faster cannot be told: keep model.onnx"
    session.warn(
        f"{file.name} takes {pair.ratio:.3f} ({low:.3f} to {high:.3f}) of model.onnx's latency: "
        f"{said}."
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
        other = shrunk(subject, (file,), plan)
        if shrunk_.outcome == "pass":
            shrunk_ = other.model_copy(update={"detail": f"{file.name}: {other.detail}"})
    else:
        shrunk_ = shrunk_.model_copy(
            update={
                "detail": f"{OTHER_FILE}{shrunk_.detail}; {file.name} names its weights otherwise "
                "and was not looked at"
            }
        )
    return shrunk_, same.model_copy(update={"detail": f"{OTHER_FILE}{same.detail}"})


def diagnose(
    session: Session,
    recipe: Recipe,
    examples: Examples,
    artefact: Artefact,
    gate: Gate,
    folder: Path | None,
) -> Gate:
    """Where an engine is not the same function: which tensor is the first that differs from ONNX
    Runtime's, through Polygraphy, and a script in `folder` that repeats it. The verdict stays what
    it was."""
    here = session.target.here
    if (
        gate.outcome == "pass"
        or artefact.roles != (MODEL,)  # one graph is compared with itself on another runtime
        or session.target.absent
        or not session.target.serves.capabilities.locates_differences
    ):
        return gate
    from rfx.measure.parity.compare import compare_runtimes
    from rfx.measure.parity.difference import save_repro

    batches = _engine_inputs(examples, PARITY_EXAMPLES)
    inputs = [{n: np.asarray(a) for n, a in batch.items()} for batch in batches]
    try:
        found = compare_runtimes(
            artefact.file,
            inputs,
            runtime=here.name,
            tolerance=here.tolerance(compared_at(recipe)),
        )
        if found is None:
            return gate
        script = f"repeat it: {found.command}"
        if folder is not None:
            script = f"repeat it with {save_repro(folder, found).name}"
    except Exception as error:
        # The verdict stands without it: no failure of this search may cost the finished run.
        if is_interrupt(error):
            raise
        why = first_line(error)
        if isinstance(error, UserError):
            why = f"{error.what} {error.got or ''}".rstrip()
        return gate.model_copy(update={"detail": f"{gate.detail}; not located: {why}"})
    return gate.model_copy(update={"detail": f"{gate.detail}; {found}; {script}"})


class _SeenError(Exception):
    """The inputs of a batch have been seen."""


def _engine_inputs(examples: Examples, count: int) -> list[dict[str, np.ndarray]]:
    """The batches that `parity` runs, as they reach an engine."""
    examples = examples.served
    seen: list[dict[str, np.ndarray]] = []

    def keep(inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        seen.append({n: np.array(a) for n, a in inputs.items()})
        raise _SeenError

    for start in range(0, count, EVAL_BATCH):
        part = examples.calibration_features[start : start + EVAL_BATCH]
        try:
            run_features(keep, examples.task, part, EVAL_BATCH)
        except _SeenError:
            continue
    return seen


def accuracy(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    examples: Examples,
    dense: Baseline,
    engine: Engine,
    *,
    before: Outputs | None = None,
) -> tuple[AccuracyPart, Outputs]:
    """The pruned engine against the dense one on the whole evaluation set, and its outputs.

    Args:
        before: the dense engine's outputs on it; None: they are measured now, even where the store
            knows them.
    """
    with session.stage("accuracy"):
        if before is None:
            before, _ = dense_outputs(session, recipe, subject, examples, dense, fresh=True)
        batch = served_batch(recipe, recipe.workload.precision)
        after = evaluate(session, examples.served, engine, "evaluating the pruned model", batch)
        part = compared(recipe, examples, before, after)
        return part.model_copy(update={"batch": batch}), after


def compared(recipe: Recipe, examples: Examples, before: Outputs, after: Outputs) -> AccuracyPart:
    """Outputs on the evaluation set, the dense model's against a pruned one's."""
    task, whole = examples.task, result_of(examples, before)
    allowed = recipe.limits.allow_weak_baseline
    weak = of_evaluation(recipe, examples, whole) if allowed else None
    return compare(
        task,
        whole,
        result_of(examples.served, after),
        examples.evaluation,
        max_drop=recipe.limits.max_drop,
        seed=recipe.seed,
        divergence=divergence(examples, before, after),
        min_agreement=recipe.limits.min_agreement,
        weak_baseline=weak is not None and weak.sure,
    )


def latency(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    dense: Baseline,
    engine: Engine,
    predicted_ratio: float | None,
    rival: Baseline | None = None,
) -> tuple[LatencyPart, RivalLatency | None]:
    """A fresh interleaved measurement of the final engine, and of the rival beside it."""
    with session.stage("latency"):
        return measure_with_rival(
            session.target.here,
            dense.engine,
            engine,
            None if rival is None else rival.engine,
            workload_of(recipe),
            target=recipe.budget.latency,
            predicted_ratio=predicted_ratio,
            inputs=subject.as_served.inputs,
            seed=recipe.seed + 1,
            min_seconds=FINAL_SECONDS,
        )


def speed_gate(
    session: Session,
    recipe: Recipe,
    part: LatencyPart | None,
    predicted: float | None = None,
    measured_where: str = "no table was given",
) -> Gate:
    """The latency gate: what was measured, or where the target is absent what the table says.

    Args:
        measured_where: in words, which table has spoken.
    """
    target, least = recipe.budget.latency, recipe.limits.min_speedup
    if part is not None:
        return latency_gate(part, target=target, min_speedup=least)
    name = session.target.serves.name
    return predicted_latency_gate(
        predicted,
        target=target,
        min_speedup=least,
        why=f"{name} cannot run here; {measured_where}; run `rfx verify` there",
    )


def gates(
    recipe: Recipe,
    shrunk_: Gate,
    same: Gate,
    quantized: QuantizationPart | None,
    accuracy_: AccuracyPart,
    speed: Gate,
    size: SizePart,
    vocabulary: VocabularyPart | None = None,
) -> list[Gate]:
    """All gates of an output, in the order of every report."""
    sized = size_gate(size)
    return [
        shrunk_,
        same,
        *([] if quantized is None else [quantized_gate(quantized)]),
        accuracy_gate(accuracy_, recipe.limits.max_drop),
        agreement_gate(accuracy_),
        *([] if vocabulary is None else [vocabulary_gate(vocabulary)]),
        speed,
        *([] if sized is None else [sized]),
    ]
