"""Close the loop: latency depends on the counts alone, so they are built and timed before any compensation.

The searched counts are shrunk, exported and timed against the dense baseline; the budget is corrected in either
direction and the search run again. The result nearest to the target from below goes on.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from rfx.cost.table import LatencyTable
from rfx.errors import InfeasibleError
from rfx.plan import Plan
from rfx.recipe import Recipe
from rfx.scores.base import Scores
from rfx.search import SearchResult
from rfx.stages.decide import LatencySearcher, dense_counts
from rfx.stages.load import Model
from rfx.stages.measure import Baseline, export_model
from rfx.stages.run import Run
from rfx.surgery.shrink import shrink
from rfx.verify.evidence import Round
from rfx.verify.latency import measure_pair

ROUNDS = 3
ROUND_SECONDS = 3.0  # of timing, at least
LANDING = 0.04  # a finished engine should land in [target - LANDING, target]
WINDOW = 0.035  # so the loop ends only this near: a measurement of its own will differ a little
AIM = 0.02  # below the target: the final interval has to lie under it, in a measurement of its own
NEAR = AIM / 2  # this near to the target, another measurement may well lie above it


@dataclass
class Closed:
    result: SearchResult
    rounds: list[Round]
    predicted_ratio: float


def predicted_ratio(loaded: Model, table: LatencyTable, result: SearchResult) -> float:
    dense_ms = table.predict_ms(loaded.sites, dense_counts(loaded.sites))
    return table.predict_ms(loaded.sites, result.counts) / dense_ms


def aim(recipe: Recipe) -> float:
    """Of a recipe's target, see `aim_at`."""
    return aim_at(recipe.budget.latency)


def on_target(ratio: float, target: float) -> bool:
    """Whether the loop may end with a measured ratio."""
    return target - WINDOW <= ratio <= target - NEAR


def aim_at(target: float) -> float:
    """The measured ratio to aim at for a target."""
    return target - min(AIM, target / 4)


def close_loop(run: Run, loaded: Model, scores: Scores, table: LatencyTable, dense: Baseline,
               outputs: tuple[str, ...]) -> Closed:
    """Search, build, time; correct the budget and search again, at most three rounds.

    Raises:
        InfeasibleError: no plan on the table reaches the target.
    """  # fmt: skip
    target = run.recipe.budget.latency
    dense_ms = table.predict_ms(loaded.sites, dense_counts(loaded.sites))
    budget = aim(run.recipe) * dense_ms
    if run.offline:  # nothing to time with: the table's word is all there is
        result = _search(run, loaded, scores, table, budget, [])
        return Closed(result, [], predicted_ratio(loaded, table, result))
    rounds: list[Round] = []
    tried: list[tuple[float, float, SearchResult]] = []  # (budget share, measured ratio, result)
    folder = run.store.scratch("loop")
    try:
        with run.progress.bar("closing the loop on the target", ROUNDS) as bar:
            for i in range(ROUNDS):
                result = _search(run, loaded, scores, table, budget, tried)
                if result is None:
                    rounds[-1] = rounds[-1].model_copy(update={"note": "no plan is faster: the search stops here"})
                    break
                ratio = _measure(run, loaded, dense, outputs, result, folder / f"{i}.onnx")
                tried.append((budget / dense_ms, ratio, result))
                landed = on_target(ratio, target)
                rounds.append(Round(
                    budget_ms=budget, predicted_ms=table.predict_ms(loaded.sites, result.counts), measured_ratio=ratio,
                    note="on target" if landed else "too slow" if ratio > target else "too near to the target"
                    if ratio > target - NEAR else "faster than asked",
                ))  # fmt: skip
                bar.advance()
                if landed:
                    break
                budget = corrected(tried, aim(run.recipe)) * dense_ms
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    below = [t for t in tried if t[1] <= target - NEAR] or [t for t in tried if t[1] <= target]
    _, _, best = max(below, key=lambda t: t[1]) if below else min(tried, key=lambda t: t[1])
    return Closed(best, rounds, predicted_ratio(loaded, table, best))


def _search(run, loaded, scores, table, budget, tried) -> SearchResult | None:
    try:
        return LatencySearcher(run.recipe, table)(loaded.sites, scores, budget)
    except InfeasibleError:
        if not tried:  # the aim lies a little below the target: the target itself may be within reach
            return LatencySearcher(run.recipe, table)(
                loaded.sites, scores, budget * run.recipe.budget.latency / aim(run.recipe)
            )
        return None  # an earlier round was feasible: the gate says how near it came


def _measure(run: Run, loaded: Model, dense: Baseline, outputs, result: SearchResult, file: Path) -> float:
    plan = Plan.of(loaded.sites, result.kept)
    export_model(run, loaded, shrink(loaded.model, loaded.sites, plan), file, outputs, plan)
    engine = run.build(file)
    try:
        part = measure_pair(
            run.runtime, dense.engine, engine, run.conditions,
            vocab_size=int(loaded.model.config.vocab_size), seed=run.recipe.seed, min_seconds=ROUND_SECONDS,
        )  # fmt: skip
    finally:
        engine.close()
        file.unlink(missing_ok=True)
    return part.ratio


def corrected(tried: list[tuple[float, float, SearchResult]], aim: float) -> float:
    """The budget share that should land on `aim`: proportional at first, then along the line through two tries."""
    (b1, r1, _) = tried[-1]
    guess = b1 * aim / r1
    if len(tried) > 1:
        (b0, r0, _) = tried[-2]
        slope = (r1 - r0) / (b1 - b0) if b1 != b0 else 0.0
        if 0.3 < slope < 3:  # a line through noise says nothing
            guess = b1 + (aim - r1) / slope
    return min(max(guess, 0.01), 0.999)
