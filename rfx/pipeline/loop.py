"""Close the loop: latency depends on the counts alone, so they are built and timed before any
compensation.

The searched counts are shrunk, exported and timed against the dense baseline; the budget is
corrected in either direction and the search is made again. Of the results that keep the target, the
one that loses the least importance goes on: their measurements differ by noise too.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from rfx.core.errors import InfeasibleError
from rfx.core.plan import Plan
from rfx.cost.latency_cost import LatencyCost
from rfx.cost.table import LatencyTable
from rfx.evidence.records import Round, SearchPart, SizeRound, TablePart
from rfx.evidence.report.facts import round_text
from rfx.measure.latency import measure_pair
from rfx.methods.build import Method
from rfx.methods.schedule.base import plan_of
from rfx.methods.scores.base import Scores
from rfx.methods.search.problem import SearchResult
from rfx.methods.search.searcher import Searcher
from rfx.models.shrink import shrink
from rfx.models.subject import Subject
from rfx.pipeline.dense import Baseline, export_model, workload_of
from rfx.pipeline.noise import noise_ms, steadiness
from rfx.pipeline.quantizing import for_timing
from rfx.pipeline.score import computed_cost, method_of, search_part
from rfx.pipeline.session import Session
from rfx.pipeline.size import close_on_size, file_cost, is_of_file
from rfx.pipeline.table import Tables, table_part
from rfx.recipe.spec import Recipe
from rfx.tasks.examples import Examples

ROUNDS = 3
ROUND_SECONDS = 3.0  # of timing, at least
LANDING = 0.04  # a finished engine should land in [target - LANDING, target]
WINDOW = 0.035  # so the loop ends only this near: a measurement of its own will differ a little
AIM = 0.02  # below the target: the final interval has to lie under it, in a measurement of its own
ALLOWED = 4  # of that distance, this part at most for plans that the table cannot tell apart
SCALED_BELOW = 0.5  # these distances are of targets from here on; below they shrink with it
NEAR = AIM / 2  # this near to the target, another measurement may well lie above it
# What became of a round, as it stands in the evidence.
ON_TARGET, TOO_SLOW = "on target", "too slow"
TOO_NEAR, TOO_FAST = "too near to the target", "faster than asked"
NO_FASTER = "no plan is faster: the search stops here"
WHOLE = "nothing has to be pruned"


@dataclass(frozen=True)
class Found:
    """The counts of a budget, what found them, and what the evidence says of that; `table` is None
    where latency is not what is budgeted, `rounds` has the turns of a loop on a size."""

    result: SearchResult
    searcher: Searcher
    search: SearchPart
    table: TablePart | None = None
    anchored: float = 1.0  # see `anchored_at`
    rounds: tuple[SizeRound, ...] = ()

    def predicted_bytes(self, plan: Plan) -> float | None:
        """A plan's size as it is computed; None under another budget."""
        cost = self.searcher.cost
        if not self.rounds:
            return None
        return cost.predict(plan.sites, plan.choices(cost.precision))

    def predicted_ratio(self, plan: Plan) -> float | None:
        """A plan's predicted latency as a share of the dense model's; None without a table."""
        if self.table is None:
            return None
        return self.anchored * self.searcher.cost.share_of(plan)


