"""From the name of each part to the parts themselves: what a recipe calls a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.core.errors import UsageError
from rfx.core.plan import Plan, Site
from rfx.core.progress import Progress, Silent
from rfx.core.registry import find
from rfx.cost.base import Cost
from rfx.cost.restricted import NOTHING, Restriction
from rfx.methods.capable import names_with
from rfx.methods.compensate.base import Compensator
from rfx.methods.schedule.base import Ground, Schedule, require_on_the_way
from rfx.methods.scores.base import Scorer
from rfx.methods.search.base import Search
from rfx.methods.search.refine import Refiner
from rfx.methods.search.searcher import Searcher
from rfx.recipe.method import MethodSpec
from rfx.tasks.calibration import Batches

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Method:
    """The five parts of a pruning method, built; `spec` names them and has the options that are
    nobody's own (interactions, polish, guard). The search keeps to `restriction`."""

    spec: MethodSpec
    scorer: Scorer
    search: Search
    refiner: Refiner
    compensation: Compensator
    schedule: Schedule
    restriction: Restriction = NOTHING

    def searcher(self, cost: Cost) -> Searcher:
        """The method's search under a cost: (sites, scores, budget) -> SearchResult."""
        return Searcher(self.search, self.spec.interactions, cost, self.restriction)

    def ground(
        self,
        model: torch.nn.Module,
        sites: Sequence[Site],
        batches: Batches,
        task: Any,
        searcher: Searcher,
        *,
        teacher_masks: Callable[[Plan], Mapping[str, np.ndarray]] | None = None,
        progress: Progress | None = None,
    ) -> Ground:
        """What the method's schedule works with: `method.schedule.run(ground, scores, result)`.

        Args:
            model: the dense model, on the device to work on; it is left as it was.
            batches: the calibration examples.
            teacher_masks: gives 0/1 masks by site, [units], of the teacher of the reference's
                tuning (see `rfx.methods.search.reference`).
        """
        return Ground(
            model=model,
            sites=sites,
            batches=batches,
            task=task,
            scorer=self.scorer,
            searcher=searcher,
            compensator=self.compensation,
            refiner=self.refiner,
            teacher_masks=teacher_masks,
            progress=progress or Silent(),
        )


def build(spec: MethodSpec, *, seed: int, labelled: bool) -> Method:
    """The parts that a recipe names, with their options.

    Args:
        seed: of what is random in the scorer.
        labelled: whether every calibration example has its labels; without them a scorer that
            would use labels does without, or says that it cannot.

    Raises:
        UsageError: an unknown name, an option that the scorer does not have or that is out of
            range, or parts that do not go together.
    """
    method = Method(
        spec,
        _scorer(spec, seed, labelled),
        _part("search", spec.search, "search")(),
        _part("refiner", spec.refine, "refine")(),
        _part("compensation", spec.compensate, "compensate")(tuning=spec.tuning),
        _part("schedule", spec.schedule, "schedule")(rounds=spec.rounds),
    )
    if method.refiner.needs_gradients and not method.scorer.has_gradients:
        raise UsageError(
            "Rearrangement needs the gradients of every example.",
            got=f"refine: {spec.refine} with the scorer {spec.scorer!r}",
            allowed="refine: none, or one of these scorers: "
            + ", ".join(names_with("scorer", "has_gradients")),
            next_step="correct method.refine",
        )
    if method.schedule.decides_on_the_way:
        require_on_the_way(spec.schedule, method.compensation)
    return method


def check(spec: MethodSpec) -> None:
    """All that is known of a method before any work.

    Raises:
        UsageError: as `build`.
    """
    build(spec, seed=0, labelled=True)


def _part(kind: str, name: str, key: str) -> Any:
    return find(kind, name, next_step=f"correct method.{key}")


def _scorer(spec: MethodSpec, seed: int, labelled: bool) -> Scorer:
    cls: type[Scorer] = _part("scorer", spec.scorer, "scorer")
    known = cls.option_names()
    strange = sorted(set(spec.scorer_options) - set(known))
    if strange:
        raise UsageError(
            f"The scorer {spec.scorer!r} does not take this option.",
            got=", ".join(strange),
            allowed=", ".join(known) or "no options",
            next_step="correct method.scorer_options",
        )
    options: dict[str, Any] = dict(spec.scorer_options)
    if not labelled:
        options = cls.without_labels(options)
    everything: dict[str, Any] = {"per": spec.gradients, "seed": seed, **options}
    return cls(**everything)
