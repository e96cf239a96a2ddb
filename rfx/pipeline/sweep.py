"""The whole curve: accuracy and measured latency at many targets, from one scoring and one table a
seed.

Each point is what prune-export would make, built, timed and evaluated, and then thrown away. A
point that an interrupted sweep has finished is taken from the store.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from rfx.core.environment import environment, now, tool
from rfx.core.errors import InfeasibleError, UsageError
from rfx.core.progress import Progress
from rfx.core.store import Store, atomic_dir
from rfx.cost.table import LatencyTable
from rfx.evidence.curve import Curve, Point
from rfx.evidence.report.curve import write_curve
from rfx.methods.scores.base import Scores
from rfx.models.shrink import parameter_count
from rfx.pipeline import dense as measure
from rfx.pipeline import examples as load
from rfx.pipeline import judge as check
from rfx.pipeline import loop as close
from rfx.pipeline import make as finish
from rfx.pipeline import require as ask
from rfx.pipeline import score as decide
from rfx.pipeline.resolve import prepare, start
from rfx.pipeline.session import Session
from rfx.recipe.spec import Budget, Recipe

VERSION = 6  # of a point: those of another are not taken from the store


def sweep(
    recipe: Recipe,
    targets: Sequence[float],
    out: str | Path,
    *,
    by: str = "latency",
    seeds: int = 1,
    store: Store | None = None,
    progress: Progress | None = None,
    table: LatencyTable | None = None,
) -> Curve:
    """Prune to every target with every seed, and measure.

    Args:
        targets: shares of the dense model's latency or FLOPs, each between 0 and 1.
        out: gets sweep.json, sweep.csv, sweep.svg and sweep.html, whole or not at all.
        by: "latency" or "flops".
        seeds: how many samples of calibration examples: the recipe's seed and those after it.

    Raises:
        UsageError: no targets, one that is no share, a place that holds other things.
        InfeasibleError: not one of the targets can be reached.
    """
    targets = _checked(targets)
    ask.require_sweep_folder(Path(out))
    first = start(_at(recipe, targets[0], by), store, progress, table)
    points: list[Point] = []
    warnings: list[str] = []
    part, described, data, infeasible = None, {}, None, None
    for number in range(seeds):
        session = (
            first
            if number == 0
            else start(
                _at(_reseeded(recipe, number), targets[0], by), first.store, first.progress, table
            )
        )
        session.table = (
            first.table
        )  # also one that is too inexact to be kept: all points go by the same
        subject, examples = prepare(session)
        dense = measure.baseline(session, subject, examples.task.output_names)
        try:
            scores = decide.score(session, subject, examples)
            described, data = subject.describe(), data or examples.data
            for place, target in enumerate(targets, 1 + number * len(targets)):
                session.recipe = _at(session.recipe, target, by)
                session.progress.note(
                    f"{by} {target:g}, seed {session.recipe.seed}: {place} of {seeds * len(targets)}"
                )
                try:
                    point, found = _point(session, subject, examples, scores, dense, table)
                except InfeasibleError as error:
                    infeasible = infeasible or error
                    point, found = (
                        Point(
                            target=target,
                            seed=session.recipe.seed,
                            note=f"{error.what} {error.allowed}",
                        ),
                        None,
                    )
                part = found or part
                points.append(point)
        finally:
            dense.engine.close()
        of_points = {w for p in points for w in p.warnings}
        warnings += [w for w in session.warnings if w not in warnings and w not in of_points]
    if not any(p.accuracy for p in points):
        raise infeasible
    curve = Curve(
        tool=tool(),
        created=now(),
        recipe=first.recipe.model_copy(update={"budget": Budget()}).model_dump(mode="json"),
        model=described,
        environment=environment(),
        data=data,
        budget=by,
        table=part,
        max_drop=recipe.limits.max_drop,
        points=points,
        warnings=warnings,
    )
    with atomic_dir(Path(out)) as folder:
        write_curve(curve, folder)
    return curve


def _point(
    session: Session,
    subject: load.Subject,
    examples: load.Examples,
    scores: Scores,
    dense: measure.Baseline,
    table: LatencyTable | None,
) -> tuple[Point, dict | None]:
    """One pruned model, measured; and what the curve says of the table. Taken from the store where
    it is there."""
    recipe, served = session.recipe, session.served_by
    key = session.store.key(  # all that the search, the model and the measurements go by
        VERSION,
        tool(),
        "sweep-point",
        subject.hash,
        decide.features_hash(examples.calibration_features),
        decide.features_hash(examples.evaluation_features),
        [[e.hash, e.label] for e in examples.evaluation],
        recipe.data.labels,
        recipe.method.model_dump(mode="json"),
        recipe.metric,
        recipe.task_options,
        recipe.workload.model_dump(mode="json"),
        vars(served.options) | {"store": None},
        recipe.budget.model_dump(mode="json"),
        recipe.calibration.model_dump(mode="json"),
        recipe.seed,
        recipe.limits.max_drop,
        served.name,
        served.version(),
        served.device(),
        session.runtime.name,
        table.hash if table else "measured here",
    )
    kept = session.store.get_json("sweep-point", key)
    if kept is not None:
        session.progress.note("taken from an earlier sweep")
        return Point.model_validate(kept["point"]), kept["table"]
    said = len(session.warnings)
    found = close.search_counts(session, subject, examples, scores, dense, table)
    outcome, _, _ = finish.decide_and_compensate(
        session, subject, examples, scores, found.result, found.searcher
    )
    plan, predicted = outcome.plan, found.predicted_ratio(outcome.plan)
    folder = session.store.scratch("sweep")
    try:
        small, file = finish.export(
            session, subject, examples, plan, outcome.update, folder / "model.onnx"
        )
        engine = session.build(file)
        try:
            accuracy = check.accuracy(session, subject, examples, dense, engine)
            latency = (
                None
                if session.offline
                else check.latency(session, subject, dense, engine, predicted)
            )
        finally:
            engine.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    point = Point(
        target=recipe.budget.latency or recipe.budget.flops,
        seed=recipe.seed,
        latency=latency,
        accuracy=accuracy,
        predicted_ratio=predicted,
        flops_ratio=decide.flops_cost(subject, examples).share(plan.sites, plan.counts),
        params_ratio=parameter_count(small) / parameter_count(subject.model),
        kept_layers=plan.layers,
        warnings=session.warnings[said:],
    )
    part = found.table and {
        "key": found.table.key,
        "hash": found.table.hash,
        "additivity_error": found.table.additivity_error,
    }
    session.store.put_json(
        "sweep-point", key, {"point": point.model_dump(mode="json"), "table": part}
    )
    return point, part


def _at(recipe: Recipe, target: float, by: str) -> Recipe:
    """The recipe at one target."""
    return recipe.model_copy(update={"budget": Budget(**{by: target})})


def _reseeded(recipe: Recipe, number: int) -> Recipe:
    """The recipe with another sample of calibration examples, and other random choices."""
    calibration = recipe.calibration.model_copy(update={"seed": recipe.calibration.seed + number})
    return recipe.model_copy(update={"seed": recipe.seed + number, "calibration": calibration})


def _checked(targets: Sequence[float]) -> list[float]:
    bad = [t for t in targets if not 0 < t < 1]
    if bad or not targets:
        raise UsageError(
            "The targets of a sweep are shares of the dense model.",
            got=", ".join(map(str, bad)) or "none",
            allowed="numbers between 0 and 1, e.g. 0.8,0.7,0.6,0.5",
            next_step="correct --latency or --flops",
        )
    return sorted(set(targets), reverse=True)
