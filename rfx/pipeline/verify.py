"""Measure an existing output again, here: shapes, parity, accuracy and latency."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rfx.core import manifest
from rfx.core.artefact import INDEX, MODEL, Artefact
from rfx.core.bounded import as_path, read_json
from rfx.core.environment import environment, now, tool
from rfx.core.errors import EnvironmentMissingError, UsageError
from rfx.core.files import file_hash
from rfx.core.folders import atomic_dir
from rfx.core.plan import FULL, Plan
from rfx.core.progress import Progress, Silent
from rfx.core.recognised import OUTPUT, refuse_other
from rfx.core.store import Store
from rfx.evidence.read import read_evidence
from rfx.evidence.records import Evidence
from rfx.evidence.report.write import write_reports
from rfx.evidence.signature import private_key
from rfx.evidence.signature import sign as signed
from rfx.evidence.words import CHANGED
from rfx.export.facts import read_model, weight_files
from rfx.models.checkpoint import load, read_update
from rfx.models.subject import Subject
from rfx.pipeline import judge, places
from rfx.pipeline.baseline import dense_accuracy
from rfx.pipeline.dense import dense_baseline, quantizes, workload_of
from rfx.pipeline.examples import data_part
from rfx.pipeline.exclude import with_kept
from rfx.pipeline.make import PLAIN, exported
from rfx.pipeline.measured import Measured
from rfx.pipeline.quantized import quantization
from rfx.pipeline.quantizing import for_serving
from rfx.pipeline.resolve import open_session, resolve
from rfx.pipeline.rival import judged, make_rival, stages_of_rival
from rfx.pipeline.session import Session
from rfx.pipeline.size import size_part
from rfx.pipeline.vocabulary import Finished, answered, of_output, vocabulary_part
from rfx.recipe.read import make_recipe
from rfx.recipe.spec import Recipe
from rfx.runtimes.base import Engine

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

STAGES = 6  # without those of the rival and of what is quantized


def verify(
    out: str | Path,
    *,
    onnx: str | Path | None = None,
    reports: str | Path | None = None,
    sign: str | Path | None = None,
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
        sign: a private Ed25519 key that the new evidence.json is signed with.

    Returns:
        The new evidence. Its `files` are those that were measured, as they are now, and those that
        have not changed since the earlier evidence.

    Raises:
        UsageError: `out` is not an output of prune-export, a file of it is missing or its plan is
            damaged, its dense model or data is gone, or the dense model is no better than a
            constant answer.

    Examples:
        >>> rfx.verify("build").outcome
        'pass'
    """
    folder = as_path(out, "output", "an output folder of prune-export")
    refuse_other(folder, OUTPUT)
    if onnx is not None:
        onnx = as_path(onnx, "ONNX file")
        read_model(onnx)  # now, and not after the dense model has been measured
    before = read_evidence(folder)
    key = _signing_key(sign, reports)
    told = (progress or Silent()).warn
    place = None if reports is None else places.report_folder(reports, told)
    recipe = make_recipe(before.recipe, f"the recipe in {folder / 'evidence.json'}")
    session = open_session(
        recipe,
        store=store,
        progress=progress,
        stages=STAGES + (quantizes(recipe) or onnx is not None) + recipe.vocabulary.prune,
    )
    session.expect(stages_of_rival(session, recipe))
    resolved = of_output(session, resolve(session, recipe), folder, before)
    recipe, subject, examples = resolved.recipe, resolved.subject, resolved.examples
    if subject.hash != before.model.get("hash"):
        session.warn(
            "The dense model has changed since this output was made; it is compared against the "
            "model of today."
        )
    plan = _plan_of(before, subject)
    artefact = _files(session, before, folder, subject, examples.task.graph_outputs(), onnx)
    measured = Measured(folder, artefact, None if onnx is None else Path(onnx))
    dense = dense_baseline(session, recipe, subject, examples.task.graph_outputs())
    outputs = dense_accuracy(session, recipe, subject, examples, dense, again=True)
    rival = make_rival(session, recipe, subject, examples)
    engine = _engine(session, recipe, folder, artefact, measured)
    proved, plain = artefact, engine
    if quantizes(recipe):
        proved = _plain(folder, subject, examples.task.graph_outputs())
        plain = session.build(proved, workload_of(recipe, FULL))
        measured.also(proved.file)
    small, update = load(folder), read_update(folder / "update.safetensors")
    trained = before.compensation is not None and before.compensation.trained
    if trained:
        session.warn(
            "The weights of this output were trained: the masked model, which is not kept, is not "
            "compared again"
            + (
                ", and what its smaller vocabulary costs is taken from the earlier evidence."
                if before.vocabulary
                else "."
            )
        )
    same, differences = judge.parity(
        session, recipe, subject, examples, plan, update, small, plain, masked_too=not trained
    )
    same = judge.diagnose(session, recipe, examples, proved, same, None)
    shrunk = judge.shrunk(subject, proved.files, plan)
    own = engine
    if onnx is not None:
        engine = judge.other_file(session, recipe, subject, engine, Path(onnx))
        shrunk, same = judge.of_other_file(subject, plan, Path(onnx), shrunk, same)
    accuracy, after = judge.accuracy(
        session, recipe, subject, examples, dense, engine, before=outputs
    )
    part, known = None, before.quantization
    excluded = [] if known is None else known.excluded
    kept = with_kept(recipe, excluded) if excluded else recipe
    if onnx is None:
        quantized = quantization(
            session,
            kept,
            subject,
            examples,
            plan,
            (proved, plain),
            (artefact, engine),
            outputs,
            after,
            "" if known is None else known.method,
            excluded=excluded,
            losses=known is not None and known.by_site is not None,
        )
        part = None if quantized is None else quantized.part
    words = before.vocabulary
    if words is not None and not trained:  # a trained model's other rows are not kept
        answers = after if own is engine else answered(session, kept, examples, own)
        made = for_serving(
            session, kept, subject.as_served, examples.served, kept.workload.precision
        )
        finished = Finished(subject, plan, update, artefact, own, answers, made, before.table)
        words = vocabulary_part(session, kept, examples, finished)
    predicted = before.latency.predicted_ratio if before.latency else None
    latency, beside = judge.latency(
        session,
        recipe,
        subject,
        dense,
        engine,
        predicted,
        None if rival is None else rival.baseline,
    )
    against = judged(session, recipe, subject, examples, rival, outputs, beside, fresh=True)
    sized = size_part(
        recipe,
        artefact.files if onnx is None else (Path(onnx), *weight_files(Path(onnx))),
        dense,
        predicted=before.size.predicted if before.size else None,
        rounds=before.size.rounds if before.size else (),
    )
    measured.require_unchanged()
    files, left_out = measured.listed(before)
    if left_out:
        session.warn(
            "The new evidence does not list files that have changed and that were not measured: "
            f"{manifest.some(left_out, 5)}."
        )
    evidence = before.model_copy(
        update={
            "tool": tool(),
            "created": now(),
            "environment": environment(),
            "exported": exported(artefact, subject),
            "data": data_part(examples),
            "parity": differences,
            "gates": judge.gates(
                recipe,
                shrunk,
                same,
                part,
                accuracy,
                judge.speed_gate(session, recipe, latency),
                sized,
                words,
            ),
            "latency": latency,
            "accuracy": accuracy,
            "rival": against,
            "quantization": part,
            "size": sized,
            "vocabulary": words,
            "stages": session.stages,
            "files": files,
            "warnings": session.warnings,
        }
    )
    if place is not None:
        removable = places.no_strangers(places.report_strangers)
        with atomic_dir(place, removable=removable, warn=told) as new:
            written = write_reports(evidence, new, told)
            if key is not None:
                written.append(signed(new / "evidence.json", key))
            manifest.seal(new, manifest.REPORTS, {}, [file.name for file in written])
    return evidence


