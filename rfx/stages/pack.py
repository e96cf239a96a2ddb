"""Pack: the shapes of a model as one small JSON file, with which a board measures a latency table
without torch."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from rfx.cost.bundle import strip, write_bundle
from rfx.cost.latency import possible_depths, possible_points
from rfx.export.blocks import stack
from rfx.export.precision import convert_precision
from rfx.plan import Plan
from rfx.stages.load import Model
from rfx.stages.measure import ADDITIVITY_PLANS, block_shape, export_model, random_plan
from rfx.stages.run import Run
from rfx.surgery.shrink import shrink


def pack(run: Run, loaded: Model, outputs: tuple[str, ...], path: Path) -> int:
    """Write the bundle of `loaded` for the target of `run`; returns how many graphs it has.

    Raises:
        UsageError: the place cannot be written.
        UnsupportedModelError: a layout or activation of which rfx has no block.
    """
    import onnx

    target, conditions, recipe = run.served_by, run.conditions, run.recipe
    shape = block_shape(loaded)
    points, depths = (
        possible_points(shape, target, conditions.precision),
        possible_depths(loaded.layers, target),
    )
    dense = (shape.heads_total, shape.filters_total)
    graphs: dict[str, tuple[bytes, dict[str, int]]] = {}
    folder = run.store.scratch("pack")
    try:
        with run.progress.bar("packing the shapes", len(points) + 2 + ADDITIVITY_PLANS) as bar:
            for point in points:
                for depth in depths if point == dense else (depths[0], depths[-1]):
                    model = convert_precision(
                        stack(shape, [point] * depth, seed=recipe.seed), conditions.precision
                    )
                    graphs[f"stack/{point[0]}/{point[1]}/{depth}"] = strip(model)
                bar.advance()

            def add(name: str, model, plan: Plan) -> None:
                file = export_model(run, loaded, model, folder / "model.onnx", outputs, plan)
                graphs[name] = strip(onnx.load(str(file)))
                bar.advance()

            nothing = Plan.of(loaded.sites, {s.name: () for s in loaded.sites})
            add("dense", loaded.model, Plan.dense(loaded.sites))
            add("emptied", shrink(loaded.model, loaded.sites, nothing), nothing)
            # As a measurement on the spot: random counts of the grid. Which of them a table will
            # have is not known yet.
            curves = SimpleNamespace(
                curve=lambda kind: {p[0 if kind.value == "mha" else 1]: 0.0 for p in points}
            )
            rng = np.random.default_rng(recipe.seed)
            plans = [random_plan(loaded, curves, rng) for _ in range(ADDITIVITY_PLANS)]
            for i, plan in enumerate(plans):
                add(f"plan/{i}", shrink(loaded.model, loaded.sites, plan), plan)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    from rfx import __version__

    write_bundle(
        path,
        graphs=graphs,
        facts={
            "tool": f"rfx {__version__}",
            "target": target.name,
            "precision": conditions.precision,
            "batch": conditions.batch,
            "sequence": conditions.sequence,
            "max_sequence": max(conditions.sequence, recipe.max_length),
            "layers": loaded.layers,
            "vocab_size": int(loaded.model.config.vocab_size),
            "model_hash": loaded.hash,
            "shape": {
                "hidden": shape.hidden,
                "heads_total": shape.heads_total,
                "head_dim": shape.head_dim,
                "filters_total": shape.filters_total,
                "layout": shape.layout,
                "activation": shape.activation,
            },
            "sites": [s.to_json() for s in loaded.sites],
            "plans": [p.to_json() for p in plans],
        },
    )
    return len(graphs)
