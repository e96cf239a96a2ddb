"""Sublayer by sublayer from the first (K-prune, Park, Choi and Kang 2024, Algorithm 1): score what
is left on the student as it now is, search under the budget that is left, take this sublayer's part
of the answer, compensate, go on.

The scores of the sublayers above decide how much of the budget this one deserves.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rfx.core.plan import Choice, Site
from rfx.core.registry import register
from rfx.methods.schedule.base import Ground, Outcome, Schedule, plan_of, require_on_the_way
from rfx.methods.scores.base import Scores
from rfx.methods.search.problem import SearchResult
from rfx.models.streams import Resumed

HAIR = 1e-12  # of the budget: what sums of costs in another order may differ by


@register("schedule", "sequential")
class Sequential(Schedule):
    name = "sequential"
    searches_again = True
    decides_on_the_way = True

    def run(self, ground: Ground, scores: Scores, result: SearchResult) -> Outcome:
        require_on_the_way(self.name, ground.compensator)
        searcher, sites = ground.searcher, list(ground.sites)
        spent = 0.0
        kept: dict[str, tuple[int, ...]] = {}
        chosen: dict[str, Choice] = {}
        ground.scorer.watch(ground.model, ground.batches, ground.task)

        def decide(site: Site, resumed: Resumed) -> np.ndarray:
            nonlocal spent
            number = sites.index(site)
            rest = sites[number:]
            now = scores if number == 0 else ground.score(rest, resumed)
            # The hair: the last plan's rest must fit in spite of rounding.
            found = searcher(rest, now, result.budget * (1 + HAIR) - spent)
            chosen[site.name] = found.choices[site.name]
            kept[site.name] = tuple(
                ground.refined({site.name: found.kept[site.name]}, now)[site.name]
            )
            spent += searcher.cost.of(site, chosen[site.name])
            return np.isin(np.arange(site.units), kept[site.name]).astype(np.float64)

        done = ground.fit(decide, scores)
        cost = searcher.cost.fixed + spent
        plan = plan_of(sites, kept, replace(result, choices=chosen, cost=cost))
        return Outcome(plan, done.update, done.sites)
