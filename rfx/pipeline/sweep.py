"""The whole curve: accuracy and measured latency at many targets, from one scoring and one table a
seed.

Each point is what prune-export would make, built, timed and evaluated, and then thrown away. A
point that an interrupted sweep has finished is taken from the store. Beside all of them stands the
rival, the dense model quantized alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rfx.core import manifest
from rfx.core.environment import environment, now, tool
from rfx.core.errors import InfeasibleError, UsageError
from rfx.core.folders import atomic_dir
from rfx.core.progress import Progress
from rfx.core.sizes import ALLOWED, parse_size
from rfx.core.store import Store
from rfx.cost.table import LatencyTable
from rfx.evidence.curve import Curve, Point
from rfx.evidence.report.curve import write_curve
from rfx.evidence.words import SIZE, target_text
from rfx.methods.scores.base import Scores
from rfx.models.shrink import parameter_count
from rfx.pipeline import judge, places, require
from rfx.pipeline.baseline import Outputs, check_calibration, dense_accuracy
from rfx.pipeline.compensate import compensate
from rfx.pipeline.dense import Baseline, dense_baseline, quantizes, workload_of
from rfx.pipeline.examples import data_part, load_examples
from rfx.pipeline.loop import search_counts
from rfx.pipeline.make import export, own_metadata
from rfx.pipeline.quantizing import for_serving, made_by
from rfx.pipeline.resolve import Resolved, open_session, resolve
from rfx.pipeline.rival import make_rival, of_a_sweep
from rfx.pipeline.score import codes, flops_cost, score
from rfx.pipeline.session import Session
from rfx.pipeline.size import require_possible, size_part
from rfx.pipeline.table import Tables
from rfx.pipeline.vocabulary import with_vocabulary
from rfx.recipe.sections import Budget
from rfx.recipe.spec import Recipe
from rfx.tasks.calibration import features_hash

VERSION = 11  # of a point: those of another are not taken from the store
BUDGETS = tuple(Budget.model_fields)


def sweep(
    recipe: Recipe,
    targets: Sequence[float | str],
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
        targets: shares of the dense model's latency or FLOPs, each between 0 and 1, or sizes such
            as "25MB".
        out: gets sweep.json, sweep.csv, sweep.svg and sweep.html, whole or not at all.
        by: "latency", "flops" or "size".
        seeds: how many samples of calibration examples: the recipe's seed and those after it.
        store: where points are kept; default: `~/.cache/rfx`.
        progress: told how far the job is; default: nobody.
        table: a latency table that was measured before.

    Raises:
        UsageError: no targets, one that is no share or no size, a place that holds other things.
        InfeasibleError: not one of the targets can be reached.

    Examples:
        >>> curve = rfx.sweep(recipe, [0.6, 0.4], "sweep", by="flops")
        >>> [row.drop for row in curve.rows]
        [0.11, 0.35]
    """
    goals = _checked(targets, by)
    require.a_recipe(recipe)
    if seeds < 1:
        raise UsageError(
            "A sweep needs at least one seed.",
            got=seeds,
            allowed="1 or more",
            next_step="correct seeds",
        )
    session = open_session(_at(recipe, goals[0], by), store=store, progress=progress, table=table)
    if recipe.limits.max_quantization_loss is not None:
        session.warn(
            "A sweep does not judge --max-quantization-loss, and keeps no site in fp32 of itself: "
            "rfx prune-export does, so that its result at a target may be another one."
        )
    folder = places.sweep_folder(out, recipe, session.store.root, session.progress.warn)
    resolved = with_vocabulary(session, resolve(session, _at(recipe, goals[0], by)))
    _say_vocabulary(session, resolved)
    given = (session, resolved.recipe, resolved.subject)
    outputs = resolved.examples.task.graph_outputs()
    dense, rival = dense_baseline(*given, outputs), None
    try:
        before = dense_accuracy(*given, resolved.examples, dense)
        rival = make_rival(*given, resolved.examples)
        beside = of_a_sweep(*given, resolved.examples, rival, before, dense)
        quantized = rival.baseline if rival is not None and quantizes(resolved.recipe) else None
        if by == SIZE:  # where not even the largest can be reached, nothing is scored
            largest = _at(resolved.recipe, max(goals), by)
            require_possible(session, largest, resolved.subject, outputs, dense, quantized)
        # One table for all points, also where it is too inexact to be kept.
        swept = _Swept(Tables(table), before, dense, quantized)
        for number in range(seeds):
            if number:
                reseeded = _reseeded(resolved.recipe, recipe, number)
                examples = load_examples(session, reseeded, resolved.subject)
                one = with_vocabulary(session, Resolved(reseeded, resolved.subject, examples))
            else:
                one = resolved
            check_calibration(session, one.recipe, one.subject, one.examples)
            scores = score(session, one.recipe, one.subject, one.examples)
            for place, target in enumerate(goals, 1 + number * len(goals)):
                at = Resolved(_at(one.recipe, target, by), one.subject, one.examples)
                session.note(
                    f"{by} {target_text(by, target)}, seed {at.recipe.seed}: {place} of "
                    f"{seeds * len(goals)}"
                )
                swept.add(session, at, target, scores)
    finally:
        dense.engine.close()
        if rival is not None:
            rival.baseline.engine.close()
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
        dense_bytes=size_part(resolved.recipe, (), dense).dense_bytes,
        table=swept.table_facts,
        max_drop=recipe.limits.max_drop,
        rival=beside,
        points=swept.points,
        warnings=warnings,
    )
    with atomic_dir(
        folder, removable=places.no_strangers(places.sweep_strangers), warn=session.progress.warn
    ) as new:
        written = write_curve(curve, new, session.progress.warn)
        manifest.seal(new, manifest.SWEEP, {}, [file.name for file in written])
    return curve


