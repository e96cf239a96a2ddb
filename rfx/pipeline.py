"""The story, in order: load, measure, score, search, close the loop, rearrange, compensate, shrink, export, verify."""

from __future__ import annotations

import datetime
from pathlib import Path

from rfx.cost.flops import flops
from rfx.cost.table import LatencyTable
from rfx.environment import environment
from rfx.errors import EnvironmentMissingError, UsageError
from rfx.plan import Plan
from rfx.progress import Progress, Silent
from rfx.recipe import Recipe, make_recipe
from rfx.report import write_reports
from rfx.runtimes import EngineOptions, Runtime, runtime_class
from rfx.runtimes import runtime as find_runtime
from rfx.stages import ask, check, close, decide, finish, load, measure
from rfx.stages.run import Run
from rfx.store import Store, atomic_dir, file_hash, require_file_place
from rfx.surgery.shrink import parameter_count
from rfx.verify.evidence import Evidence, SearchPart, TablePart
from rfx.verify.gates import accuracy_gate, latency_gate, predicted_latency_gate


def start(recipe: Recipe, store: Store | None = None, progress: Progress | None = None,
          table: LatencyTable | None = None) -> Run:
    """A run: the runtime is asked for first, so that a missing one costs nothing.

    With a table that was measured on the target elsewhere, a target that cannot run here is no hindrance: a runtime on
    the CPU stands in for it, and nothing is timed.
    """  # fmt: skip
    store = store or Store()
    options = engine_options(recipe, store)
    if table is not None:
        measure.require_fit(recipe, table)
    if table is not None and recipe.target == table.key.runtime and _elsewhere(table, options):
        target: Runtime | None = runtime_class(recipe.target)(options)
        runs_here = _stand_in(recipe.conditions.precision)
    else:
        target, runs_here = None, find_runtime(recipe.target, options)
    if recipe.conditions.precision not in (target or runs_here).precisions:
        raise UsageError(
            f"The runtime {(target or runs_here).name!r} does not run at this precision.", got=recipe.conditions.precision,
            allowed=", ".join((target or runs_here).precisions),
        )  # fmt: skip
    ask.check_names(recipe)
    run = Run(recipe, store, runs_here, progress or Silent(), target=target)
    run.store.warn = run.warn  # a corrupt entry is said, and kept in the evidence
    if target is not None:
        here = target.availability()
        why = f"this machine is {target.device()}" if here.ok else here.reason
        run.warn(
            f"The target {target.name!r} on {table.key.device} is not here ({why}): the search goes by its table, accuracy is "
            f"measured with {runs_here.name}, and latency is not measured. Run `rfx verify` on the device."
        )
    return run


def _elsewhere(table: LatencyTable, options: EngineOptions) -> bool:
    """Whether a table was measured on a device that is not this machine's. (One of another version of the runtime, on this
    device, is merely old: it is refused later.)"""
    cls = runtime_class(table.key.runtime)
    return not cls.availability().ok or cls(options).device() != table.key.device


def engine_options(recipe: Recipe, store: Store | None) -> EngineOptions:
    """Of the recipe; an engine takes inputs as long as the task's, so that accuracy is measured on what is timed."""
    spec = recipe.engine.model_dump(exclude={"compute_capabilities"})
    spec["max_sequence"] = spec["max_sequence"] or max(recipe.conditions.sequence, recipe.max_length)
    return EngineOptions(**spec, store=store)


def _stand_in(precision: str) -> Runtime:
    """A runtime on the CPU that computes what the typed file says: the first that is installed.

    Raises:
        EnvironmentMissingError: none is.
    """
    # ONNX Runtime's CPU provider has no bfloat16 products.
    names = ("openvino",) if precision == "bf16" else ("ort", "openvino")
    here = next((n for n in names if runtime_class(n).availability().ok), None)
    if here is None:
        raise EnvironmentMissingError(
            "Without the target at hand, accuracy is measured on the CPU, and no runtime for that is installed.",
            got=f"none of {', '.join(names)} at {precision}", next_step=f"install one: {runtime_class(names[0]).availability().next_step}",
        )  # fmt: skip
    return find_runtime(here)


