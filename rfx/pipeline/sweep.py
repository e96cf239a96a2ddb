"""The whole curve: accuracy and measured latency at many targets, from one scoring and one table a
seed.

Each point is what prune-export would make, built, timed and evaluated, and then thrown away. A
point that an interrupted sweep has finished is taken from the store.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rfx.core.environment import environment, now, tool
from rfx.core.errors import InfeasibleError, UsageError
from rfx.core.files import atomic_dir
from rfx.core.progress import Progress
from rfx.core.store import Store
from rfx.cost.table import LatencyTable
from rfx.evidence.curve import Curve, Point
from rfx.evidence.report.curve import write_curve
from rfx.methods.scores.base import Scores
from rfx.models.shrink import parameter_count
from rfx.pipeline import judge, places, require
from rfx.pipeline.compensate import compensate
from rfx.pipeline.dense import Baseline, dense_baseline, workload_of
from rfx.pipeline.examples import data_part, load_examples
from rfx.pipeline.loop import search_counts
from rfx.pipeline.make import export
from rfx.pipeline.resolve import Resolved, open_session, resolve
from rfx.pipeline.score import codes, flops_cost, score
from rfx.pipeline.session import Session
from rfx.pipeline.table import Tables
from rfx.recipe.sections import Budget
from rfx.recipe.spec import Recipe
from rfx.tasks.calibration import features_hash

VERSION = 6  # of a point: those of another are not taken from the store
BUDGETS = tuple(Budget.model_fields)


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
        store: where points are kept; default: `~/.cache/rfx`.
        progress: told how far the job is; default: nobody.
        table: a latency table that was measured before.

    Raises:
        UsageError: no targets, one that is no share, a place that holds other things.
        InfeasibleError: not one of the targets can be reached.

    Examples:
        >>> curve = rfx.sweep(recipe, [0.6, 0.4], "sweep", by="flops")
        >>> [row.drop for row in curve.rows]
        [0.11, 0.35]
    """
    targets = _checked(targets, by)
    require.a_recipe(recipe)
    if seeds < 1:
        raise UsageError(
            "A sweep needs at least one seed.",
            got=seeds,
            allowed="1 or more",
            next_step="correct seeds",
        )
    places.sweep_folder(Path(out))
    session = open_session(_at(recipe, targets[0], by), store=store, progress=progress, table=table)
    resolved = resolve(session, _at(recipe, targets[0], by))
    dense = dense_baseline(
        session, resolved.recipe, resolved.subject, resolved.examples.task.output_names
    )
    # One table for all points, also where it is too inexact to be kept.
    swept = _Swept(Tables(table))
    try:
        for number in range(seeds):
            if number:
                reseeded = _reseeded(resolved.recipe, recipe, number)
                examples = load_examples(session, reseeded, resolved.subject)
                one = Resolved(reseeded, resolved.subject, examples)
            else:
                one = resolved
            scores = score(session, one.recipe, one.subject, one.examples)
            for place, target in enumerate(targets, 1 + number * len(targets)):
                at = Resolved(_at(one.recipe, target, by), one.subject, one.examples)
                session.note(
                    f"{by} {target:g}, seed {at.recipe.seed}: {place} of {seeds * len(targets)}"
                )
                swept.add(session, at, target, scores, dense)
    finally:
        dense.engine.close()
    if swept.infeasible is not None and not any(p.accuracy for p in swept.points):
        raise swept.infeasible
    of_points = {w for p in swept.points for w in p.warnings}
    warnings = [w for w in dict.fromkeys(session.warnings) if w not in of_points]
    curve = Curve(
        tool=tool(),
        created=now(),
        recipe=resolved.recipe.changed({"budget": {}}).model_dump(mode="json"),
        model=resolved.subject.describe(),
        environment=environment(),
        data=data_part(resolved.examples),
        budget=by,
        table=swept.table_facts,
        max_drop=recipe.limits.max_drop,
        points=swept.points,
        warnings=warnings,
    )
    with atomic_dir(Path(out)) as folder:
        write_curve(curve, folder, session.progress.warn)
    return curve


@dataclass
class _Swept:
    """What a sweep has so far."""

    tables: Tables
    points: list[Point] = field(default_factory=list)
    table_facts: dict[str, Any] | None = None
    infeasible: InfeasibleError | None = None

    def add(
        self, session: Session, at: Resolved, target: float, scores: Scores, dense: Baseline
    ) -> None:
        """One more point, which may be out of reach."""
        try:
            point, facts = _point(session, at, target, scores, dense, self.tables)
        except InfeasibleError as error:
            self.infeasible = self.infeasible or error
            note = f"{error.what} {error.allowed}"
            point, facts = Point(target=target, seed=at.recipe.seed, note=note), None
        self.table_facts = facts or self.table_facts
        self.points.append(point)


