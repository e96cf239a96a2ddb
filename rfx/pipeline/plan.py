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
from rfx.methods.build import build
from rfx.pipeline import require
from rfx.pipeline.compensate import refined_plan
from rfx.pipeline.dense import dense_baseline
from rfx.pipeline.resolve import open_session, resolve
from rfx.pipeline.score import computed_cost, method_of, score, search_part
from rfx.pipeline.table import Tables
from rfx.recipe.spec import Recipe


class Planned(NamedTuple):
    """A plan, how it was found, and its predicted latency as a share of the dense model's (None for
    a FLOPs budget)."""

    plan: Plan
    search: SearchPart
    predicted_ratio: float | None


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
    by_latency = recipe.budget.latency is not None
    stages = 3 + by_latency + (by_latency and table is None)
    session = open_session(recipe, store=store, progress=progress, table=table, stages=stages)
    require.budget(recipe)
    if build(recipe.method, seed=recipe.seed, labelled=True).schedule.searches_again:
        session.warn(
            f"The {recipe.method.schedule} schedule searches again as it compensates: the counts "
            "of prune-export will differ from this plan, which is its first search."
        )
    resolved = resolve(session, recipe)
    recipe, subject, examples = resolved.recipe, resolved.subject, resolved.examples
    outputs = examples.task.output_names
    scores = score(session, recipe, subject, examples)
    cost: Cost
    if by_latency:
        dense = dense_baseline(session, recipe, subject, outputs)
        found, _ = Tables(table).get(session, recipe, subject, dense, outputs)
        cost = LatencyCost(found)
    else:
        cost = computed_cost(recipe, subject, examples)
    searcher = method_of(recipe, examples).searcher(cost)
    result = searcher(subject.sites, scores, recipe.budget.share * cost.dense(subject.sites))
    ratio = cost.share(subject.sites, result.choices) if by_latency else None
    chosen = refined_plan(session, recipe, subject, examples, scores, result)
    return Planned(chosen, search_part(result, cost.unit), ratio)
