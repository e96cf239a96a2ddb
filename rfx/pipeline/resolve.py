"""Resolve: from what was asked to what is done. It happens once, here, and the result is frozen.

The target is found first, so that a missing runtime costs nothing. Then the quickstart's model is
made where it is asked for, local paths become absolute, the task is read off the checkpoint, the
model is loaded and proved, and lengths and label names that nobody gave are taken from it. The
recipe's `origin` says where each value came from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfx.core.errors import UsageError
from rfx.core.home import at_home
from rfx.core.progress import Progress, Silent
from rfx.core.store import Store
from rfx.core.workload import SEQUENCE
from rfx.cost.table import LatencyTable
from rfx.models.load import architecture_of, gives_vectors, load_subject, own_length
from rfx.models.place import Place, look_at
from rfx.models.subject import Subject
from rfx.pipeline import require
from rfx.pipeline.dense import modules_of
from rfx.pipeline.examples import load_examples, read_rows
from rfx.pipeline.quantizing import table_method
from rfx.pipeline.session import Session, Target
from rfx.recipe.read import bundled_recipes
from rfx.recipe.spec import DEFAULT, GIVEN, Recipe
from rfx.runtimes.base import EngineOptions, Runtime
from rfx.runtimes.find import AUTO, runtime, runtime_class, stand_in
from rfx.tasks.examples import Examples
from rfx.tasks.find import sentence_task, task_class, task_names, task_of

QUICKSTART = "the quickstart"  # the origin of its model and data


@dataclass(frozen=True)
class Resolved:
    """A frozen recipe in which nothing is left open, with the model and the examples it names."""

    recipe: Recipe
    subject: Subject
    examples: Examples


def open_session(
    recipe: Recipe,
    *,
    store: Store | None = None,
    progress: Progress | None = None,
    table: LatencyTable | None = None,
    may_be_absent: bool = False,
    stages: int | None = None,
) -> Session:
    """The session of a job: its runtimes are found, and all that can be refused before any work is.

    Args:
        table: a latency table that the user brought. With one that was measured on the target
            elsewhere, a target that cannot run here is no hindrance.
        may_be_absent: nothing will be built or timed, so the target need not run here.
        stages: how many stages the job has, without that of the quickstart's model.

    Raises:
        UsageError: a name, an option or a combination that rfx does not know; a table of another
            runtime or workload, or of a CPU with other instruction sets.
        EnvironmentMissingError: the target cannot run here.
    """
    require.a_recipe(recipe)
    # A corrupt entry is said, and kept in the evidence.
    store = (store or Store()).telling(lambda text: session.warn(text))
    store.sweep()
    options = engine_options(recipe, store)
    if table is not None:
        require.table_fits(recipe, table)
        its = runtime_class(table.key.runtime)
        if its.availability().ok:
            precision = recipe.workload.precision
            require.table_of_this_cpu(table, its(options).device(), precision)
    target = _target(recipe, options, table, may_be_absent)
    require.chosen_precision(recipe)
    require.precision(recipe, target.serves)
    require.compute(recipe, target.serves, table)
    require.quantizer(recipe, target.serves)
    if table is not None:
        _require_made_alike(table, recipe, target.serves)
    require.quantized_options(recipe)
    require.vocabulary_options(recipe)
    require.names(recipe)
    if stages is not None and _made_first(recipe):
        stages += 1
    session = Session(store, target, progress or Silent(), stages)
    if target.absent and table is not None:
        here = target.serves.availability()
        why = f"this machine is {target.serves.device()}" if here.ok else here.reason
        session.warn(
            f"The target {target.serves.name!r} on {table.key.device} is not here ({why}). The "
            f"search goes by its table, accuracy is measured with {target.here.name}, and latency "
            "is not measured. Run `rfx verify` on the device."
        )
    return session


def _require_made_alike(table: LatencyTable, recipe: Recipe, serves: Runtime) -> None:
    """Raises UsageError for a table of files that something else quantized, or another version of
    it, or in another way: their latencies are not those of the files of this run."""
    made = table_method(serves, table.key.precision)
    if table.key.quantizer != made:
        ours, theirs = (name or "the runtime itself" for name in (made, table.key.quantizer))
        raise UsageError(
            "The latency table is of files that were quantized in another way.",
            got=f"table: {theirs}; here: {ours}",
            allowed="a table of files that the same quantizer made, in the same version",
            next_step=f"measure one with it (rfx profile MODEL --target {table.key.runtime} "
            f"--precision {recipe.workload.precision} --out table.json)",
        )


def _target(
    recipe: Recipe, options: EngineOptions, table: LatencyTable | None, may_be_absent: bool
) -> Target:
    if may_be_absent and recipe.target != AUTO:
        found = runtime_class(recipe.target)(options)
        return Target(found, found)
    if table is not None and recipe.target == table.key.runtime and _elsewhere(table, options):
        serves: Runtime = runtime_class(recipe.target)(options)
        return Target(serves, stand_in(recipe.workload.precision))
    here = runtime(recipe.target, options)
    return Target(here, here)


def _elsewhere(table: LatencyTable, options: EngineOptions) -> bool:
    """Whether a table was measured on a device that is not this machine's. One of another version
    of the runtime, on this device, is merely old: it is refused later."""
    cls = runtime_class(table.key.runtime)
    return not cls.availability().ok or cls(options).device() != table.key.device


def engine_options(recipe: Recipe, store: Store | None) -> EngineOptions:
    """The recipe's engine options. An engine takes inputs as long as the task's, so that accuracy
    is measured on what is timed."""
    spec = recipe.engine.model_dump(exclude={"compute_capabilities"})
    spec["max_sequence"] = spec["max_sequence"] or max(recipe.workload.sequence, recipe.max_length)
    return EngineOptions.of(spec, store)


def resolve(session: Session, recipe: Recipe) -> Resolved:
    """Everything that a job works on: the resolved recipe, the proved model, the examples.

    Raises:
        UsageError: no model, no task, no examples, or something wrong with them.
        UnsupportedModelError: rfx cannot prune this model.
    """
    recipe = _quickstart(session, recipe)
    require.model(recipe)
    recipe = _absolute(recipe)
    with session.stage("load"):
        recipe = _with_task(recipe)
        rows = read_rows(session, recipe)
        recipe, subject = _load(session, recipe)
        examples = load_examples(session, recipe, subject, rows)
        examples.task.note_in(subject.model.config)
        recipe = _batch(session, _labels(recipe, examples), examples)
        limit = subject.inputs.limits.get(SEQUENCE)
        require.engine_sizes(recipe, session.target.serves, limit)  # of the batch, too
        return Resolved(recipe, subject, examples)


def resolve_model(session: Session, recipe: Recipe) -> tuple[Recipe, Subject]:
    """The same for the model alone, where no data is needed."""
    recipe = _quickstart(session, recipe)
    require.model(recipe)
    with session.stage("load"):
        return _load(session, _with_task(_absolute(recipe)))


def _made_first(recipe: Recipe) -> bool:
    """Whether the quickstart's model has to be made or taken from the store. A model that the user
    names is taken in its place; where it is gone, it is never exchanged for the quickstart's."""
    if recipe.origin.get("model", GIVEN) not in (QUICKSTART, DEFAULT) and not _of_the_store(recipe):
        return False
    gone = recipe.model is not None and Path(recipe.model).is_absolute()
    gone = gone and not Path(str(recipe.model)).exists()
    return recipe.quickstart and (recipe.model is None or gone)


