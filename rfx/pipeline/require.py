"""What a job must be given: asked before any work."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rfx.core.environment import split_device
from rfx.core.errors import UnsupportedModelError, UsageError
from rfx.core.plan import FULL
from rfx.core.registry import find
from rfx.core.values import short
from rfx.cost.restricted import Restriction, matches
from rfx.cost.table import LatencyTable
from rfx.export.find import quantizer_class
from rfx.export.precision.convert import is_quantized
from rfx.methods import build as method
from rfx.recipe.spec import Recipe
from rfx.runtimes.base import Runtime
from rfx.runtimes.find import able, runtime_class
from rfx.runtimes.gpu import compute_of, require_compute
from rfx.tasks.columns import ROLES
from rfx.tasks.find import task_class

AUTO_PRECISION = "auto"


def a_recipe(recipe: object) -> None:
    """Raises UsageError for anything but a recipe."""
    if not isinstance(recipe, Recipe):
        raise UsageError(
            "A job takes a recipe.",
            got=short(recipe),
            allowed="rfx.Recipe(model=..., data=..., budget=...)",
            next_step="make one: rfx.Recipe(model='model/', budget={'latency': 0.7}, ...)",
        )


def names(recipe: Recipe) -> None:
    """Metric, column roles, the parts of the method and whether they go together: all that is known
    before any work.

    Raises:
        UsageError: a name that is not known, or parts that do not go together.
    """
    if recipe.task is not None:
        metric(recipe)
    method.check(recipe.method)
    find("exporter", recipe.exporter, next_step="correct exporter in the recipe")
    roles = ROLES if recipe.task is None else task_class(recipe.task).roles
    strange = set(recipe.data.columns) - set(roles)
    if strange:
        raise UsageError(
            "There is no such column role.",
            got=", ".join(sorted(strange)),
            allowed=", ".join(roles),
            next_step="--column ROLE=NAME, e.g. --column text=review",
        )


def metric(recipe: Recipe) -> None:
    """Raises UsageError for a metric that the recipe's task does not have."""
    cls = task_class(recipe.task)
    if recipe.metric is not None and recipe.metric not in cls.metrics:
        raise UsageError(
            f"{recipe.task} has no such metric.",
            got=recipe.metric,
            allowed=", ".join(cls.metrics),
            next_step="give another --metric",
        )


def pooling(recipe: Recipe) -> None:
    """Raises UsageError for a pooling where the recipe's task takes none."""
    if recipe.pooling is not None and not task_class(recipe.task).sentence:
        raise UsageError(
            f"{recipe.task} takes no pooling.",
            got=f"--pooling {recipe.pooling}",
            allowed="--pooling with --task embeddings",
            next_step="leave --pooling out, or give --task embeddings",
        )


def precision(recipe: Recipe, runtime: Runtime) -> None:
    """Raises UsageError for a precision that the runtime does not run."""
    find("precision", recipe.workload.precision, next_step="correct --precision")
    allowed = runtime.capabilities.precisions
    if recipe.workload.precision not in allowed:
        others = " or ".join(f"--target {name}" for name in able(recipe.workload.precision))
        raise UsageError(
            f"The runtime {runtime.name!r} does not run at this precision.",
            got=recipe.workload.precision,
            allowed=", ".join(allowed),
            next_step=f"give another --precision, or {others or 'another --target'}",
        )


def compute(recipe: Recipe, runtime: Runtime, table: LatencyTable | None) -> None:
    """Raises UsageError for a precision that the GPU does not have: that of this machine, that of
    a table, or one of those that engines are compiled for ahead of time."""
    if not runtime.capabilities.least_compute:
        return
    device = runtime.device() if table is None else table.key.device
    ahead = {f"--compute-capability {c}": c for c in recipe.engine.compute_capabilities}
    require_compute(runtime.capabilities, recipe.workload.precision, compute_of(device) | ahead)


def quantizer(recipe: Recipe, runtime: Runtime) -> None:
    """Raises EnvironmentMissingError where the recipe asks for a quantized model, and what
    quantizes for the runtime is not installed."""
    name = runtime.capabilities.quantizer
    if name is not None and is_quantized(recipe.workload.precision):
        quantizer_class(name).require()


def chosen_precision(recipe: Recipe) -> None:
    """Raises UsageError where a job that does not choose is given `auto`."""
    if recipe.workload.precision == AUTO_PRECISION:
        raise UsageError(
            "Only rfx prune-export chooses the precision.",
            got=f"--precision {AUTO_PRECISION}",
            allowed="the name of a precision",
            next_step="give one, such as --precision int8",
        )


