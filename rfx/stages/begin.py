"""Begin: a run on its runtime, its model and its data."""

from __future__ import annotations

from pathlib import Path

from rfx.cost.table import LatencyTable
from rfx.errors import EnvironmentMissingError, UsageError
from rfx.progress import Progress, Silent
from rfx.recipe import Recipe
from rfx.runtimes import EngineOptions, Runtime, runtime_class
from rfx.runtimes import runtime as find_runtime
from rfx.stages import ask, load, measure
from rfx.stages.run import Run
from rfx.store import Store


def start(
    recipe: Recipe,
    store: Store | None = None,
    progress: Progress | None = None,
    table: LatencyTable | None = None,
) -> Run:
    """A run: the runtime is asked for first, so that a missing one costs nothing.

    With a table that was measured on the target elsewhere, a target that cannot run here is no
    hindrance: a runtime on the CPU stands in for it, and nothing is timed.
    """
    store = store or Store()
    options = engine_options(recipe, store)
    if table is not None:
        measure.require_fit(recipe, table)
    if table is not None and recipe.target == table.key.runtime and _elsewhere(table, options):
        target: Runtime | None = runtime_class(recipe.target)(options)
        runs_here = _stand_in(recipe.conditions.precision)
    else:
        target, runs_here = None, find_runtime(recipe.target, options)
    _require_precision(recipe, target or runs_here)
    ask.check_names(recipe)
    run = Run(recipe, store, runs_here, progress or Silent(), target=target)
    run.store.warn = run.warn  # a corrupt entry is said, and kept in the evidence
    if target is not None:
        here = target.availability()
        why = f"this machine is {target.device()}" if here.ok else here.reason
        run.warn(
            f"The target {target.name!r} on {table.key.device} is not here ({why}): the search "
            "goes by its table, accuracy is "
            f"measured with {runs_here.name}, and latency is not measured. Run `rfx verify` on "
            "the device."
        )
    return run


def start_absent(
    recipe: Recipe, store: Store | None = None, progress: Progress | None = None
) -> Run:
    """A run for a target that need not be here: nothing is built or timed."""
    if recipe.target == "auto":
        return start(recipe, store, progress)
    store = store or Store()
    target = runtime_class(recipe.target)(engine_options(recipe, store))
    _require_precision(recipe, target)
    run = Run(recipe, store, target, progress or Silent())
    store.warn = run.warn
    return run


def _require_precision(recipe: Recipe, runtime: Runtime) -> None:
    if recipe.conditions.precision not in runtime.precisions:
        raise UsageError(
            f"The runtime {runtime.name!r} does not run at this precision.",
            got=recipe.conditions.precision,
            allowed=", ".join(runtime.precisions),
            next_step="give another --precision, or another --target",
        )


def _elsewhere(table: LatencyTable, options: EngineOptions) -> bool:
    """Whether a table was measured on a device that is not this machine's. (One of another version
    of the runtime, on this
    device, is merely old: it is refused later.)"""
    cls = runtime_class(table.key.runtime)
    return not cls.availability().ok or cls(options).device() != table.key.device


def engine_options(recipe: Recipe, store: Store | None) -> EngineOptions:
    """Of the recipe; an engine takes inputs as long as the task's, so that accuracy is measured on
    what is timed."""
    spec = recipe.engine.model_dump(exclude={"compute_capabilities"})
    spec["max_sequence"] = spec["max_sequence"] or max(
        recipe.conditions.sequence, recipe.max_length
    )
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
            "Without the target at hand, accuracy is measured on the CPU, and no runtime for that "
            "is installed.",
            got=f"none of {', '.join(names)} at {precision}",
            next_step=f"install one: {runtime_class(names[0]).availability().next_step}",
        )
    return find_runtime(here)


def prepare(run: Run) -> tuple[load.Model, load.Workload]:
    """Load and prove the model, load the data; the quickstart's are made on the first run."""
    gone = (
        run.recipe.model is not None
        and Path(run.recipe.model).is_absolute()
        and not Path(run.recipe.model).exists()
    )
    if run.recipe.quickstart and (run.recipe.model is None or gone):
        from rfx.tasks.quickstart import POSITIONS
        from rfx.tasks.quickstart import prepare as prepare_quickstart

        if run.recipe.model is None:
            load.require_no_data(run.recipe)
        load.check_lengths(run.recipe, POSITIONS)  # before the minutes that the model takes
        with run.stage("quickstart model"):
            prepared = prepare_quickstart(run.store, run.progress)
        run.recipe = load.quickstart_recipe(run.recipe, prepared)
    ask.require_model(run.recipe)
    run.recipe = load.absolute(run.recipe)
    with run.stage("load"):
        loaded = load.load_model(run, run.recipe.model, run.recipe.task)
        return loaded, load.load_workload(run, loaded)


def prepare_model(run: Run) -> load.Model:
    """The same for the model alone, where no data is needed."""
    if run.recipe.quickstart and run.recipe.model is None:
        return prepare(run)[0]
    ask.require_model(run.recipe)
    return load.load_model(run, run.recipe.model, run.recipe.task)