def _of_the_store(recipe: Recipe) -> bool:
    """Whether a model's path is one that the quickstart had in some store. Earlier versions did not
    say where a path comes from."""
    return re.search(r"[/\\]quickstart[/\\][0-9a-f]{24}[/\\]", str(recipe.model)) is not None


def _quickstart(session: Session, recipe: Recipe) -> Recipe:
    """The recipe with the quickstart's model and data, which are made on the first run."""
    if not _made_first(recipe):
        if recipe.quickstart and recipe.origin.get("model") != QUICKSTART:
            session.note(
                f"the recipe asks for the quickstart and names the model {recipe.model}: this "
                "model is taken, with its own data"
            )
        return recipe
    from rfx.tasks.quickstart import POSITIONS, prepare

    if recipe.model is None:
        require.no_data(recipe)
    require.lengths(recipe, POSITIONS)  # before the minutes that the model takes
    with session.stage("quickstart model"):
        prepared = prepare(session.store, session.progress)
    return recipe.changed(
        {
            "model": str(prepared["model_dir"]),
            "data.train": str(prepared["train_path"]),
            "data.eval": str(prepared["eval_path"]),
        },
        origin=QUICKSTART,
    )


def _absolute(recipe: Recipe) -> Recipe:
    """Local paths made absolute, so that evidence is good from any folder."""
    places = {"model": recipe.model, "data.train": recipe.data.train, "data.eval": recipe.data.eval}
    whole = {
        key: str(at_home(value).absolute())
        for key, value in places.items()
        if value and at_home(value).exists()
    }
    moved = {key: value for key, value in whole.items() if value != places[key]}
    return recipe.changed(moved, {key: recipe.origin.get(key, "given") for key in moved})


def task_of_model(source: str, pooling: str | None) -> str | None:
    """The task of a model as its files say it; None where there are none to read.

    Args:
        pooling: that was asked for: the model is to give one vector a text.
    """
    if pooling is not None or gives_vectors(source):
        return sentence_task()
    return task_of(architecture_of(source))