def prepare(run: Run) -> tuple[load.Model, load.Workload]:
    """Load and prove the model, load the data; the quickstart's are made on the first run."""
    gone = run.recipe.model is not None and Path(run.recipe.model).is_absolute() and not Path(run.recipe.model).exists()
    if run.recipe.quickstart and (run.recipe.model is None or gone):
        from rfx.tasks.quickstart import prepare as prepare_quickstart

        if run.recipe.model is None:
            load.require_no_data(run.recipe)
        with run.stage("quickstart model"):
            prepared = prepare_quickstart(run.store, run.progress)
        run.recipe = load.quickstart_recipe(run.recipe, prepared)
    ask.require_model(run.recipe)
    run.recipe = load.absolute(run.recipe)
    with run.stage("load"):
        loaded = load.load_model(run, run.recipe.model, run.recipe.task)
        return loaded, load.load_workload(run, loaded)


def prune_export(recipe: Recipe, out: str | Path, *, store: Store | None = None, progress: Progress | None = None,
                 table: LatencyTable | None = None) -> Evidence:
    """From a fine-tuned model and a budget to a smaller model in `out`, with the evidence.

    `out` gets model/ (safetensors, config, tokenizer), model.onnx, plan.json, evidence.json, report.html, junit.xml,
    summary.md and README.md (the model card). It appears whole or not at all; what was there stays until then.

    Raises:
        UserError: every mistake and missing piece, each with its exit code (see rfx.errors).
    """  # fmt: skip
    run = start(recipe, store, progress, table)
    if recipe.engine.compute_capabilities:
        from rfx.runtimes.engine_file import require_capabilities

        require_capabilities(recipe.engine.compute_capabilities)
    ask.require_budget(recipe)
    ask.require_ours(Path(out))
    loaded, workload = prepare(run)
    outputs = workload.task.output_names
    dense = measure.baseline(run, loaded, outputs)
    scores = decide.score(run, loaded, workload)
    table_part, search_part, result, predicted, searcher = search_counts(run, loaded, workload, scores, dense, outputs, table)
    outcome, compensation, tuning = finish.decide_and_compensate(run, loaded, workload, scores, result, searcher)
    plan, update = outcome.plan, outcome.update

    with atomic_dir(Path(out)) as folder:
        done = finish.build(run, loaded, workload, plan, update, folder, table_part)
        engine = finish.engine(run, done, folder)
        same, differences = check.parity(run, loaded, workload, plan, update, done.model, engine)
        same = check.diagnose(run, workload, done.onnx, same, folder)
        accuracy = check.accuracy(run, loaded, workload, dense, engine)
        latency = None if run.offline else check.latency(run, loaded, dense, engine, predicted)
        evidence = Evidence(
            tool=tool(), created=now(), recipe=run.recipe.model_dump(mode="json"), model=loaded.describe(),
            environment=environment(), data=workload.data, plan=plan.to_json(),
            dense_layers=Plan.dense(loaded.sites).layers, kept_layers=plan.layers, search=search_part,
            table=table_part, tuning=tuning, compensation=compensation,
            gates=[check.shrunk(loaded, done.onnx, plan), same,
                   accuracy_gate(accuracy, recipe.max_drop), _latency_gate(run, latency, predicted, table)],
            latency=latency, accuracy=accuracy, parity=differences,
            flops_ratio=_flops(loaded, workload, plan) / _flops(loaded, workload, Plan.dense(loaded.sites)),
            params_ratio=parameter_count(done.model) / parameter_count(loaded.model),
            stages=run.stages, files=_hashes(folder), warnings=run.warnings,
        )  # fmt: skip
        write_reports(evidence, folder)
    return evidence


def plan_only(recipe: Recipe, *, store: Store | None = None, progress: Progress | None = None,
              table: LatencyTable | None = None) -> tuple[Plan, SearchPart, float | None]:
    """Score and search only: the plan, how it was found, and its predicted latency as a share of the dense one."""  # fmt: skip
    run = start(recipe, store, progress, table)
    ask.require_budget(recipe)
    loaded, workload = prepare(run)
    outputs = workload.task.output_names
    scores = decide.score(run, loaded, workload)
    if recipe.budget.flops is not None:
        searcher = decide.FlopsSearcher(recipe, loaded.hidden, sequence_of(workload))
        result = searcher(loaded.sites, scores, recipe.budget.flops * searcher.dense(loaded.sites))
        return decide.refined_plan(run, loaded, scores, result), _search_part(result, "flops"), None
    dense = measure.baseline(run, loaded, outputs)
    measured, _ = measure.latency_table(run, loaded, dense, outputs, table)
    searcher = decide.LatencySearcher(recipe, measured)
    result = searcher(loaded.sites, scores, recipe.budget.latency * searcher.dense(loaded.sites))
    ratio = close.predicted_ratio(loaded, measured, result)
    return decide.refined_plan(run, loaded, scores, result), _search_part(result, "ms"), ratio