def _point(
    session: Session,
    at: Resolved,
    target: float,
    scores: Scores,
    dense: Baseline,
    tables: Tables,
) -> tuple[Point, dict[str, Any] | None]:
    """One pruned model, measured; and what the curve says of the table. Taken from the store where
    it is there."""
    key = session.store.key(*_key(session, at, tables.given))
    kept = session.store.get_json("sweep-point", key)
    if kept is not None:
        session.note("taken from an earlier sweep")
        return Point.model_validate(kept["point"]), kept["table"]
    recipe, subject, examples = at.recipe, at.subject, at.examples
    said = len(session.warnings)
    found = search_counts(session, recipe, subject, examples, scores, dense, tables)
    outcome, _, _ = compensate(
        session, recipe, subject, examples, scores, found.result, found.searcher
    )
    subject = subject.trained(outcome.model)
    plan, predicted = outcome.plan, found.predicted_ratio(outcome.plan)
    folder = session.store.scratch("sweep")
    try:
        small, artefact = export(
            recipe, subject, examples.task.output_names, plan, outcome.update, folder
        )
        engine = session.build(artefact, workload_of(recipe))
        try:
            accuracy = judge.accuracy(session, recipe, subject, examples, dense, engine)
            latency = None
            if not session.target.absent:
                latency = judge.latency(session, recipe, subject, dense, engine, predicted)
        finally:
            engine.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    point = Point(
        target=target,
        seed=recipe.seed,
        latency=latency,
        accuracy=accuracy,
        predicted_ratio=predicted,
        flops_ratio=flops_cost(subject, examples).share_of(plan),
        params_ratio=parameter_count(small) / parameter_count(subject.model),
        kept_layers=plan.layers,
        warnings=session.warnings[said:],
    )
    facts = None
    if found.table is not None:
        facts = {
            "key": found.table.key,
            "hash": found.table.hash,
            "additivity_error": found.table.additivity_error,
        }
    data = {"point": point.model_dump(mode="json"), "table": facts}
    session.store.put_json("sweep-point", key, data)
    return point, facts


def _key(session: Session, at: Resolved, table: LatencyTable | None) -> list[Any]:
    """All that the search, the model and the measurements of a point go by."""
    recipe, examples, target = at.recipe, at.examples, session.target
    method = recipe.method
    parts = {
        "task": examples.task.name,
        "runtime": target.serves.name,
        "scorer": method.scorer,
        "search": method.search,
        "refiner": method.refine,
        "compensation": method.compensate,
        "schedule": method.schedule,
    }
    if recipe.budget.latency is None:
        parts["cost"] = str(recipe.budget.unit)
    theirs = codes(recipe, **parts)
    facts = [
        VERSION,
        tool(),
        "sweep-point",
        at.subject.hash,
        [site.to_json() for site in at.subject.sites],
        features_hash(examples.calibration_features),
        features_hash(examples.evaluation_features),
        [[e.hash, e.label] for e in examples.evaluation],
        recipe.data.labels,
        recipe.method.model_dump(mode="json"),
        recipe.exporter,
        recipe.metric,
        recipe.task_options,
        workload_of(recipe).to_json(),
        vars(target.serves.options) | {"store": None, "more": {**target.serves.options.more}},
        recipe.budget.model_dump(mode="json"),
        recipe.calibration.model_dump(mode="json"),
        recipe.seed,
        recipe.limits.max_drop,
        target.serves.name,
        target.serves.version(),
        target.serves.device(),
        target.here.name,
        table.hash if table else "measured here",
    ]
    return [*facts, *theirs]


def _at(recipe: Recipe, target: float, by: str) -> Recipe:
    """The recipe at one target."""
    return recipe.changed({"budget": {by: target}}, origin="the sweep")


def _reseeded(resolved: Recipe, asked: Recipe, number: int) -> Recipe:
    """The recipe with another sample of calibration examples, and other random choices."""
    return resolved.changed(
        {"seed": asked.seed + number, "calibration.seed": asked.calibration.seed + number},
        origin="the sweep",
    )


def _checked(targets: Sequence[float], by: str) -> list[float]:
    bad = [t for t in targets if not 0 < t < 1]
    if bad or not targets or by not in BUDGETS:
        raise UsageError(
            "The targets of a sweep are shares of the dense model.",
            got=", ".join(map(str, bad)) or ("none" if not targets else by),
            allowed="numbers between 0 and 1, e.g. 0.8,0.7,0.6,0.5, of latency or flops",
            next_step="correct --latency or --flops",
        )
    return sorted(set(targets), reverse=True)
