"""Close the loop: latency depends on the counts alone, so they are built and timed before any
compensation.

The searched counts are shrunk, exported and timed against the dense baseline; the budget is
corrected in either direction and the search run again. The result nearest to the target from below
goes on.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from rfx.core.errors import InfeasibleError
from rfx.core.plan import Plan
from rfx.cost.latency_cost import LatencyCost
from rfx.cost.table import LatencyTable
from rfx.evidence.records import Round, SearchPart, TablePart
from rfx.methods.build import Method
from rfx.methods.scores.base import Scores
from rfx.methods.search.problem import SearchResult
from rfx.methods.search.searcher import Searcher
from rfx.models.shrink import shrink
from rfx.pipeline.dense import Baseline, export_model, latency_table
from rfx.pipeline.examples import Examples, Subject
from rfx.pipeline.score import flops_cost, method_of, search_part
from rfx.pipeline.session import Session
from rfx.recipe.spec import Recipe
from rfx.verify.latency import measure_pair

ROUNDS = 3
ROUND_SECONDS = 3.0  # of timing, at least
LANDING = 0.04  # a finished engine should land in [target - LANDING, target]
WINDOW = 0.035  # so the loop ends only this near: a measurement of its own will differ a little
AIM = 0.02  # below the target: the final interval has to lie under it, in a measurement of its own
NEAR = AIM / 2  # this near to the target, another measurement may well lie above it


@dataclass(frozen=True)
class Found:
    """The counts of a budget, what found them, and what the evidence says of that; `table` None for
    a FLOPs budget."""

    result: SearchResult
    searcher: Searcher
    search: SearchPart
    table: TablePart | None = None

    def predicted_ratio(self, plan: Plan) -> float | None:
        """A plan's predicted latency as a share of the dense model's; None without a table."""
        return self.searcher.cost.share(plan.sites, plan.counts) if self.table is not None else None


def search_counts(
    session: Session,
    subject: Subject,
    examples: Examples,
    scores: Scores,
    dense: Baseline,
    given: LatencyTable | None = None,
) -> Found:
    """The counts of the recipe's budget, by the measured table (or the `given` one) and the closed
    loop, or by FLOPs.

    Raises:
        InfeasibleError: no plan reaches the budget.
    """
    outputs = examples.task.output_names
    method = method_of(session.recipe, examples)
    if session.recipe.budget.flops is not None:
        cost = flops_cost(subject, examples)
        by_flops = method.searcher(cost)
        with session.stage("search"):
            result = by_flops(
                subject.sites, scores, session.recipe.budget.flops * cost.dense(subject.sites)
            )
        return Found(result, by_flops, _of_the_plan(method, search_part(result, cost.unit)))
    table, cached = latency_table(session, subject, dense, outputs, given)
    by_table = method.searcher(LatencyCost(table))
    with session.stage("search and closed loop"):
        result, rounds = close_loop(session, subject, scores, by_table, table, dense, outputs)
    part = TablePart(
        key=table.to_json()["key"],
        key_hash=table.key.hash,
        hash=table.hash,
        costs_ms={k: dict(v) for k, v in table.costs_ms.items()},
        fixed_ms=table.fixed_ms,
        additivity=[dict(r) for r in table.additivity],
        additivity_error=table.additivity_error,
        from_cache=cached,
    )
    said = _of_the_plan(method, search_part(result, by_table.cost.unit))
    return Found(result, by_table, said.model_copy(update={"rounds": rounds}), part)


def _of_the_plan(method: Method, part: SearchPart) -> SearchPart:
    """Without what holds for the first search alone, where the schedule searches again."""
    if not method.schedule.searches_again:
        return part
    return part.model_copy(update={"value_kept": None, "optimality_gap": None, "price": None})


def aim(recipe: Recipe) -> float:
    """Of a recipe's target, see `aim_at`."""
    return aim_at(recipe.budget.latency)