def search_counts(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    examples: Examples,
    scores: Scores,
    dense: Baseline,
    tables: Tables,
    quantized: Baseline | None = None,
) -> Found:
    """The counts of the recipe's budget: by the latency table and the closed loop, by the size of
    the file and a loop of its own, or by a cost that is computed.

    Args:
        quantized: the dense model at the recipe's precision, where that is a quantized one.

    Raises:
        InfeasibleError: no plan reaches the budget.
        FixedPartError: what cannot be pruned is larger than a size that was asked for.
    """
    method = method_of(recipe, examples)
    if is_of_file(recipe):
        names = examples.task.graph_outputs()
        with session.stage("search and closed loop"):
            cost = file_cost(session, recipe, subject, names, dense, quantized)
            searcher = method.searcher(cost)
            turns: list[SizeRound] = []
            if recipe.budget.size_bytes is None:  # of another package, and a share as others are
                budget = recipe.budget.within(cost.dense(subject.sites))
                result = searcher(subject.sites, scores, budget)
            else:
                result, turns = close_on_size(session, recipe, subject, scores, searcher, names)
        part = _of_the_plan(method, search_part(result, cost.unit))
        return Found(result, searcher, part, rounds=tuple(turns))
    if recipe.budget.latency is None:
        searcher = method.searcher(computed_cost(recipe, subject, examples))
        with session.stage("search"):
            budget = recipe.budget.within(searcher.cost.dense(subject.sites))
            result = searcher(subject.sites, scores, budget)
        return Found(
            result, searcher, _of_the_plan(method, search_part(result, searcher.cost.unit))
        )
    outputs = examples.task.graph_outputs()
    at, priced = tables.of(session, recipe, dense, quantized)
    table, cached = tables.get(session, at, subject, priced, outputs)
    if tables.share is None:
        tables.share = anchored_at(session, recipe, subject, dense, quantized)
    anchored = tables.share
    searcher = method.searcher(LatencyCost(table))
    with session.stage("search and closed loop"):
        result, rounds = close_loop(
            session, recipe, subject, scores, searcher, table, dense, outputs, anchored
        )
    more: dict[str, object] = {"rounds": rounds}
    steady = steadiness(searcher, table, subject.sites, scores, result, seed=recipe.seed)
    if steady is not None:
        more |= {"stability": steady.share, "value_kept_within_noise": steady.band}
    said = _of_the_plan(method, search_part(result, "ms"))
    return Found(
        result,
        searcher,
        said.model_copy(update=more),
        table_part(table, cached),
        anchored,
    )


def anchored_at(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    dense: Baseline,
    quantized: Baseline | None,
) -> float:
    """Latency of the dense model that the table speaks of, as a share of that which budgets are
    shares of: 1, but where the loop times quantized models, of whose speed-up a table of fp32
    models knows nothing."""
    if quantized is None or session.target.absent:
        return 1.0
    part = measure_pair(
        session.target.here,
        dense.engine,
        quantized.engine,
        workload_of(recipe),
        inputs=subject.inputs,
        seed=recipe.seed,
        min_seconds=ROUND_SECONDS,
    )
    session.note(
        f"the dense model at {recipe.workload.precision} takes {part.ratio:.3f} of its latency in "
        "fp32"
    )
    return part.ratio


def _of_the_plan(method: Method, part: SearchPart) -> SearchPart:
    """Without what holds for the first search alone, where the schedule searches again."""
    if not method.schedule.searches_again:
        return part
    return part.model_copy(update={"value_kept": None, "optimality_gap": None, "price": None})


def on_target(ratio: float, target: float) -> bool:
    """Whether the loop may end with a measured ratio."""
    near = scale(target)
    return target - WINDOW * near <= ratio <= target - NEAR * near


def aim_at(target: float) -> float:
    """The measured ratio to aim at for a target."""
    return target - min(AIM * scale(target), target / 4)


def scale(target: float) -> float:
    """By how much the distances to a target shrink with it: a small latency, as INT8 gives it, is
    measured as exactly as a large one, by its own measure."""
    return min(1.0, target / SCALED_BELOW)


def verdict(ratio: float, target: float) -> str:
    """What a measured ratio is beside its target."""
    if on_target(ratio, target):
        return ON_TARGET
    if ratio > target:
        return TOO_SLOW
    return TOO_NEAR if ratio > target - NEAR * scale(target) else TOO_FAST


