"""Score and search only: the plan and its predicted latency. No model is written."""

from __future__ import annotations

from typing import NamedTuple

from rfx.core.plan import Plan
from rfx.core.progress import Progress
from rfx.core.store import Store
from rfx.cost.base import Cost
from rfx.cost.latency_cost import LatencyCost
from rfx.cost.table import LatencyTable
from rfx.evidence.records import SearchPart
from rfx.evidence.words import BYTES
from rfx.methods.build import build
from rfx.pipeline import require
from rfx.pipeline.baseline import check_calibration
from rfx.pipeline.compensate import refined_plan
from rfx.pipeline.dense import dense_at, dense_baseline, quantizes
from rfx.pipeline.loop import anchored_at
from rfx.pipeline.quantizing import for_serving
from rfx.pipeline.resolve import open_session, resolve
from rfx.pipeline.score import computed_cost, method_of, score, search_part
from rfx.pipeline.size import file_cost, is_of_file, require_room
from rfx.pipeline.table import Tables
from rfx.pipeline.vocabulary import with_vocabulary
from rfx.recipe.spec import Recipe


class Planned(NamedTuple):
    """A plan, how it was found, and its predicted latency as a share of the dense model's (None
    where another budget was given)."""

    plan: Plan
    search: SearchPart
    predicted_ratio: float | None

    @property
    def predicted_bytes(self) -> float | None:
        """Under a size budget the size of the plan's file as it was computed."""
        if self.search.budget_unit != BYTES:
            return None
        return float(str(self.plan.provenance["predicted"]))


def plan(
    recipe: Recipe,
    *,
    store: Store | None = None,
    progress: Progress | None = None,
    table: LatencyTable | None = None,
) -> Planned:
    """Which heads and filters would stay, without compensating or writing anything.

    Args:
        recipe: what is asked for, see `Recipe`.
        store: where scores and tables are kept; default: `~/.cache/rfx`.
        progress: told how far the job is; default: nobody.
        table: a latency table that was measured before.

    Raises:
        UserError: every mistake and missing piece, each with its exit code.

    Examples:
        >>> plan, search, ratio = rfx.plan(recipe)
        >>> plan.layers[0]
        {'heads': 11, 'filters': 1152}
    """
    require.a_recipe(recipe)
    by_latency, of_file = recipe.budget.latency is not None, is_of_file(recipe)
    stages = (
        3
        + recipe.vocabulary.prune
        + of_file
        + by_latency * (1 + quantizes(recipe))
        + (by_latency and table is None)
    )
    session = open_session(recipe, store=store, progress=progress, table=table, stages=stages)
    require.budget(recipe)
    if build(recipe.method, seed=recipe.seed, labelled=True).schedule.searches_again:
        session.warn(
            f"The {recipe.method.schedule} schedule searches again as it compensates: the counts "
            "of prune-export will differ from this plan, which is its first search."
        )
    resolved = with_vocabulary(session, resolve(session, recipe))
    recipe, subject, examples = resolved.recipe, resolved.subject, resolved.examples
    outputs = examples.task.graph_outputs()
    check_calibration(session, recipe, subject, examples)
    cost: Cost
    if of_file:  # before the work of scoring: it may be below what cannot be pruned
        at = recipe.workload.precision
        made = for_serving(session, recipe, subject, examples, at)
        title = f"dense model at {at}"
        dense = dense_at(session, recipe, subject, outputs, at, title, made)
        cost = file_cost(session, recipe, subject, outputs, dense, None)
        require_room(session, recipe, cost)
    scores = score(session, recipe, subject, examples)
    anchored = 1.0
    if by_latency:
        dense = dense_baseline(session, recipe, subject, outputs)
        quantized = None
        if quantizes(recipe):
            at = recipe.workload.precision
            made = for_serving(session, recipe, subject, examples, at)
            title = f"dense model at {at}"
            quantized = dense_at(session, recipe, subject, outputs, at, title, made)
        tables = Tables(table)
        priced_at, priced = tables.of(session, recipe, dense, quantized)
        found, _ = tables.get(session, priced_at, subject, priced, outputs)
        anchored = anchored_at(session, recipe, subject, dense, quantized)
        cost = LatencyCost(found)
    elif not of_file:
        cost = computed_cost(recipe, subject, examples)
    searcher = method_of(recipe, examples).searcher(cost)
    budget = recipe.budget.within(cost.dense(subject.sites) / anchored)
    result = searcher(subject.sites, scores, budget)
    ratio = anchored * cost.share(subject.sites, result.choices) if by_latency else None
    chosen = refined_plan(session, recipe, subject, examples, scores, result)
    session.warn_of(chosen)
    return Planned(chosen, search_part(result, cost.unit), ratio)