def on_target(ratio: float, target: float) -> bool:
    """Whether the loop may end with a measured ratio."""
    return target - WINDOW <= ratio <= target - NEAR


def aim_at(target: float) -> float:
    """The measured ratio to aim at for a target."""
    return target - min(AIM, target / 4)


def close_loop(
    session: Session,
    subject: Subject,
    scores: Scores,
    searcher: Searcher,
    table: LatencyTable,
    dense: Baseline,
    outputs: tuple[str, ...],
) -> tuple[SearchResult, list[Round]]:
    """Search, build, time; correct the budget and search again, at most three rounds: the best
    result, and the rounds.

    Raises:
        InfeasibleError: no plan on the table reaches the target.
    """
    target = session.recipe.budget.latency
    dense_ms = searcher.cost.dense(subject.sites)
    budget = aim(session.recipe) * dense_ms
    if session.offline:  # nothing to time with: the table's word is all there is
        return _search(session, subject, scores, searcher, budget, []), []
    rounds: list[Round] = []
    tried: list[tuple[float, float, SearchResult]] = []  # (budget share, measured ratio, result)
    folder = session.store.scratch("loop")
    try:
        with session.progress.bar("closing the loop on the target", ROUNDS) as bar:
            for i in range(ROUNDS):
                result = _search(session, subject, scores, searcher, budget, tried)
                if result is None:
                    rounds[-1] = rounds[-1].model_copy(
                        update={"note": "no plan is faster: the search stops here"}
                    )
                    break
                ratio = _measure(session, subject, dense, outputs, result, folder / f"{i}.onnx")
                tried.append((result.budget / dense_ms, ratio, result))
                landed = on_target(ratio, target)
                rounds.append(
                    Round(
                        budget_ms=result.budget,
                        predicted_ms=table.predict_ms(subject.sites, result.counts),
                        measured_ratio=ratio,
                        note="on target"
                        if landed
                        else "too slow"
                        if ratio > target
                        else "too near to the target"
                        if ratio > target - NEAR
                        else "faster than asked",
                    )
                )
                bar.advance()
                if landed:
                    break
                budget = corrected(tried, aim(session.recipe)) * dense_ms
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    below = [t for t in tried if t[1] <= target - NEAR] or [t for t in tried if t[1] <= target]
    _, _, best = max(below, key=lambda t: t[1]) if below else min(tried, key=lambda t: t[1])
    return best, rounds


def _search(session, subject, scores, searcher, budget, tried) -> SearchResult | None:
    try:
        return searcher(subject.sites, scores, budget)
    except InfeasibleError:
        if (
            not tried
        ):  # the aim lies a little below the target: the target itself may be within reach
            return searcher(
                subject.sites, scores, budget * session.recipe.budget.latency / aim(session.recipe)
            )
        return None  # an earlier round was feasible: the gate says how near it came


def _measure(
    session: Session, subject: Subject, dense: Baseline, outputs, result: SearchResult, file: Path
) -> float:
    plan = Plan.of(subject.sites, result.kept)
    export_model(session, subject, shrink(subject.model, subject.sites, plan), file, outputs, plan)
    engine = session.build(file)
    try:
        part = measure_pair(
            session.runtime,
            dense.engine,
            engine,
            session.workload,
            inputs=subject.inputs,
            seed=session.recipe.seed,
            min_seconds=ROUND_SECONDS,
        )
    finally:
        engine.close()
        file.unlink(missing_ok=True)
    return part.ratio


def corrected(tried: list[tuple[float, float, SearchResult]], aim: float) -> float:
    """The budget share that should land on `aim`: proportional at first, then along the line
    through two tries."""
    (b1, r1, _) = tried[-1]
    guess = b1 * aim / r1
    if len(tried) > 1:
        (b0, r0, _) = tried[-2]
        slope = (r1 - r0) / (b1 - b0) if b1 != b0 else 0.0
        if 0.3 < slope < 3:  # a line through noise says nothing
            guess = b1 + (aim - r1) / slope
    return min(max(guess, 0.01), 0.999)
