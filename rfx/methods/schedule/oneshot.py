"""All at once: the searched counts, rearranged, then compensated."""

from __future__ import annotations

from rfx.core.registry import register
from rfx.methods.schedule.base import Ground, Outcome, Schedule, plan_of
from rfx.methods.scores.base import Scores
from rfx.methods.search.problem import SearchResult


@register("schedule", "oneshot")
class OneShot(Schedule):
    name = "oneshot"

    def run(self, ground: Ground, scores: Scores, result: SearchResult) -> Outcome:
        plan = plan_of(ground.sites, ground.refined(result.kept, scores), result)
        done = ground.compensate(plan, scores)
        return Outcome(plan, done.update, done.sites)
