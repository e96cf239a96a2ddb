"""Measure an existing output again, here: shapes, parity, accuracy and latency."""

from __future__ import annotations

from pathlib import Path

from rfx.core.artefact import INDEX, MODEL, Artefact
from rfx.core.environment import environment, now, tool
from rfx.core.errors import EnvironmentMissingError, UsageError
from rfx.core.files import file_hash
from rfx.core.plan import Plan
from rfx.core.progress import Progress
from rfx.core.store import Store
from rfx.evidence.gates import accuracy_gate
from rfx.evidence.read import read_evidence
from rfx.evidence.records import Evidence
from rfx.evidence.report.write import write_reports
from rfx.models.checkpoint import load, read_update
from rfx.models.subject import Subject
from rfx.pipeline import judge, places
from rfx.pipeline.dense import dense_baseline, workload_of
from rfx.pipeline.examples import data_part
from rfx.pipeline.resolve import open_session, resolve
from rfx.pipeline.session import Session
from rfx.recipe.read import make_recipe
from rfx.recipe.spec import Recipe
from rfx.runtimes.base import Engine

STAGES = 5


def verify(
    out: str | Path,
    *,
    onnx: str | Path | None = None,
    reports: str | Path | None = None,
    store: Store | None = None,
    progress: Progress | None = None,
) -> Evidence:
    """Measure an existing output again, here, against the dense model that it was made from.
    Nothing in `out` is changed.

    Args:
        out: an output folder of `prune_export`.
        onnx: another ONNX file of the same model (a quantized one) whose accuracy and latency are
            judged in its place; how fast it is beside model.onnx is said in the warnings. Its
            shapes are proved too, where it names its weights as rfx does; parity stays that of
            model.onnx.
        reports: a folder of their own for the new evidence and its reports.

    Raises:
        UsageError: `out` is not an output of prune-export, or its dense model or data is gone.

    Examples:
        >>> rfx.verify("build").outcome
        'pass'
    """
    folder = Path(out)
    before = read_evidence(folder)
    if reports is not None:
        places.report_folder(Path(reports))
    recipe = make_recipe(before.recipe, f"the recipe in {folder / 'evidence.json'}")
    session = open_session(
        recipe, store=store, progress=progress, stages=STAGES + (onnx is not None)
    )
    resolved = resolve(session, recipe)
    recipe, subject, examples = resolved.recipe, resolved.subject, resolved.examples
    if subject.hash != before.model.get("hash"):
        session.warn(
            "The dense model has changed since this output was made; it is compared against the "
            "model of today."
        )
    plan = _plan_of(before, subject)
    artefact = _files(session, before, folder, subject, examples.task.output_names, onnx)
    dense = dense_baseline(session, recipe, subject, examples.task.output_names)
    engine = _engine(session, recipe, folder, artefact)
    small, update = load(folder), read_update(folder / "update.safetensors")
    trained = before.compensation is not None and before.compensation.trained
    if trained:
        session.warn(
            "The weights of this output were trained: the masked model, which is not kept, is not "
            "compared again."
        )
    same, differences = judge.parity(
        session, recipe, subject, examples, plan, update, small, engine, masked_too=not trained
    )
    same = judge.diagnose(session, recipe, examples, artefact, same, None)
    shrunk = judge.shrunk(subject, artefact.files, plan)
    if onnx is not None:
        engine = judge.other_file(session, recipe, subject, engine, Path(onnx))
        shrunk, same = judge.of_other_file(subject, plan, Path(onnx), shrunk, same)
    accuracy = judge.accuracy(session, recipe, subject, examples, dense, engine, fresh=True)
    predicted = before.latency.predicted_ratio if before.latency else None
    latency = judge.latency(session, recipe, subject, dense, engine, predicted)
    evidence = before.model_copy(
        update={
            "tool": tool(),
            "created": now(),
            "environment": environment(),
            "data": data_part(examples),
            "parity": differences,
            "gates": [
                shrunk,
                same,
                accuracy_gate(accuracy, recipe.limits.max_drop),
                judge.speed_gate(session, recipe, latency),
            ],
            "latency": latency,
            "accuracy": accuracy,
            "stages": session.stages,
            "warnings": session.warnings,
        }
    )
    if reports is not None:
        write_reports(evidence, reports, session.progress.warn)
    return evidence


def _files(
    session: Session,
    before: Evidence,
    folder: Path,
    subject: Subject,
    outputs: tuple[str, ...],
    onnx: str | Path | None,
) -> Artefact:
    """The graphs of the output; what is missing is refused, what has changed is said."""
    if onnx is not None and not Path(onnx).is_file():
        raise UsageError(
            "The ONNX file does not exist.",
            got=str(onnx),
            allowed="an ONNX file",
            next_step="correct --onnx",
        )
    if (folder / INDEX).is_file():
        artefact = Artefact.load(folder)
    else:
        artefact = Artefact.of_model(folder / "model.onnx", subject.inputs, outputs)
    if gone := [str(file) for file in artefact.files if not file.is_file()]:
        raise UsageError(
            "The exported model is gone.",
            got=", ".join(gone),
            next_step="run rfx prune-export again",
        )
    changed = [
        n
        for n, h in before.files.items()
        if not (folder / n).is_file() or file_hash(folder / n) != h
    ]
    if changed:
        session.warn(
            f"Files have changed since the evidence was written: {', '.join(sorted(changed)[:5])}."
        )
    return artefact


def _engine(session: Session, recipe: Recipe, folder: Path, artefact: Artefact) -> Engine:
    """The engine file of the output where there is one for this device (it is what will be served),
    else an engine built now."""
    here, workload = session.target.here, workload_of(recipe)
    kept = here.kept_engine(folder)
    if kept is None or artefact.roles != (MODEL,):
        return session.build(artefact, workload)
    try:
        engine = here.load(kept, workload)
    except EnvironmentMissingError as error:
        session.warn(
            f"{kept.name} is not of this device and version ({error.got}): an engine is built from "
            "model.onnx instead."
        )
        return session.build(artefact, workload)
    if engine.facts.get("onnx_sha256") in (None, file_hash(artefact.file)):
        return engine
    engine.close()
    session.warn(
        f"{kept.name} was built from another file than model.onnx: an engine is built from that "
        "instead."
    )
    return session.build(artefact, workload)


def _plan_of(evidence: Evidence, subject: Subject) -> Plan:
    """The plan in evidence, which must be of the model's own sites."""
    try:
        plan = Plan.from_json(evidence.plan)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            "The plan in the evidence is not valid.",
            got=f"{type(error).__name__}: {error}",
            next_step="run rfx prune-export again",
        ) from None
    if [(s.name, s.units) for s in plan.sites] != [(s.name, s.units) for s in subject.sites]:
        raise UsageError(
            "The plan in the evidence is of another model.",
            got=f"{len(plan.sites)} sites",
            allowed=f"the {len(subject.sites)} sites of {subject.source}",
            next_step="run rfx prune-export again",
        )
    return plan
