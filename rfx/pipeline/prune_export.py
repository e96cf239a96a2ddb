"""The story, in order: resolve, measure the dense model, score, search and close the loop, refine
and compensate, shrink and export, verify, judge."""

from __future__ import annotations

from pathlib import Path

from rfx.core.environment import environment, now, tool
from rfx.core.files import atomic_dir, file_hash
from rfx.core.plan import Plan
from rfx.core.progress import Progress
from rfx.core.store import Store
from rfx.cost.table import LatencyTable
from rfx.evidence.gates import accuracy_gate
from rfx.evidence.records import Evidence
from rfx.evidence.report.write import write_reports
from rfx.models.shrink import parameter_count
from rfx.pipeline import judge, places, require
from rfx.pipeline.compensate import compensate
from rfx.pipeline.dense import dense_baseline
from rfx.pipeline.examples import data_part
from rfx.pipeline.loop import search_counts
from rfx.pipeline.make import make
from rfx.pipeline.resolve import open_session, resolve
from rfx.pipeline.score import flops_cost, score
from rfx.pipeline.table import Tables
from rfx.recipe.spec import Recipe
from rfx.runtimes.find import builder_elsewhere


def prune_export(
    recipe: Recipe,
    out: str | Path,
    *,
    store: Store | None = None,
    progress: Progress | None = None,
    table: LatencyTable | None = None,
) -> Evidence:
    """From a fine-tuned model and a budget to a smaller model in `out`, with the evidence.

    `out` gets model/ (safetensors, config, tokenizer), model.onnx, plan.json, evidence.json,
    report.html, junit.xml, summary.md, README.md (the model card) and triton/. It appears whole or
    not at all; what was there stays until then.

    Args:
        recipe: what is asked for, see `Recipe`.
        out: a new or empty folder, or an earlier output of rfx, which is replaced.
        store: where results are kept for the next run; default: `~/.cache/rfx`.
        progress: told how far the job is; default: nobody.
        table: a latency table that was measured before, on this device or on the target.

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
    if recipe.engine.compute_capabilities:
        builder_elsewhere().require_elsewhere(recipe.engine.compute_capabilities)
    session = open_session(
        recipe, store=store, progress=progress, table=table, stages=_stages(recipe, table)
    )
    require.budget(recipe)
    places.output_folder(Path(out))
    resolved = resolve(session, recipe)
    recipe, subject, examples = resolved.recipe, resolved.subject, resolved.examples
    outputs = examples.task.output_names

    dense = dense_baseline(session, recipe, subject, outputs)
    scores = score(session, recipe, subject, examples)
    found = search_counts(session, recipe, subject, examples, scores, dense, Tables(table))
    outcome, compensation, tuning = compensate(
        session, recipe, subject, examples, scores, found.result, found.searcher
    )
    plan, update = outcome.plan, outcome.update
    given, subject = subject, subject.trained(outcome.model)
    predicted = found.predicted_ratio(plan)

    with atomic_dir(Path(out)) as folder:
        pruned = make(session, recipe, subject, outputs, plan, update, folder, found.table)
        engine, artefact = pruned.engine, pruned.artefact
        same, differences = judge.parity(
            session, recipe, subject, examples, plan, update, pruned.model, engine
        )
        same = judge.diagnose(session, recipe, examples, artefact, same, folder)
        accuracy = judge.accuracy(session, recipe, subject, examples, dense, engine)
        latency = None
        if not session.target.absent:
            latency = judge.latency(session, recipe, subject, dense, engine, predicted)
        evidence = Evidence(
            tool=tool(),
            created=now(),
            recipe=recipe.model_dump(mode="json"),
            model=given.describe(),
            environment=environment(),
            data=data_part(examples),
            plan=plan.to_json(),
            dense_layers=Plan.dense(subject.sites).layers,
            kept_layers=plan.layers,
            search=found.search,
            table=found.table,
            tuning=tuning,
            compensation=compensation,
            gates=[
                judge.shrunk(subject, artefact.files, plan),
                same,
                accuracy_gate(accuracy, recipe.limits.max_drop),
                judge.speed_gate(session, recipe, latency, predicted, _of(table)),
            ],
            latency=latency,
            accuracy=accuracy,
            parity=differences,
            flops_ratio=flops_cost(subject, examples).share_of(plan),
            params_ratio=parameter_count(pruned.model) / parameter_count(subject.model),
            stages=session.stages,
            files=_hashes(folder),
            warnings=session.warnings,
        )
        write_reports(evidence, folder, session.progress.warn)
    return evidence


def _stages(recipe: Recipe, table: LatencyTable | None) -> int:
    """How many stages the job has; one less where it turns out that the target is absent."""
    measured = recipe.budget.latency is not None and table is None
    # load, baseline, score, search, compensate; export, engine, parity, accuracy, latency
    return 10 + measured + recipe.method.polish + recipe.method.guard


def _of(table: LatencyTable | None) -> str:
    """In words, which table spoke for the latency."""
    if table is None:
        return "no table was given"
    return f"the table is of {table.key.version} on {table.key.device}"


def _hashes(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): file_hash(p) for p in files}
