"""Pack: the shapes of a model as one small JSON file, with which a board measures a latency table
without torch."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from rfx.core.plan import Plan
from rfx.cost.bundle import strip, write_bundle
from rfx.cost.latency import possible_depths, possible_points
from rfx.export.blocks import stack
from rfx.export.precision import convert_precision
from rfx.models.shrink import shrink
from rfx.pipeline.dense import ADDITIVITY_PLANS, block_shape, export_model, random_plan
from rfx.pipeline.examples import Subject
from rfx.pipeline.session import Session


def pack(session: Session, subject: Subject, outputs: tuple[str, ...], path: Path) -> int:
    """Write the bundle of `loaded` for the target of `run`; returns how many graphs it has.

    Raises:
        UsageError: the place cannot be written.
        UnsupportedModelError: a layout or activation of which rfx has no block.
    """
    import onnx

    target, workload, recipe = session.served_by, session.workload, session.recipe
    shape = block_shape(subject)
    points, depths = (
        possible_points(shape, target, workload.precision),
        possible_depths(subject.layers, target),
    )
    dense = (shape.heads_total, shape.filters_total)
    graphs: dict[str, tuple[bytes, dict[str, int]]] = {}
    folder = session.store.scratch("pack")
    try:
        with session.progress.bar("packing the shapes", len(points) + 2 + ADDITIVITY_PLANS) as bar:
            for point in points:
                for depth in depths if point == dense else (depths[0], depths[-1]):
                    model = convert_precision(
                        stack(shape, [point] * depth, seed=recipe.seed), workload.precision
                    )
                    graphs[f"stack/{point[0]}/{point[1]}/{depth}"] = strip(model)
                bar.advance()

            def add(name: str, model, plan: Plan) -> None:
                file = export_model(session, subject, model, folder / "model.onnx", outputs, plan)
                graphs[name] = strip(onnx.load(str(file)))
                bar.advance()

            nothing = Plan.of(subject.sites, {s.name: () for s in subject.sites})
            add("dense", subject.model, Plan.dense(subject.sites))
            add("emptied", shrink(subject.model, subject.sites, nothing), nothing)
            # As a measurement on the spot: random counts of the grid. Which of them a table will
            # have is not known yet.
            curves = SimpleNamespace(
                curve=lambda kind: {p[0 if kind.value == "mha" else 1]: 0.0 for p in points}
            )
            rng = np.random.default_rng(recipe.seed)
            plans = [random_plan(subject, curves, rng) for _ in range(ADDITIVITY_PLANS)]
            for i, plan in enumerate(plans):
                add(f"plan/{i}", shrink(subject.model, subject.sites, plan), plan)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    from rfx.core.version import __version__

    write_bundle(
        path,
        graphs=graphs,
        facts={
            "tool": f"rfx {__version__}",
            "target": target.name,
            "precision": workload.precision,
            "batch": workload.batch,
            "sequence": workload.sequence,
            "max_sequence": max(workload.sequence, recipe.max_length),
            "layers": subject.layers,
            "inputs": subject.inputs.to_json(),
            "model_hash": subject.hash,
            "shape": {
                "hidden": shape.hidden,
                "heads_total": shape.heads_total,
                "head_dim": shape.head_dim,
                "filters_total": shape.filters_total,
                "layout": shape.layout,
                "activation": shape.activation,
            },
            "sites": [s.to_json() for s in subject.sites],
            "plans": [p.to_json() for p in plans],
        },
    )
    return len(graphs)