def profile(recipe: Recipe, *, store: Store | None = None, progress: Progress | None = None) -> LatencyTable:
    """Only the latency table of the recipe's model on its target."""
    run = start(recipe, store, progress)
    if recipe.quickstart and recipe.model is None:
        loaded, _ = prepare(run)
    else:
        ask.require_model(recipe)
        loaded = load.load_model(run, recipe.model, recipe.task)
    from rfx.tasks import task as task_class

    outputs = task_class(run.recipe.task).output_names
    dense = measure.baseline(run, loaded, outputs)
    return measure.latency_table(run, loaded, dense, outputs)[0]


def shapes(recipe: Recipe, out: str | Path, *, store: Store | None = None, progress: Progress | None = None) -> int:
    """Pack the shapes of the recipe's model for a board, which need not be here. Returns the number of graphs."""
    from rfx.stages.pack import pack
    from rfx.tasks import task as task_class

    require_file_place(out)
    if recipe.target == "auto":
        run = start(recipe, store, progress)
    else:
        store = store or Store()
        target = runtime_class(recipe.target)(engine_options(recipe, store))
        if recipe.conditions.precision not in target.precisions:
            raise UsageError(
                f"The runtime {target.name!r} does not run at this precision.", got=recipe.conditions.precision,
                allowed=", ".join(target.precisions),
            )  # fmt: skip
        run = Run(recipe, store, target, progress or Silent())
        store.warn = run.warn
    if recipe.quickstart and recipe.model is None:
        loaded, _ = prepare(run)
    else:
        ask.require_model(recipe)
        loaded = load.load_model(run, recipe.model, recipe.task)
    return pack(run, loaded, task_class(run.recipe.task).output_names, Path(out))


def verify(out: str | Path, *, onnx: str | Path | None = None, reports: str | Path | None = None, store: Store | None = None,
           progress: Progress | None = None) -> Evidence:  # fmt: skip
    """Measure an existing output again, here: shapes, parity, accuracy and latency against the dense model it was made
    from. Nothing in `out` is changed.

    Args:
        onnx: another ONNX file of the same model (a quantized one) whose accuracy and latency are judged in its place;
            how fast it is beside model.onnx is said in the warnings. Shapes and parity stay those of model.onnx.
        reports: a folder of their own for the new evidence and its reports.

    Raises:
        UsageError: `out` is not an output of prune-export, or its dense model or data is gone.
    """
    from rfx.surgery.checkpoint import load as load_small
    from rfx.surgery.checkpoint import read_update
    from rfx.verify.gates import read_evidence

    folder = Path(out)
    before = read_evidence(folder)
    if reports is not None:
        ask.require_report_folder(Path(reports))
    recipe = make_recipe(before.recipe, f"the recipe in {folder / 'evidence.json'}")
    run = start(recipe, store, progress)
    loaded, workload = prepare(run)
    if loaded.hash != before.model.get("hash"):
        run.warn("The dense model has changed since this output was made; it is compared against the model of today.")
    plan = _plan_of(before, loaded)
    file = folder / "model.onnx"
    if onnx is not None and not Path(onnx).is_file():
        raise UsageError("The ONNX file does not exist.", got=str(onnx), allowed="an ONNX file")
    if not file.is_file():
        raise UsageError("The exported model is gone.", got=str(file), next_step="run rfx prune-export again")
    changed = [n for n, h in before.files.items() if not (folder / n).is_file() or file_hash(folder / n) != h]
    if changed:
        run.warn(f"Files changed since the evidence was written: {', '.join(sorted(changed)[:5])}.")
    dense = measure.baseline(run, loaded, workload.task.output_names)
    engine = _verified_engine(run, folder, file)
    small = load_small(folder)
    update = read_update(folder / "update.safetensors")
    same, differences = check.parity(run, loaded, workload, plan, update, small, engine)
    same = check.diagnose(run, workload, file, same, None)
    if onnx is not None:
        engine = check.other_file(run, loaded, engine, Path(onnx))
    accuracy = check.accuracy(run, loaded, workload, dense, engine, fresh=True)
    latency = check.latency(run, loaded, dense, engine, before.latency.predicted_ratio if before.latency else None)
    evidence = before.model_copy(update=dict(
        tool=tool(), created=now(), environment=environment(), data=workload.data, parity=differences,
        gates=[check.shrunk(loaded, file, plan), same, accuracy_gate(accuracy, recipe.max_drop),
               _latency_gate(run, latency, None, None)],
        latency=latency, accuracy=accuracy, stages=run.stages, warnings=run.warnings,
    ))  # fmt: skip
    if reports is not None:
        write_reports(evidence, reports)
    return evidence


