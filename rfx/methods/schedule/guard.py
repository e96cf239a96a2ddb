"""The last word on a compensation: what lowers the error inside must lower the error of the output.

A fit of the bias alone can halve the error of every residual stream and ruin the model; only the
output tells. The examples are those that judged each site's fit (scales never see them; a
projection's last fit, its ridge once chosen, does), so what is checked is that the inner errors did
not mislead, not what new examples would show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rfx.core.plan import Update
from rfx.methods.compensate.walk import HELD_OUT
from rfx.methods.schedule.base import Ground, Outcome
from rfx.methods.scores.divergence import collect_outputs, mean_divergence
from rfx.models.student import as_student


@dataclass(frozen=True)
class Guarded:
    """Mean divergence from the dense model (KL, or squared error of a regression) on every fifth
    example, with the masks alone and with the update; None where there is no update."""

    outcome: Outcome
    divergence_before: float | None = None
    divergence_after: float | None = None


def guard(ground: Ground, outcome: Outcome) -> Guarded:
    """The outcome, without its update where the divergence of the output on every fifth example
    does not fall."""
    update = outcome.update
    if not (update.scales or update.weights or update.biases):
        return Guarded(outcome)
    before, after = divergences(ground, outcome, (None, update))
    return Guarded(outcome if after < before else outcome.dropping_update(), before, after)


def divergences(ground: Ground, outcome: Outcome, updates: Sequence[Update | None]) -> list[float]:
    """Mean divergence of the output from the dense model's under the outcome's plan, with each of
    the updates in place, on every fifth example; on all where there are fewer than five."""
    some = ground.batches.only(lambda number: number % HELD_OUT == HELD_OUT - 1)
    some = some if len(some) else ground.batches
    teacher = collect_outputs(ground.model, some, ground.task)
    student = outcome.model or ground.model
    found = []
    for update in updates:
        with as_student(student, ground.sites, outcome.plan, update):
            found.append(mean_divergence(student, some, teacher, ground.task))
    return found