def close_loop(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    scores: Scores,
    searcher: Searcher,
    table: LatencyTable,
    dense: Baseline,
    outputs: tuple[str, ...],
    anchored: float = 1.0,
) -> tuple[SearchResult, list[Round]]:
    """Search, build, time; correct the budget and search again, in at most three rounds.

    Args:
        searcher: the method's search under the latencies of `table`.
        anchored: see `anchored_at`.

    Returns:
        The best result, and the rounds.

    Raises:
        InfeasibleError: no plan on the table reaches the target.
    """
    target = _target(recipe)
    dense_ms = searcher.cost.dense(subject.sites) / anchored
    # Within the table's noise the plan of the least loss is taken, and the aim still holds.
    below_ms = (target - aim_at(target)) * dense_ms
    allowance = min(noise_ms(table, subject.sites), below_ms / ALLOWED)
    budget = aim_at(target) * dense_ms + allowance
    if session.target.absent:  # there is nothing to time with: the table's word is all there is
        return _first(searcher, subject, scores, budget, target * dense_ms), []
    rounds: list[Round] = []
    tried: list[tuple[float, float, SearchResult]] = []  # (budget share, measured ratio, result)
    folder = session.store.scratch("loop")
    try:
        with session.progress.bar("closing the loop on the target", ROUNDS) as bar:
            for i in range(ROUNDS):
                if tried:
                    try:
                        result = searcher(subject.sites, scores, budget)
                    except InfeasibleError:
                        # An earlier round was feasible: the gate says how near it came.
                        rounds[-1] = rounds[-1].model_copy(update={"note": NO_FASTER})
                        session.progress.note(
                            "No plan is faster than the last one: the loop ends here."
                        )
                        break
                else:
                    result = _first(searcher, subject, scores, budget, target * dense_ms)
                ratio = _measure(session, recipe, subject, dense, outputs, result, folder, i)
                tried.append(((result.budget - allowance) / dense_ms, ratio, result))
                note = verdict(ratio, target)
                whole = all(result.counts[s.name] == s.units for s in subject.sites)
                if whole and note == TOO_FAST:
                    note = WHOLE
                rounds.append(
                    Round(
                        budget_ms=result.budget,
                        predicted_ms=table.predict_ms(subject.sites, result.counts),
                        measured_ratio=ratio,
                        note=note,
                    )
                )
                bar.advance()
                budget = corrected(tried, aim_at(target)) * dense_ms + allowance
                last = note in (ON_TARGET, WHOLE) or i + 1 == ROUNDS
                session.progress.note(
                    round_text(i + 1, rounds[-1], target, None if last else budget)
                )
                if last:
                    break
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    clear = target - NEAR * scale(target)
    below = [t for t in tried if t[1] <= clear] or [t for t in tried if t[1] <= target]
    best = max(below, key=lambda t: t[2].value) if below else min(tried, key=lambda t: t[1])
    return best[2], rounds


def _target(recipe: Recipe) -> float:
    if recipe.budget.latency is None:
        raise ValueError("the closed loop needs a latency budget")
    return recipe.budget.latency


def _first(
    searcher: Searcher, subject: Subject, scores: Scores, budget: float, most: float
) -> SearchResult:
    """The first search. The aim lies a little below the target: where that is out of reach, the
    target itself, `most`, may be within it."""
    try:
        return searcher(subject.sites, scores, budget)
    except InfeasibleError:
        return searcher(subject.sites, scores, most)


def _measure(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    dense: Baseline,
    outputs: tuple[str, ...],
    result: SearchResult,
    folder: Path,
    number: int,
) -> float:
    """Measured latency of searched counts as a share of the dense model's."""
    plan, workload = plan_of(subject.sites, result.kept, result), workload_of(recipe)
    small = shrink(subject.model, subject.sites, plan)
    artefact = export_model(
        recipe,
        subject,
        small,
        folder,
        outputs,
        plan,
        name=f"{number}.onnx",
        keep_fp32=recipe.quantization.keep_fp32,
        quantizing=for_timing(session, recipe, subject),
    )
    engine = session.build(artefact, workload)
    try:
        part = measure_pair(
            session.target.here,
            dense.engine,
            engine,
            workload,
            inputs=subject.inputs,
            seed=recipe.seed,
            min_seconds=ROUND_SECONDS,
        )
    finally:
        engine.close()
        artefact.remove()
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
