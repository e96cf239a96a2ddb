"""The story, in order: resolve, measure the dense model, score, search and close the loop, refine
and compensate, shrink and export, verify, judge."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from rfx.core import manifest
from rfx.core.environment import environment, now, tool
from rfx.core.errors import UsageError
from rfx.core.folders import atomic_dir
from rfx.core.plan import FULL, Plan
from rfx.core.progress import Progress
from rfx.core.store import Store
from rfx.cost.table import LatencyTable
from rfx.evidence.records import Evidence
from rfx.evidence.signature import private_key
from rfx.models.shrink import parameter_count
from rfx.pipeline import judge, places, require
from rfx.pipeline.attempt import Job, attempt, planned
from rfx.pipeline.baseline import check_calibration, dense_accuracy
from rfx.pipeline.choose import at_precision, best, candidates
from rfx.pipeline.dense import dense_baseline, quantizes
from rfx.pipeline.examples import data_part
from rfx.pipeline.exclude import exclude
from rfx.pipeline.finish import finish
from rfx.pipeline.make import exported, for_sentence_transformers
from rfx.pipeline.quantizing import for_serving
from rfx.pipeline.resolve import open_session, resolve
from rfx.pipeline.rival import judged, make_rival, stages_of_rival
from rfx.pipeline.score import flops_cost, score
from rfx.pipeline.size import require_possible, size_part
from rfx.pipeline.table import Tables
from rfx.pipeline.vocabulary import Finished, vocabulary_part, with_vocabulary
from rfx.recipe.spec import Recipe
from rfx.runtimes.find import builder_elsewhere

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def prune_export(
    recipe: Recipe,
    out: str | Path,
    *,
    store: Store | None = None,
    progress: Progress | None = None,
    table: LatencyTable | None = None,
    sign: str | Path | None = None,
) -> Evidence:
    """From a fine-tuned model and a budget to a smaller model in `out`, with the evidence.

    `out` gets model/ (safetensors, config, tokenizer), model.onnx, plan.json, evidence.json,
    report.html, junit.xml, summary.md, README.md (the model card), triton/ and manifest.json. It
    appears whole or not at all; what was there stays until then.

    Args:
        recipe: what is asked for, see `Recipe`.
        out: a new or empty folder, or an earlier output of rfx, which is replaced.
        store: where results are kept for the next run; default: `~/.cache/rfx`.
        progress: told how far the job is; default: nobody.
        table: a latency table that was measured before, on this device or on the target.
        sign: a private Ed25519 key that evidence.json is signed with.

    Returns:
        Everything that was decided and measured, and the verdict of every gate.

    Raises:
        UserError: every mistake and missing piece, each with its exit code (see
            `rfx.core.errors`).

    Examples:
        >>> recipe = rfx.Recipe(model="model/", data={"train": "train.jsonl", "eval": "dev.jsonl"},
        ...                     budget={"latency": 0.7})
        >>> evidence = rfx.prune_export(recipe, "build")
    """
    require.a_recipe(recipe)
    key = None if sign is None else private_key(sign)
    if recipe.workload.precision == require.AUTO_PRECISION:
        return _choose(recipe, out, store, progress, table, key)
    return _at_one_precision(recipe, out, store, progress, table, key)


def _choose(
    recipe: Recipe,
    out: str | Path,
    store: Store | None,
    progress: Progress | None,
    table: LatencyTable | None,
    key: Ed25519PrivateKey | None,
) -> Evidence:
    """The best of the precisions of the target."""
    at = at_precision(recipe, FULL)
    if table is not None:
        raise UsageError(
            "--precision auto measures every precision that it tries, on this machine, and takes "
            "no latency table.",
            got=f"--precision {require.AUTO_PRECISION} with a table of {table.key.precision} for "
            f"{table.key.runtime}",
            allowed="--precision auto without --table, or one precision with a table of it",
            next_step=f"give --precision {table.key.precision} with this table, or leave out "
            "--table",
        )
    session = open_session(at, store=store, progress=progress)
    require.budget(at)
    if at.budget.latency is None:
        raise UsageError(
            "Precisions are compared at the same latency.",
            got=f"--precision {require.AUTO_PRECISION} with --{at.budget.unit}",
            allowed=f"--precision {require.AUTO_PRECISION} with --latency",
            next_step="give --latency, or the name of a precision",
        )
    tried = candidates(at, session.target.serves)
    warn = session.progress.warn
    place = places.output_folder(out, at, session.store.root, warn)

    def make_one(one: Recipe, folder: Path) -> Evidence:
        session.note(f"precision {one.workload.precision}")
        return _at_one_precision(one, folder, store, progress, None, None, inside=True)

    evidence, made = best(recipe, tried, session.store, make_one, session.note)
    try:
        with atomic_dir(
            place, removable=places.no_strangers(places.output_strangers), warn=warn
        ) as folder:
            shutil.copytree(made, folder, dirs_exist_ok=True)
            graphs = [n for n in evidence.files if n.endswith(".onnx") and "/" not in n]
            finish(evidence, folder, made=evidence.files, graphs=graphs, key=key, warn=warn)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return evidence


def _at_one_precision(
    recipe: Recipe,
    out: str | Path,
    store: Store | None,
    progress: Progress | None,
    table: LatencyTable | None,
    key: Ed25519PrivateKey | None,
    *,
    inside: bool = False,
) -> Evidence:
    """The story at the precision of the recipe.

    Args:
        inside: `out` is a folder of the store's own, which nobody has to be asked about.
    """
    if recipe.engine.compute_capabilities:
        builder_elsewhere().require_elsewhere(recipe.engine.compute_capabilities)
    session = open_session(
        recipe, store=store, progress=progress, table=table, stages=_stages(recipe, table)
    )
    session.expect(stages_of_rival(session, recipe))
    require.budget(recipe)
    place = Path(out)
    if not inside:
        place = places.output_folder(out, recipe, session.store.root, session.progress.warn)
    resolved = with_vocabulary(session, resolve(session, recipe))
    recipe, subject, examples = resolved.recipe, resolved.subject, resolved.examples
    outputs = examples.task.graph_outputs()

    dense = dense_baseline(session, recipe, subject, outputs)
    before = dense_accuracy(session, recipe, subject, examples, dense)
    check_calibration(session, recipe, subject, examples)
    served = (subject.as_served, examples.served)
    quantizing = for_serving(session, recipe, *served, recipe.workload.precision)
    rival = make_rival(session, recipe, subject, examples)
    quantized = rival.baseline if rival is not None and quantizes(recipe) else None
    require_possible(session, recipe, subject, outputs, dense, quantized)
    scores = score(session, recipe, subject, examples)
    job = Job(
        session, subject, examples, scores, dense, before, Tables(table), quantized, quantizing
    )
    first = planned(job, recipe)

    with atomic_dir(
        place,
        removable=places.no_strangers(places.output_strangers),
        warn=session.progress.warn,
    ) as folder:
        done = exclude(job, attempt(job, recipe, first, folder), folder)
        given, subject = subject, done.subject
        found, pruned = done.planned.found, done.pruned
        plan, update = pruned.plan, pruned.update
        session.warn_of(plan)
        engine, artefact = pruned.engine, pruned.artefact
        for_sentence_transformers(artefact, folder)
        made = manifest.hashes(folder)
        predicted = found.predicted_ratio(plan)
        plain = (pruned.proved, pruned.proved_engine)
        same, differences = judge.parity(
            session, recipe, subject, examples, plan, update, pruned.model, plain[1]
        )
        same = judge.diagnose(session, recipe, examples, plain[0], same, folder)
        accuracy = done.accuracy
        part = None if done.quantized is None else done.quantized.part
        finished = Finished(
            subject,
            plan,
            update,
            artefact,
            engine,
            done.after,
            quantizing,
            done.planned.found.table,
        )
        words = vocabulary_part(session, done.recipe, examples, finished)
        latency = beside = None
        if not session.target.absent:
            latency, beside = judge.latency(
                session,
                recipe,
                subject,
                dense,
                engine,
                predicted,
                None if rival is None else rival.baseline,
            )
        sized = size_part(
            recipe,
            artefact.files,
            dense,
            predicted=found.predicted_bytes(plan),
            rounds=found.rounds,
        )
        against = judged(session, recipe, subject, examples, rival, before, beside)
        evidence = Evidence(
            tool=tool(),
            created=now(),
            recipe=recipe.model_dump(mode="json"),
            model=given.describe(),
            environment=environment(),
            exported=exported(artefact, subject),
            data=data_part(examples),
            plan=plan.to_json(),
            dense_layers=Plan.dense(subject.sites).layers,
            kept_layers=plan.layers,
            search=found.search,
            table=found.table,
            tuning=done.planned.tuning,
            compensation=done.planned.compensation,
            gates=judge.gates(
                recipe,
                judge.shrunk(subject, plain[0].files, plan),
                same,
                part,
                accuracy,
                judge.speed_gate(session, recipe, latency, predicted, _of(table)),
                sized,
                words,
            ),
            latency=latency,
            accuracy=accuracy,
            rival=against,
            quantization=part,
            size=sized,
            vocabulary=words,
            parity=differences,
            flops_ratio=flops_cost(subject, examples).share_of(plan),
            params_ratio=parameter_count(pruned.model) / parameter_count(subject.model),
            stages=session.stages,
            files={**made, **manifest.hashes(folder)},
            warnings=session.warnings,
        )
        graphs = [f.name for f in (*artefact.files, *plain[0].files)]
        warn = session.progress.warn
        finish(evidence, folder, made=made, graphs=graphs, key=key, warn=warn)
    return evidence


def _stages(recipe: Recipe, table: LatencyTable | None) -> int:
    """How many stages the job has; one less where it turns out that the target is absent."""
    measured = int(recipe.budget.latency is not None and table is None)
    # load, baseline and its accuracy, score, search, compensate; export, engine, parity, accuracy,
    # latency; the quantized file beside that of fp32, and site by site where that is asked for
    measured += quantizes(recipe) * (1 + recipe.quantization.by_site)
    measured += 2 * recipe.vocabulary.prune
    return 11 + measured + recipe.method.polish + recipe.method.guard


def _of(table: LatencyTable | None) -> str:
    """In words, which table spoke for the latency."""
    if table is None:
        return "no table was given"
    return f"the table is of {table.key.version} on {table.key.device}"
