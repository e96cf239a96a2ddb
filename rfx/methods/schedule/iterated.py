"""In rounds: prune a part of the way, compensate, score the student, and go on from there.

Each round's plan lies within the one before (what is pruned costs nothing to prune again), and each
round's compensation starts from the dense weights.
"""

from __future__ import annotations

from typing import Any

from rfx.core.errors import InfeasibleError
from rfx.core.registry import register
from rfx.methods.schedule.base import Ground, Outcome, Schedule, plan_of
from rfx.methods.scores.base import Scores
from rfx.methods.search.problem import SearchResult
from rfx.methods.search.refine import Kept
from rfx.models.student import as_student


@register("schedule", "iterated")
class Iterated(Schedule):
    """Args:
    rounds: 2 to 4 are worth it; the budgets fall geometrically.
    """

    name = "iterated"
    searches_again = True

    def __init__(self, *, rounds: int = 2, **_: Any):
        self.rounds = rounds

    def run(self, ground: Ground, scores: Scores, result: SearchResult) -> Outcome:
        dense, budget = ground.searcher.cost.dense(ground.sites), result.budget
        ground.scorer.watch(ground.model, ground.batches, ground.task)
        outcome: Outcome | None = None
        for number in range(1, self.rounds + 1):
            part = dense * (budget / dense) ** (number / self.rounds)
            if outcome is not None:
                with as_student(ground.model, ground.sites, outcome.plan, outcome.update):
                    scores = ground.score()
            try:
                found = ground.searcher(ground.sites, scores, part)
            except InfeasibleError:
                # A share of a sublayer more or less: the last budget is the one that counts.
                if number == self.rounds:
                    raise
                continue
            outcome = self._round(ground, scores, found, outcome)
        assert outcome is not None  # the last round gave one or raised
        return outcome

    def _round(
        self, ground: Ground, scores: Scores, found: SearchResult, before: Outcome | None
    ) -> Outcome:
        kept: Kept = found.kept
        among: Kept | None = None
        if before is not None:
            # What is gone costs nothing and is worth nothing: neither search nor swap may bring it
            # back.
            among = {s.name: s.kept for s in before.plan.sites}
            kept = {
                name: tuple(u for u in units if u in among[name]) for name, units in kept.items()
            }
        plan = plan_of(ground.sites, ground.refined(kept, scores, among), found)
        done = ground.compensate(plan, scores)
        return Outcome(plan, done.update, done.sites)
