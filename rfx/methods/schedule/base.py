"""What a schedule works with and what it gives: the counts are proposed by a search, the plan and
its update come back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rfx.core.errors import UsageError
from rfx.core.plan import Plan, Site, Update
from rfx.core.progress import Progress, Silent
from rfx.methods.capable import names_with
from rfx.methods.compensate.base import Compensated, Compensator, Masks
from rfx.methods.compensate.walk import Decide, SiteRecord
from rfx.methods.scores.base import Scorer, Scores
from rfx.methods.search.problem import SearchResult
from rfx.methods.search.refine import Kept, NoRefinement, Refiner
from rfx.methods.search.searcher import Searcher
from rfx.tasks.calibration import Batches

if TYPE_CHECKING:
    import torch

    from rfx.models.streams import Resumed


@dataclass
class Ground:
    """A model on its device, its examples, and the parts of the method."""

    model: torch.nn.Module
    sites: Sequence[Site]
    batches: Batches
    task: Any
    scorer: Scorer
    searcher: Searcher
    compensator: Compensator
    refiner: Refiner = field(default_factory=NoRefinement)
    teacher_masks: Callable[[Plan], Mapping[str, np.ndarray]] | None = None
    progress: Progress = field(default_factory=Silent)

    def score(self, sites: Sequence[Site] | None = None, resumed: Resumed | None = None) -> Scores:
        """Scores of the model as it is now, of all sites or some."""
        return self.scorer.score(
            self.model,
            sites or self.sites,
            self.batches,
            self.task,
            progress=self.progress,
            resumed=resumed,
        )

    def refined(self, kept: Kept, scores: Scores, among: Kept | None = None) -> Kept:
        """The kept units after the method's rearrangement, which may keep none but units of
        `among`, where that is given."""
        return self.refiner(kept, scores, among)

    def compensate(self, plan: Plan, scores: Scores) -> Compensated:
        return self.fit(masks_of(plan), scores, plan)

    def fit(self, masks: Masks | Decide, scores: Scores, plan: Plan | None = None) -> Compensated:
        """The compensation of these masks; `plan` is theirs, where they are known before."""
        teacher, given = None, self.teacher_masks
        if given is not None and plan is not None:
            teacher = partial(given, plan)
        return self.compensator.fit(
            self.model,
            self.sites,
            masks,
            self.batches,
            head_positions=self.task.head_positions,
            token_weights=scores.token_weights or None,
            progress=self.progress,
            teacher_masks=teacher,
        )


@dataclass(frozen=True)
class Outcome:
    """What a schedule decided: the plan, the update that goes with it, and a record of every site
    that was fitted.

    `model` is the model in the dense model's shape that the schedule trained, whose weights plan
    and update belong to; None where it trained none, and they belong to the model it was given.
    """

    plan: Plan
    update: Update
    sites: tuple[SiteRecord, ...] = ()
    model: torch.nn.Module | None = None

    def dropping_update(self) -> Outcome:
        return replace(self, update=Update())


class Schedule(ABC):
    """In what order scoring, search, refinement and compensation take turns. A schedule may train:
    it then says so by `Outcome.model`, and leaves the model that it was given as it was.

    Options are keyword arguments of the constructor; one that a schedule has no use for is
    ignored."""

    name: ClassVar[str]
    searches_again: ClassVar[bool] = False  # whether the counts may differ from those it is given
    decides_on_the_way: ClassVar[bool] = False  # whether the compensation has to bear that

    def __init__(self, **_: Any):  # noqa: B027 - options are the subclasses'
        pass

    @abstractmethod
    def run(self, ground: Ground, scores: Scores, result: SearchResult) -> Outcome:
        """From one-shot scores of the dense model and the counts that a search found on them, at
        `result.budget`."""


def require_on_the_way(schedule: str, compensator: Compensator) -> None:
    """Raises UsageError for a compensation that needs all masks before it begins, under a schedule
    that decides them on the way."""
    if not compensator.on_the_way:
        raise UsageError(
            f"The {schedule} schedule needs a compensation that can decide on the way.",
            got=compensator.name,
            allowed=", ".join(names_with("compensation", "on_the_way")),
            next_step="correct method.compensate or method.schedule",
        )


def masks_of(plan: Plan) -> dict[str, np.ndarray]:
    """0/1 by site name, float64 [units]."""
    return {s.name: np.isin(np.arange(s.units), s.kept).astype(np.float64) for s in plan.sites}


def plan_of(sites: Sequence[Site], kept: Kept, result: SearchResult) -> Plan:
    """The plan of these units, at the precisions that the search chose where it chose among
    several."""
    precisions = {name: choice.precision for name, choice in result.choices.items()}
    return Plan.of(
        sites,
        kept,
        precisions if len(set(precisions.values())) > 1 else None,
        search=result.method,
        predicted=result.cost,
        budget=result.budget,
    )
