"""Begin: a run on its runtime, its model and its data."""

from __future__ import annotations

from pathlib import Path

from rfx.core.errors import UsageError
from rfx.core.progress import Progress, Silent
from rfx.core.store import Store
from rfx.cost.table import LatencyTable
from rfx.pipeline import dense as measure
from rfx.pipeline import examples as load
from rfx.pipeline import require as ask
from rfx.pipeline.session import Session
from rfx.recipe.spec import Recipe
from rfx.runtimes.base import EngineOptions, Runtime
from rfx.runtimes.find import runtime as find_runtime
from rfx.runtimes.find import runtime_class, stand_in


def start(
    recipe: Recipe,
    store: Store | None = None,
    progress: Progress | None = None,
    table: LatencyTable | None = None,
) -> Session:
    """A session: the runtime is asked for first, so that a missing one costs nothing.

    With a table that was measured on the target elsewhere, a target that cannot run here is no
    hindrance: a runtime on the CPU stands in for it, and nothing is timed.
    """
    store = store or Store()
    options = engine_options(recipe, store)
    if table is not None:
        measure.require_fit(recipe, table)
    if table is not None and recipe.target == table.key.runtime and _elsewhere(table, options):
        target: Runtime | None = runtime_class(recipe.target)(options)
        runs_here = stand_in(recipe.workload.precision)
    else:
        target, runs_here = None, find_runtime(recipe.target, options)
    _require_precision(recipe, target or runs_here)
    ask.check_names(recipe)
    session = Session(recipe, store, runs_here, progress or Silent(), target=target)
    session.store.warn = session.warn  # a corrupt entry is said, and kept in the evidence
    if target is not None:
        here = target.availability()
        why = f"this machine is {target.device()}" if here.ok else here.reason
        session.warn(
            f"The target {target.name!r} on {table.key.device} is not here ({why}): the search "
            "goes by its table, accuracy is "
            f"measured with {runs_here.name}, and latency is not measured. Run `rfx verify` on "
            "the device."
        )
    return session


def start_absent(
    recipe: Recipe, store: Store | None = None, progress: Progress | None = None
) -> Session:
    """A run for a target that need not be here: nothing is built or timed."""
    if recipe.target == "auto":
        return start(recipe, store, progress)
    store = store or Store()
    target = runtime_class(recipe.target)(engine_options(recipe, store))
    _require_precision(recipe, target)
    session = Session(recipe, store, target, progress or Silent())
    store.warn = session.warn
    return session


def _require_precision(recipe: Recipe, runtime: Runtime) -> None:
    if recipe.workload.precision not in runtime.capabilities.precisions:
        raise UsageError(
            f"The runtime {runtime.name!r} does not run at this precision.",
            got=recipe.workload.precision,
            allowed=", ".join(runtime.capabilities.precisions),
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
    spec["max_sequence"] = spec["max_sequence"] or max(recipe.workload.sequence, recipe.max_length)
    return EngineOptions(**spec, store=store)


def prepare(session: Session) -> tuple[load.Subject, load.Examples]:
    """Load and prove the model, load the data; the quickstart's are made on the first session."""
    gone = (
        session.recipe.model is not None
        and Path(session.recipe.model).is_absolute()
        and not Path(session.recipe.model).exists()
    )
    if session.recipe.quickstart and (session.recipe.model is None or gone):
        from rfx.tasks.quickstart import POSITIONS
        from rfx.tasks.quickstart import prepare as prepare_quickstart

        if session.recipe.model is None:
            load.require_no_data(session.recipe)
        load.check_lengths(session.recipe, POSITIONS)  # before the minutes that the model takes
        with session.stage("quickstart model"):
            prepared = prepare_quickstart(session.store, session.progress)
        session.recipe = load.quickstart_recipe(session.recipe, prepared)
    ask.require_model(session.recipe)
    session.recipe = load.absolute(session.recipe)
    with session.stage("load"):
        subject = load.load_model(session, session.recipe.model, session.recipe.task)
        return subject, load.load_examples_and_features(session, subject)


def prepare_model(session: Session) -> load.Subject:
    """The same for the model alone, where no data is needed."""
    if session.recipe.quickstart and session.recipe.model is None:
        return prepare(session)[0]
    ask.require_model(session.recipe)
    return load.load_model(session, session.recipe.model, session.recipe.task)