def quantized_options(recipe: Recipe) -> None:
    """Raises UsageError where options of quantized models meet a precision that quantizes
    nothing."""
    own, at = recipe.quantization, recipe.workload.precision
    if is_quantized(at):
        return
    loss = recipe.limits.max_quantization_loss
    for what, option in (
        (
            "Only a quantized model can keep some of its sites in fp32.",
            f"--keep-fp32 {own.keep_fp32[0]}" if own.keep_fp32 else "",
        ),
        (
            "Only what is quantized can lose something by it.",
            "" if loss is None else f"--max-quantization-loss {loss:g}",
        ),
        (
            "Only a quantized model has sites that quantizing costs something.",
            "--quantization-by-site" if own.by_site else "",
        ),
        (
            "Only the weights of a quantized model can keep to 7 bits for other CPUs.",
            "--cpu-portable" if own.cpu_portable else "",
        ),
    ):
        if option:
            name = option.split()[0]
            raise UsageError(
                what,
                got=f"{option} with --precision {at}",
                allowed=f"{name} with --precision int8",
                next_step=f"add --precision int8, or leave {name} out",
            )


def vocabulary_options(recipe: Recipe) -> None:
    """Raises UsageError where a limit of what a smaller vocabulary costs meets a full one."""
    least = recipe.limits.min_vocabulary_agreement
    if least is not None and not recipe.vocabulary.prune:
        raise UsageError(
            "Only a smaller vocabulary can change answers.",
            got=f"--min-vocabulary-agreement {least:g} without --prune-vocabulary",
            allowed="--min-vocabulary-agreement with --prune-vocabulary",
            next_step="add --prune-vocabulary, or leave --min-vocabulary-agreement out",
        )


def sites(recipe: Recipe, names: Sequence[str]) -> None:
    """Raises UsageError where the recipe names sublayers that the model does not have, or leaves
    none to prune.

    Args:
        names: of the model's sites.
    """
    frozen = recipe.sites.freeze
    of_none = [f"--freeze {p}" for p in frozen if not any(matches(n, p) for n in names)]
    if of_none:
        raise UsageError(
            "The model has no such sublayer.",
            got=short(", ".join(of_none), 200, bare=True),
            allowed=short(", ".join(names), 300, bare=True),
            next_step="look at their names with rfx sites MODEL",
        )
    if all(map(Restriction(tuple(frozen)).freezes, names)):
        raise UsageError(
            "Nothing is left to prune: every sublayer is frozen.",
            got=short(", ".join(f"--freeze {p}" for p in frozen), 200, bare=True),
            allowed="at least one sublayer that may lose heads or filters",
            next_step="freeze fewer of them",
        )


def something_quantized(sites: Collection[str], kept: Collection[str], what: str) -> None:
    """Raises UnsupportedModelError where all of these sites, of which there may be none, are kept
    in fp32: the file would be called quantized and would not be.

    Args:
        sites: by name, those that have units.
        what: of which model, in words.
    """
    if set(sites) <= set(kept):
        raise UnsupportedModelError(
            "No site is left to quantize.",
            got=f"{len(sites)} {what}"
            + (f", all of them kept with --keep-fp32: {', '.join(sites)}" if sites else ""),
            allowed="at least one site with its products quantized",
            next_step="leave out one --keep-fp32 or more, or use --precision fp32"
            if sites
            else "raise --latency, --flops or --size, so that something stays of the model",
        )


def searched_in_full(table: LatencyTable, precision: str) -> bool:
    """Whether the search of models at a quantized precision may go by a table of fp32 ones: where
    latency is near linear in the counts, as on a CPU."""
    smooth = runtime_class(table.key.runtime).capabilities.smooth
    return smooth and table.key.precision == FULL and is_quantized(precision)


def table_fits(recipe: Recipe, table: LatencyTable) -> None:
    """What can be said of a table before any work: its runtime and its workload.

    Raises:
        UsageError: they are not the recipe's.
    """
    key, wanted = table.key, recipe.workload
    rows = []
    if recipe.target not in ("auto", key.runtime):
        rows.append(f"runtime: table {key.runtime!r}, asked for {recipe.target!r}")
    uses_threads = runtime_class(key.runtime).capabilities.uses_threads
    for name in ("batch", "sequence", "precision", "threads"):
        there, asked = getattr(key, name), getattr(wanted, name)
        if there == asked or (name == "threads" and not uses_threads):
            continue
        if name == "precision" and searched_in_full(table, asked):
            continue
        # A sequence that was not asked for gives way to what the model takes, which is not known
        # yet.
        if name == "sequence" and not recipe.given("workload.sequence"):
            continue
        rows.append(f"{name}: table {there!r}, asked for {asked!r}")
    if rows:
        raise UsageError(
            "The latency table belongs to another runtime or workload.",
            got="; ".join(rows),
            allowed="a table whose key fits this run",
            next_step="give the table's own --target, --batch, --sequence and --precision, or "
            "measure another",
        )


