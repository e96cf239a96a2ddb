"""The story, in order: load, measure, score, search, close the loop, rearrange, compensate, shrink,
export, verify."""

from __future__ import annotations

from pathlib import Path

from rfx.core.environment import environment, now, tool
from rfx.core.errors import EnvironmentMissingError, UsageError
from rfx.core.plan import Plan
from rfx.core.progress import Progress
from rfx.core.registry import find
from rfx.core.store import Store, atomic_dir, file_hash, require_file_place
from rfx.cost.latency_cost import LatencyCost
from rfx.cost.table import LatencyTable
from rfx.evidence.gates import accuracy_gate, latency_gate, predicted_latency_gate
from rfx.evidence.records import Evidence, SearchPart
from rfx.evidence.report.write import write_reports
from rfx.models.shrink import parameter_count
from rfx.pipeline import dense as measure
from rfx.pipeline import examples as load
from rfx.pipeline import judge as check
from rfx.pipeline import loop as close
from rfx.pipeline import make as finish
from rfx.pipeline import require as ask
from rfx.pipeline import score as decide
from rfx.pipeline.resolve import prepare, prepare_model, start, start_absent
from rfx.pipeline.session import Session
from rfx.recipe.read import make_recipe
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
    report.html, junit.xml, summary.md and README.md (the model card). It appears whole or not at
    all; what was there stays until then.

    Raises:
        UserError: every mistake and missing piece, each with its exit code (see rfx.core.errors).
    """
    session = start(recipe, store, progress, table)
    if recipe.engine.compute_capabilities:
        builder_elsewhere().require_elsewhere(recipe.engine.compute_capabilities)
    ask.require_budget(recipe)
    ask.require_ours(Path(out))
    subject, examples = prepare(session)
    outputs = examples.task.output_names
    dense = measure.baseline(session, subject, outputs)
    scores = decide.score(session, subject, examples)
    found = close.search_counts(session, subject, examples, scores, dense, table)
    outcome, compensation, tuning = finish.decide_and_compensate(
        session, subject, examples, scores, found.result, found.searcher
    )
    plan, update = outcome.plan, outcome.update
    predicted = found.predicted_ratio(plan)

    with atomic_dir(Path(out)) as folder:
        done = finish.build(session, subject, examples, plan, update, folder, found.table)
        engine = finish.engine(session, done, folder)
        same, differences = check.parity(
            session, subject, examples, plan, update, done.model, engine
        )
        same = check.diagnose(session, examples, done.onnx, same, folder)
        accuracy = check.accuracy(session, subject, examples, dense, engine)
        latency = (
            None if session.offline else check.latency(session, subject, dense, engine, predicted)
        )
        evidence = Evidence(
            tool=tool(),
            created=now(),
            recipe=session.recipe.model_dump(mode="json"),
            model=subject.describe(),
            environment=environment(),
            data=examples.data,
            plan=plan.to_json(),
            dense_layers=Plan.dense(subject.sites).layers,
            kept_layers=plan.layers,
            search=found.search,
            table=found.table,
            tuning=tuning,
            compensation=compensation,
            gates=[
                check.shrunk(subject, done.onnx, plan),
                same,
                accuracy_gate(accuracy, recipe.limits.max_drop),
                _latency_gate(session, latency, predicted, table),
            ],
            latency=latency,
            accuracy=accuracy,
            parity=differences,
            flops_ratio=decide.flops_cost(subject, examples).share(plan.sites, plan.counts),
            params_ratio=parameter_count(done.model) / parameter_count(subject.model),
            stages=session.stages,
            files=_hashes(folder),
            warnings=session.warnings,
        )
        write_reports(evidence, folder)
    return evidence


def plan_only(
    recipe: Recipe,
    *,
    store: Store | None = None,
    progress: Progress | None = None,
    table: LatencyTable | None = None,
) -> tuple[Plan, SearchPart, float | None]:
    """Score and search only: the plan, how it was found, and its predicted latency as a share of
    the dense one."""
    session = start(recipe, store, progress, table)
    ask.require_budget(recipe)
    if find("schedule", recipe.method.schedule).searches_again:
        session.warn(
            f"The {recipe.method.schedule} schedule searches again as it compensates: "
            "prune-export's counts will differ from this plan, "
            "which is its first search."
        )
    subject, examples = prepare(session)
    outputs = examples.task.output_names
    scores = decide.score(session, subject, examples)
    method = decide.method_of(recipe, examples)
    if recipe.budget.flops is not None:
        flops = decide.flops_cost(subject, examples)
        result = method.searcher(flops)(
            subject.sites, scores, recipe.budget.flops * flops.dense(subject.sites)
        )
        return (
            decide.refined_plan(session, subject, method, scores, result),
            decide.search_part(result, flops.unit),
            None,
        )
    dense = measure.baseline(session, subject, outputs)
    cost = LatencyCost(measure.latency_table(session, subject, dense, outputs, table)[0])
    result = method.searcher(cost)(
        subject.sites, scores, recipe.budget.latency * cost.dense(subject.sites)
    )
    return (
        decide.refined_plan(session, subject, method, scores, result),
        decide.search_part(result, cost.unit),
        cost.share(subject.sites, result.counts),
    )


def profile(
    recipe: Recipe, *, store: Store | None = None, progress: Progress | None = None
) -> LatencyTable:
    """Only the latency table of the recipe's model on its target."""
    session = start(recipe, store, progress)
    subject = prepare_model(session)
    from rfx.tasks.find import task_class

    outputs = task_class(session.recipe.task).output_names
    dense = measure.baseline(session, subject, outputs)
    return measure.latency_table(session, subject, dense, outputs)[0]


