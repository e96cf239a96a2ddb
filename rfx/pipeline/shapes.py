"""Pack the shapes of a model as one small JSON file, with which a board measures a latency table
without torch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rfx.core.artefact import Artefact
from rfx.core.environment import tool
from rfx.core.files import as_path
from rfx.core.plan import Plan
from rfx.core.progress import Progress
from rfx.core.store import Store
from rfx.cost.bundle import require_bundle_place, strip, write_bundle
from rfx.cost.curves import DENSE
from rfx.cost.points import possible_points
from rfx.models.shrink import shrink
from rfx.models.subject import Subject
from rfx.pipeline import table
from rfx.pipeline.dense import export_model, workload_of
from rfx.pipeline.quantizing import for_timing, table_method
from rfx.pipeline.resolve import open_session, resolve_model
from rfx.pipeline.session import Session
from rfx.pipeline.table import random_plan, without_partial
from rfx.pipeline.timed import Timed, model_shape, require_one_graph
from rfx.recipe.spec import Recipe
from rfx.tasks.find import task_class

if TYPE_CHECKING:
    from torch import nn


def shapes(
    recipe: Recipe,
    out: str | Path,
    *,
    store: Store | None = None,
    progress: Progress | None = None,
) -> int:
    """Pack the graphs of the recipe's model, without weights, for a board that need not be here.

    Args:
        recipe: needs a model and a target; data and budget are not looked at.
        out: the JSON file to carry to the board.

    Returns:
        The number of graphs.

    Raises:
        UserError: every mistake and missing piece, each with its exit code.

    Examples:
        >>> rfx.shapes(rfx.Recipe(model="model/", target="trt"), "shapes.json")
        115
    """
    require_bundle_place(out)
    session = open_session(recipe, store=store, progress=progress, may_be_absent=True, stages=2)
    recipe, subject = resolve_model(session, recipe)
    with session.stage("pack the shapes"):
        return _pack(
            session, recipe, subject, task_class(recipe.task).graph_outputs(), as_path(out)
        )


def _pack(
    session: Session, recipe: Recipe, subject: Subject, outputs: tuple[str, ...], path: Path
) -> int:
    import onnx

    target, workload = session.target.serves, workload_of(recipe)
    graphs: dict[str, tuple[bytes, dict[str, int]]] = {}
    quantizing = for_timing(session, recipe, subject)
    folder = session.store.scratch("pack")
    try:

        def add(name: str, plan: Plan) -> Artefact:
            model: nn.Module = subject.model
            if plan.counts != Plan.dense(subject.sites).counts:
                model = shrink(model, subject.sites, plan)
            artefact = export_model(
                recipe, subject, model, folder, outputs, plan, quantizing=quantizing
            )
            require_one_graph(artefact)
            graphs[name] = strip(onnx.load(str(artefact.file)))
            return artefact

        # Which sites compute a part, the dense model's file says.
        shape = model_shape(recipe, subject, add("dense", Plan.dense(subject.sites)))
        timed = Timed(session, recipe, subject, outputs, shape, quantizing)
        points = [DENSE, *possible_points(shape, target, workload.precision)]
        whole = {f"without/{g.name}": without_partial(subject, g) for g in shape.alike if g.partial}
        whole["emptied"] = Plan.of(subject.sites, {s.name: () for s in subject.sites})
        # As a measurement on the spot: random counts of the grid. Which of them a table will have
        # is not known yet.
        counts = {g.name: [g.units, *(n for c, n in points if c == g.name)] for g in shape.alike}
        rng = np.random.default_rng(recipe.seed)
        plans = [random_plan(subject, counts, rng, shape) for _ in range(table.ADDITIVITY_PLANS)]
        whole |= {f"plan/{i}": plan for i, plan in enumerate(plans)}
        with session.progress.bar("packing the shapes", len(points) + len(whole)) as bar:
            for name, count in points:
                graphs[f"timed/{name}/{count}"] = strip(timed.model((name, count)))
                bar.advance()
            for name, plan in whole.items():
                add(name, plan)
                bar.advance()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    write_bundle(
        path,
        graphs=graphs,
        facts={
            "tool": tool(),
            "target": target.name,
            "precision": workload.precision,
            "batch": workload.batch,
            "sequence": workload.sequence,
            "max_sequence": max(workload.sequence, recipe.max_length),
            "inputs": subject.inputs.to_json(),
            "model_hash": subject.hash,
            "quantizer": table_method(target, workload.precision),
            "shape": shape.to_json(),
            "timed": {"layers": timed.layers, "bytes": timed.bytes, "sites": timed.sites},
            "sites": [s.to_json() for s in subject.sites],
            "plans": [p.to_json() for p in plans],
        },
    )
    return len(graphs)
