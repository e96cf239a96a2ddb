"""Only the latency table of a model on its target."""

from __future__ import annotations

from rfx.core.progress import Progress
from rfx.core.store import Store
from rfx.cost.table import LatencyTable
from rfx.pipeline.dense import dense_at
from rfx.pipeline.quantizing import for_timing
from rfx.pipeline.resolve import open_session, resolve_model
from rfx.pipeline.table import Tables
from rfx.recipe.spec import Recipe
from rfx.tasks.find import task_class


def profile(
    recipe: Recipe, *, store: Store | None = None, progress: Progress | None = None
) -> LatencyTable:
    """Measure what keeping n heads or n filters of a layer costs, in milliseconds, on the recipe's
    target under its workload; the table is kept in the store.

    Args:
        recipe: needs a model; data and budget are not looked at.

    Raises:
        UserError: every mistake and missing piece, each with its exit code.

    Examples:
        >>> table = rfx.profile(rfx.Recipe(model="model/", target="ort"))
        >>> table.curve("mha")[4]
        0.62
    """
    session = open_session(recipe, store=store, progress=progress, stages=3)
    recipe, subject = resolve_model(session, recipe)
    outputs = task_class(recipe.task).graph_outputs()
    dense = dense_at(
        session,
        recipe,
        subject,
        outputs,
        recipe.workload.precision,
        "dense baseline",
        for_timing(session, recipe, subject),
    )
    return Tables().get(session, recipe, subject, dense, outputs)[0]