def shapes(
    recipe: Recipe, out: str | Path, *, store: Store | None = None, progress: Progress | None = None
) -> int:
    """Pack the shapes of the recipe's model for a board, which need not be here. Returns the number
    of graphs."""
    from rfx.pipeline.shapes import pack
    from rfx.tasks.find import task_class

    require_file_place(out)
    session = start_absent(recipe, store, progress)
    subject = prepare_model(session)
    return pack(session, subject, task_class(session.recipe.task).output_names, Path(out))


def verify(
    out: str | Path,
    *,
    onnx: str | Path | None = None,
    reports: str | Path | None = None,
    store: Store | None = None,
    progress: Progress | None = None,
) -> Evidence:
    """Measure an existing output again, here: shapes, parity, accuracy and latency against the
    dense model it was made from. Nothing in `out` is changed.

    Args:
        onnx: another ONNX file of the same model (a quantized one) whose accuracy and latency are
            judged in its place; how fast it is beside model.onnx is said in the warnings. Its
            shapes are proved too, where it names its weights as rfx does; parity stays that of
            model.onnx.
        reports: a folder of their own for the new evidence and its reports.

    Raises:
        UsageError: `out` is not an output of prune-export, or its dense model or data is gone.
    """
    from rfx.evidence.read import read_evidence
    from rfx.models.checkpoint import load as load_small
    from rfx.models.checkpoint import read_update

    folder = Path(out)
    before = read_evidence(folder)
    if reports is not None:
        ask.require_report_folder(Path(reports))
    recipe = make_recipe(before.recipe, f"the recipe in {folder / 'evidence.json'}")
    session = start(recipe, store, progress)
    subject, examples = prepare(session)
    if subject.hash != before.model.get("hash"):
        session.warn(
            "The dense model has changed since this output was made; it is compared against the "
            "model of today."
        )
    plan = _plan_of(before, subject)
    file = folder / "model.onnx"
    if onnx is not None and not Path(onnx).is_file():
        raise UsageError("The ONNX file does not exist.", got=str(onnx), allowed="an ONNX file")
    if not file.is_file():
        raise UsageError(
            "The exported model is gone.", got=str(file), next_step="run rfx prune-export again"
        )
    changed = [
        n
        for n, h in before.files.items()
        if not (folder / n).is_file() or file_hash(folder / n) != h
    ]
    if changed:
        session.warn(
            f"Files changed since the evidence was written: {', '.join(sorted(changed)[:5])}."
        )
    dense = measure.baseline(session, subject, examples.task.output_names)
    engine = _verified_engine(session, folder, file)
    small = load_small(folder)
    update = read_update(folder / "update.safetensors")
    same, differences = check.parity(session, subject, examples, plan, update, small, engine)
    same = check.diagnose(session, examples, file, same, None)
    shrunk = check.shrunk(subject, file, plan)
    if onnx is not None:
        engine = check.other_file(session, subject, engine, Path(onnx))
        shrunk, same = check.of_other_file(subject, plan, Path(onnx), shrunk, same)
    accuracy = check.accuracy(session, subject, examples, dense, engine, fresh=True)
    latency = check.latency(
        session, subject, dense, engine, before.latency.predicted_ratio if before.latency else None
    )
    evidence = before.model_copy(
        update=dict(
            tool=tool(),
            created=now(),
            environment=environment(),
            data=examples.data,
            parity=differences,
            gates=[
                shrunk,
                same,
                accuracy_gate(accuracy, recipe.limits.max_drop),
                _latency_gate(session, latency, None, None),
            ],
            latency=latency,
            accuracy=accuracy,
            stages=session.stages,
            warnings=session.warnings,
        )
    )
    if reports is not None:
        write_reports(evidence, reports)
    return evidence


def _latency_gate(session: Session, latency, predicted: float | None, table: LatencyTable | None):
    limits = {
        "target": session.recipe.budget.latency,
        "min_speedup": session.recipe.limits.min_speedup,
    }
    if latency is not None:
        return latency_gate(latency, **limits)
    where = (
        f"the table is of {table.key.version} on {table.key.device}"
        if table
        else "no table was given"
    )
    return predicted_latency_gate(
        predicted,
        why=f"{session.served_by.name} cannot run here; {where}; run `rfx verify` there",
        **limits,
    )


def _verified_engine(session: Session, folder: Path, onnx: Path):
    """The engine file of the output where there is one for this device (it is what will be served),
    else one built now."""
    kept = session.runtime.kept_engine(folder)
    if kept is not None:
        try:
            engine = session.runtime.load(kept, session.workload)
            if engine.facts.get("onnx_sha256") in (None, file_hash(onnx)):
                return engine
            engine.close()
            session.warn(
                f"{kept.name} was built from another file than model.onnx: an engine is built "
                "from that instead."
            )
        except EnvironmentMissingError as error:
            session.warn(
                f"{kept.name} is not of this device and version ({error.got}): an engine is built "
                "from model.onnx instead."
            )
    return session.build(onnx)


def _plan_of(evidence: Evidence, subject: load.Subject) -> Plan:
    """The plan in evidence, which must be of the model's own sites."""
    try:
        plan = Plan.from_json(evidence.plan)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            "The plan in the evidence is not valid.", got=f"{type(error).__name__}: {error}"
        ) from None
    if [(s.name, s.units) for s in plan.sites] != [(s.name, s.units) for s in subject.sites]:
        raise UsageError(
            "The plan in the evidence is of another model.",
            got=f"{len(plan.sites)} sites",
            allowed=f"the {len(subject.sites)} sites of {subject.source}",
            next_step="run rfx prune-export again",
        )
    return plan


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): file_hash(p) for p in sorted(folder.rglob("*")) if p.is_file()
    }