def _signing_key(sign: str | Path | None, reports: str | Path | None) -> Ed25519PrivateKey | None:
    if sign is None:
        return None
    if reports is None:
        raise UsageError(
            "There is nothing to sign: no evidence is written.",
            got="sign (--sign) without reports (--out)",
            allowed="both together",
            next_step="add reports (--out), a folder for the evidence",
        )
    return private_key(sign)


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
    # `rfx build` makes the repository of Triton anew, with an engine in place of the ONNX file.
    listed = [folder / name for name in before.files if not name.startswith("triton/")]
    gone = [str(f) for f in dict.fromkeys([*artefact.files, *listed]) if not f.is_file()]
    if gone:
        raise UsageError(
            "Files of the output are gone.",
            got=", ".join(gone[:5]) + (f" and {len(gone) - 5} more" if len(gone) > 5 else ""),
            allowed="the output as rfx prune-export wrote it",
            next_step="copy the whole folder, or run rfx prune-export again",
        )
    _require_plan(before, folder / "plan.json")
    changed = [
        n
        for n, h in before.files.items()
        if not (folder / n).is_file() or file_hash(folder / n) != h
    ]
    if changed:
        session.warn(f"{CHANGED}: {', '.join(sorted(changed)[:5])}.")
    return artefact


def _plain(folder: Path, subject: Subject, outputs: tuple[str, ...]) -> Artefact:
    """The fp32 file that a quantized model.onnx was made of."""
    file = folder / PLAIN
    if not file.is_file():
        raise UsageError(
            "The fp32 file of a quantized output is gone.",
            got=str(file),
            allowed="the output as rfx prune-export wrote it",
            next_step="copy the whole folder, or run rfx prune-export again",
        )
    read_model(file)  # a runtime would say that it is too old for a damaged one
    return Artefact.of_model(file, subject.inputs, outputs)


def _require_plan(before: Evidence, file: Path) -> None:
    """Raises UsageError for a plan.json that cannot be read or is not the evidence's plan."""
    data = read_json(file, what="plan", allowed="plan.json as rfx prune-export wrote it")
    try:
        found = Plan.from_json(data).hash
    except (UsageError, KeyError, TypeError, ValueError, AttributeError, OverflowError):
        found = None
    if found is None or found != before.plan.get("hash"):
        raise UsageError(
            "The plan of the output is damaged.",
            got=f"{file}: " + ("no plan" if found is None else f"plan {found}"),
            allowed=f"the plan of its evidence, {before.plan.get('hash')}",
            next_step="restore plan.json, or run rfx prune-export again",
        )


def _engine(
    session: Session, recipe: Recipe, folder: Path, artefact: Artefact, measured: Measured
) -> Engine:
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
        measured.also(kept, Path(f"{kept}.json"))
        return engine
    engine.close()
    session.warn(
        f"{kept.name} was built from another file than model.onnx: an engine is built from that "
        "instead."
    )
    return session.build(artefact, workload)


def _plan_of(evidence: Evidence, subject: Subject) -> Plan:
    """The plan in evidence. Raises UsageError where it is not valid, or not of the model's own
    sites."""
    plan = Plan.from_json(evidence.plan)
    if [(s.name, s.units) for s in plan.sites] != [(s.name, s.units) for s in subject.sites]:
        raise UsageError(
            "The plan in the evidence is of another model.",
            got=f"{len(plan.sites)} sites",
            allowed=f"the {len(subject.sites)} sites of {subject.source}",
            next_step="run rfx prune-export again",
        )
    return plan