def _with_task(recipe: Recipe) -> Recipe:
    """The recipe with its task, which the model's configuration says where nobody else does."""
    source = str(recipe.model)
    if recipe.task is None:
        task = task_of_model(source, recipe.pooling)
        if task is None:
            raise _no_task(source)
        recipe = recipe.changed({"task": task}, origin="the model's architecture")
    require.metric(recipe)
    require.pooling(recipe)
    return recipe


def _load(session: Session, recipe: Recipe) -> tuple[Recipe, Subject]:
    """The model, and the recipe with its target and lengths settled."""
    source, cls = str(recipe.model), task_class(recipe.task)
    subject = load_subject(
        source,
        task=str(recipe.task),
        auto_class=cls.auto_class,
        load_preprocessor=cls.load_preprocessor,
        input_spec=cls.input_spec,
        sentence=cls.sentence,
        pooling=recipe.pooling,
    )
    longest_text = own_length(subject.model.config) if cls.sentence else None
    if longest_text is not None and not recipe.given("max_length"):
        recipe = recipe.changed(
            {"max_length": longest_text}, origin="the model, which cuts its texts there"
        )
    limit = subject.inputs.limits.get(SEQUENCE)
    if limit is not None:
        require.lengths(recipe, limit)
        longest = {"max_length": recipe.max_length, "workload.sequence": recipe.workload.sequence}
        recipe = recipe.changed(
            {key: limit for key, value in longest.items() if value > limit},
            origin=f"the model, which takes {limit} tokens at most",
        )
    if recipe.target == AUTO:
        name = session.target.serves.name
        recipe = recipe.changed({"target": name}, origin="the best runtime of this machine")
    require.engine_sizes(recipe, session.target.serves, limit)
    require.sites(recipe, [s.name for s in subject.sites])
    modules_of(subject, recipe.quantization.keep_fp32)  # which names sites that there are not
    # An engine need not take more than the model: the lengths are known only now.
    session.target = session.target.with_options(engine_options(recipe, session.store))
    return recipe, subject


def _no_task(source: str) -> UsageError:
    place = Place.of(source)
    look_at(place)
    there = place.folder is not None
    allowed = f"--task {', '.join(task_names())}"
    if there:
        return UsageError(
            "The task is not known.", got=source, allowed=allowed, next_step="add --task"
        )
    if step := _not_a_name(source):
        return UsageError(
            "There is no such folder here, and it is no name of the hub either.",
            got=source,
            allowed="a folder with config.json and model.safetensors, a hub name, or a recipe: "
            + ", ".join(bundled_recipes()),
            next_step=step,
        )
    return UsageError(
        "The task is not known, and no recipe or folder here has this name.",
        got=source,
        allowed=f"{allowed}; recipes: {', '.join(bundled_recipes())}",
        next_step="check the name; for a model of the hub add --task",
    )


def _not_a_name(source: str) -> str:
    """What to do about a source that is no name on the hub; empty where it may be one."""
    hub = re.fullmatch(r"https?://(?:www\.)?huggingface\.co/([\w.-]+(?:/[\w.-]+)?)/?", source)
    if hub:
        return f"give the model's name and its task: {hub[1]} --task TASK"
    if "://" in source:
        return "download the model first, and give its folder"
    if near := [name for name in bundled_recipes() if name == source.lower()]:
        return f"did you mean {near[0]}?"
    # What the hub takes for a name: up to one slash, and plain characters.
    if re.fullmatch(r"[\w][\w.-]*(?:/[\w][\w.-]*)?", source) and not source.endswith(_ARCHIVES):
        return ""
    return "check the path"


_ARCHIVES = (".zip", ".gz", ".tar", ".tgz", ".yaml", ".yml", ".json")


def _batch(session: Session, recipe: Recipe, examples: Examples) -> Recipe:
    """The recipe with as many inputs at once as the task is served with, where nobody says it."""
    batch = examples.task.at_once(examples.evaluation)
    if batch is None or recipe.given("workload.batch"):
        return recipe
    session.note(f"a query is timed with {batch} passages (--batch)")
    return recipe.changed(
        {"workload.batch": batch}, origin="the passages of a query in the evaluation examples"
    )


def _labels(recipe: Recipe, examples: Examples) -> Recipe:
    """The recipe with the class names that the model gives, where nobody gave others."""
    names: list[Any] = list(examples.task.label_names)
    if recipe.data.labels is not None or len(names) < 2 or len(set(names)) < len(names):
        return recipe
    return recipe.changed({"data.labels": [str(n) for n in names]}, origin="the model")