@dataclass
class _Swept:
    """What a sweep has so far."""

    tables: Tables
    before: Outputs  # the dense engine's, on the evaluation set
    dense: Baseline
    quantized: Baseline | None  # the dense model at the recipe's precision, where it quantizes
    points: list[Point] = field(default_factory=list)
    table_facts: dict[str, Any] | None = None
    infeasible: InfeasibleError | None = None

    def add(self, session: Session, at: Resolved, target: float, scores: Scores) -> None:
        """One more point, which may be out of reach."""
        try:
            point, facts = _point(session, at, target, scores, self)
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
    swept: _Swept,
) -> tuple[Point, dict[str, Any] | None]:
    """One pruned model, measured; and what the curve says of the table. Taken from the store where
    it is there."""
    dense, before, tables = swept.dense, swept.before, swept.tables
    key = session.store.key(*_key(session, at, tables.given))
    kept = session.store.get_json("sweep-point", key)
    if kept is not None:
        session.note("taken from an earlier sweep")
        return Point.model_validate(kept["point"]), kept["table"]
    recipe, subject, examples = at.recipe, at.subject, at.examples
    said = len(session.warnings)
    found = search_counts(
        session, recipe, subject, examples, scores, dense, tables, swept.quantized
    )
    outcome, _, _ = compensate(
        session, recipe, subject, examples, scores, found.result, found.searcher
    )
    subject = subject.trained(outcome.model)
    plan, predicted = outcome.plan, found.predicted_ratio(outcome.plan)
    session.warn_of(plan)
    served = (subject.as_served, examples.served)
    folder = session.store.scratch("sweep")
    try:
        small, artefact = export(
            recipe,
            subject,
            examples.task.graph_outputs(),
            plan,
            outcome.update,
            folder,
            # With it, the file has the bytes of the one that would be served.
            own_metadata(recipe, found.table, subject.vocabulary),
            quantizing=for_serving(session, recipe, *served, recipe.workload.precision),
        )
        size = sum(file.stat().st_size for file in artefact.files)
        engine = session.build(artefact, workload_of(recipe))
        try:
            accuracy, _ = judge.accuracy(
                session, recipe, subject, examples, dense, engine, before=before
            )
            latency = None
            if not session.target.absent:
                latency, _ = judge.latency(session, recipe, subject, dense, engine, predicted)
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
        bytes=size,
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
        at.subject.vocabulary.hash if at.subject.vocabulary else "",
        [site.to_json() for site in at.subject.sites],
        features_hash(examples.calibration_features),
        features_hash(examples.evaluation_features),
        [[e.hash, e.label] for e in examples.evaluation],
        recipe.data.labels,
        recipe.method.model_dump(mode="json"),
        recipe.exporter,
        recipe.opset,
        recipe.ir_version,
        recipe.metric,
        recipe.task_options,
        workload_of(recipe).to_json(),
        made_by(target.serves, recipe.workload.precision),
        recipe.quantization.model_dump(mode="json"),
        vars(target.serves.options) | {"store": None, "more": {**target.serves.options.more}},
        recipe.budget.model_dump(mode="json"),
        recipe.sites.model_dump(mode="json"),
        recipe.calibration.model_dump(mode="json"),
        recipe.seed,
        recipe.limits.model_dump(mode="json"),
        target.serves.name,
        target.serves.version(),
        target.serves.device(),
        target.here.name,
        table.hash if table else "measured here",
    ]
    return [*facts, *theirs]


def _say_vocabulary(session: Session, resolved: Resolved) -> None:
    """Warn that a smaller vocabulary is measured with all the rest, and not by itself."""
    kept = resolved.subject.vocabulary
    if kept is not None:
        session.warn(
            f"Every point keeps {kept.after} of {kept.before} entries of the vocabulary, and its "
            "accuracy is that of its own tokenizer. What the vocabulary alone costs, a sweep does "
            "not judge: rfx prune-export does."
        )


def _at(recipe: Recipe, target: float, by: str) -> Recipe:
    """The recipe at one target."""
    value = target_text(by, target) if by == SIZE else target
    return recipe.changed({"budget": {by: value}}, origin="the sweep")


def _reseeded(resolved: Recipe, asked: Recipe, number: int) -> Recipe:
    """The recipe with another sample of calibration examples, and other random choices."""
    return resolved.changed(
        {"seed": asked.seed + number, "calibration.seed": asked.calibration.seed + number},
        origin="the sweep",
    )


def _checked(targets: Sequence[float | str], by: str) -> list[float]:
    """The targets as numbers, the largest first: shares, or bytes of a size."""
    bad: list[object] = []
    found: set[float] = set()
    for target in targets:
        try:
            value = float(parse_size(target)) if by == SIZE else float(target)
        except (TypeError, ValueError):
            value = 0.0
        if value > 0 and (by == SIZE or value < 1):
            found.add(value)
        else:
            bad.append(target)
    if bad or not found or by not in BUDGETS:
        sizes = by == SIZE
        raise UsageError(
            "The targets of a sweep over sizes are sizes of the file."
            if sizes
            else "The targets of a sweep are shares of the dense model.",
            got=", ".join(map(str, bad)) or ("none" if not found else by),
            allowed=f"each {ALLOWED}"
            if sizes
            else "numbers between 0 and 1, e.g. 0.8,0.7,0.6,0.5, of latency or flops",
            next_step="correct --size" if sizes else "correct --latency or --flops",
        )
    return sorted(found, reverse=True)