def table_of_this_cpu(table: LatencyTable, here: str, precision: str) -> None:
    """A table of another device is the table of a board. But a CPU of the same name with other
    instruction sets is no board that somebody means, and an INT8 file for a CPU is written for the
    one that it is written on.

    Args:
        here: the device of this machine, as the table's runtime names it.
        precision: that the table is used for.

    Raises:
        UsageError: the table is of such a CPU.
    """
    there = table.key.device
    (name, listed), (ours, known) = split_device(there), split_device(here)
    on_cpu = runtime_class(table.key.runtime).capabilities.device == "cpu"
    quantized = on_cpu and (is_quantized(table.key.precision) or is_quantized(precision))
    if there == here or (name != ours and not quantized):
        return
    old = name == ours and len(listed) == 1 and {*known, "avx"}.issuperset(listed)
    raise UsageError(
        "The latency table was measured on a CPU with other instruction sets."
        if name == ours
        else "An INT8 latency table holds only for the CPU that it was measured on.",
        got=f"table: {there}; here: {here}"
        + (" (earlier versions of rfx named the widest set alone)" if old else ""),
        allowed="a table of a CPU with this name and these instruction sets",
        next_step=f"measure one here (rfx profile MODEL --target {table.key.runtime} --out "
        "table.json), or run where this one was measured",
    )


def model(recipe: Recipe) -> None:
    """Raises UsageError where no model is named."""
    if recipe.model is None:
        raise UsageError(
            "There is no model.",
            got=f"the recipe {recipe.name!r} names none",
            allowed="a folder or a hub name",
            next_step="add --model path/to/model",
        )


def no_data(recipe: Recipe) -> None:
    """Raises UsageError for data of the user's own, which the quickstart's model was not trained
    for."""
    if recipe.data.train or recipe.data.eval:
        raise UsageError(
            "The quickstart has a model and data of its own.",
            got=f"--train {recipe.data.train}, --eval {recipe.data.eval}",
            allowed="the quickstart without data, or a model of yours with your data",
            next_step="name the model too: rfx prune-export MODEL --task ... --train ... --eval "
            "...",
        )


def budget(recipe: Recipe) -> None:
    """Raises UsageError where there is no budget."""
    if recipe.budget.unit is None:
        raise UsageError(
            "There is no budget.",
            got="no target for the latency, the FLOPs or the size",
            allowed="a share between 0 and 1, or a size such as 25MB",
            next_step="add --latency 0.7 (a share of the dense model's latency), --flops 0.6 or "
            "--size 25MB",
        )


def lengths(recipe: Recipe, limit: int) -> None:
    """Raises UsageError for lengths that were asked for and are not within what the model takes."""
    for what, option, value, asked in (
        (
            "Inputs may be longer than the model takes.",
            "--max-length",
            recipe.max_length,
            recipe.given("max_length"),
        ),
        (
            "The sequence length to be timed is longer than the model takes.",
            "--sequence",
            recipe.workload.sequence,
            recipe.given("workload.sequence"),
        ),
    ):
        if value > limit and asked:
            raise UsageError(
                what,
                got=f"{option} {value}",
                allowed=f"at most {limit} tokens",
                next_step=f"use {option} {limit} or less",
            )


def engine_sizes(recipe: Recipe, runtime: Runtime, limit: int | None) -> None:
    """An engine with an optimisation profile takes no more than it was built for: it must hold all
    that it will be run on, and the model must hold it.

    Args:
        limit: tokens that the model takes; None: not limited.

    Raises:
        UsageError: a size that is too small or too large.
    """
    if not runtime.capabilities.profiled:
        return
    engine, workload = recipe.engine, recipe.workload
    size("--max-batch", engine.max_batch, workload.batch, "what is timed", lower="--batch")
    size(
        "--max-sequence",
        engine.max_sequence,
        max(workload.sequence, recipe.max_length),
        "what is timed and the task's --max-length",
        lower="--sequence and --max-length",
        positions=limit,
    )


def size(
    option: str,
    value: int | None,
    least: int,
    why: str,
    *,
    lower: str = "",
    positions: int | None = None,
) -> None:
    """Raises UsageError for a size below what it must hold (`lower`: the options that ask for
    that), or for more tokens than the model has positions (None: not known)."""
    if value is not None and value < least:
        raise UsageError(
            f"{option} is smaller than {why}.",
            got=f"{value} below {least}",
            allowed=f"{least} or more",
            next_step=f"raise {option}{', or lower ' * bool(lower)}{lower}",
        )
    if value is not None and positions is not None and value > positions:
        raise UsageError(
            f"{option} is longer than the model has positions.",
            got=f"{value} above {positions}",
            allowed=f"{positions} or less",
            next_step=f"lower {option}",
        )
