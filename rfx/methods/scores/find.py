"""Scorers: how much each unit matters. A new one is a file with a class registered in `SCORERS`."""

from __future__ import annotations

from rfx.core.errors import UsageError
from rfx.methods.scores.base import Scorer, Scores
from rfx.methods.scores.fisher import Fisher
from rfx.methods.scores.kprune import KPrune
from rfx.methods.scores.magnitude import Magnitude
from rfx.methods.scores.output_metric import OutputMetric
from rfx.methods.scores.random import Random

SCORERS: dict[str, type[Scorer]] = {
    s.name: s for s in (Fisher, OutputMetric, KPrune, Magnitude, Random)
}


def scorer(name: str) -> type[Scorer]:
    """The scorer class called `name`; make it with its options, `scorer("fisher")(per="batch")`."""
    if name not in SCORERS:
        raise UsageError(
            "There is no such scorer.",
            got=name,
            allowed=", ".join(SCORERS),
            next_step="correct method.scorer",
        )
    return SCORERS[name]


__all__ = ["SCORERS", "Scorer", "Scores", "scorer"]