def _latency_gate(run: Run, latency, predicted: float | None, table: LatencyTable | None):
    limits = {"target": run.recipe.budget.latency, "min_speedup": run.recipe.min_speedup}
    if latency is not None:
        return latency_gate(latency, **limits)
    where = f"the table is of {table.key.version} on {table.key.device}" if table else "no table was given"
    return predicted_latency_gate(predicted, why=f"{run.served_by.name} cannot run here; {where}; run `rfx verify` there", **limits)


def _verified_engine(run: Run, folder: Path, onnx: Path):
    """The engine file of the output where there is one for this device (it is what will be served), else one built now."""
    kept = folder / run.runtime.engine_file if run.runtime.engine_file else None
    if kept is not None and kept.is_file():
        try:
            engine = run.runtime.load(kept, run.conditions)
            if engine.facts.get("onnx_sha256") in (None, file_hash(onnx)):
                return engine
            engine.close()
            run.warn(f"{kept.name} was built from another file than model.onnx: an engine is built from that instead.")
        except EnvironmentMissingError as error:
            run.warn(f"{kept.name} is not of this device and version ({error.got}): an engine is built from model.onnx instead.")
    return run.build(onnx)


def _plan_of(evidence: Evidence, loaded: load.Model) -> Plan:
    """The plan in evidence, which must be of the model's own sites."""
    try:
        plan = Plan.from_json(evidence.plan)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError("The plan in the evidence is not valid.", got=f"{type(error).__name__}: {error}") from None
    if [(s.name, s.units) for s in plan.sites] != [(s.name, s.units) for s in loaded.sites]:
        raise UsageError(
            "The plan in the evidence is of another model.", got=f"{len(plan.sites)} sites",
            allowed=f"the {len(loaded.sites)} sites of {loaded.source}", next_step="run rfx prune-export again",
        )  # fmt: skip
    return plan


def search_counts(run: Run, loaded, workload, scores, dense, outputs, table):
    """The counts of the recipe's budget: (table part, search part, result, predicted ratio, searcher)."""
    recipe = run.recipe
    if recipe.budget.flops is not None:
        searcher = decide.FlopsSearcher(recipe, loaded.hidden, sequence_of(workload))
        with run.stage("search"):
            result = searcher(loaded.sites, scores, recipe.budget.flops * searcher.dense(loaded.sites))
        return None, _search_part(result, "flops"), result, None, searcher
    measured, cached = measure.latency_table(run, loaded, dense, outputs, table)
    with run.stage("search and closed loop"):
        closed = close.close_loop(run, loaded, scores, measured, dense, outputs)
    part = TablePart(
        key=measured.to_json()["key"], key_hash=measured.key.hash, hash=measured.hash, costs_ms={k: dict(v) for k, v in measured.costs_ms.items()},
        fixed_ms=measured.fixed_ms, additivity=[dict(r) for r in measured.additivity],
        additivity_error=measured.additivity_error, from_cache=cached,
    )  # fmt: skip
    search_part = _search_part(closed.result, "ms").model_copy(update={"rounds": closed.rounds})
    searcher = decide.LatencySearcher(recipe, measured)
    return part, search_part, closed.result, closed.predicted_ratio, searcher


def _search_part(result, unit: str) -> SearchPart:
    return SearchPart(
        method=result.method, budget=result.budget, budget_unit=unit, value_kept=result.value_share,
        optimality_gap=result.optimality_gap, price=result.price,
    )  # fmt: skip


def sequence_of(workload) -> float:
    """Mean tokens of a calibration example: the sequence length of the FLOPs budget (Kwon et al. use the task's)."""
    return sum(f.tokens for f in workload.calibration_features) / len(workload.calibration_features)


def _flops(loaded, workload, plan: Plan) -> float:
    return flops(loaded.sites, plan.counts, sequence_of(workload), loaded.hidden)


def _hashes(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): file_hash(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def tool() -> str:
    from rfx import __version__

    return f"rfx {__version__}"


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
