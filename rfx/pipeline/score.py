"""Score and search: how much each unit matters, and which counts fit the budget."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rfx.core.device import on_best_device
from rfx.core.errors import UsageError
from rfx.core.plan import Counts, Plan, Site
from rfx.cost.flops import flops, unit_costs
from rfx.cost.table import LatencyTable
from rfx.evidence.records import SearchPart
from rfx.methods.schedule.base import plan_of
from rfx.methods.scores.base import Scorer, Scores
from rfx.methods.scores.find import scorer
from rfx.methods.search.find import search
from rfx.methods.search.interaction import joint_values
from rfx.methods.search.problem import Problem, SearchResult
from rfx.methods.search.rearrange import refined
from rfx.pipeline.examples import Examples, Subject
from rfx.pipeline.session import Session
from rfx.recipe.spec import Recipe
from rfx.tasks.calibration import Batches, features_hash

FLOPS_GRID = 8  # filters
RECIPES_OWN = {
    "seed",
    "per",
    "tokens_per_pass",
}  # options of a scorer that a recipe says elsewhere, or not at all
VERSION = 3  # of the scoring: scores of another are not taken from the store


def batches(session: Session, examples: Examples) -> Batches:
    """The calibration examples as batches of (inputs, targets) tensors, dynamic padding, in a fixed
    order."""
    return Batches(examples.task, examples.calibration_features, session.recipe.calibration.batch)


def make_scorer(recipe: Recipe, labelled: bool = True) -> Scorer:
    """The recipe's scorer with its options; the Fisher information of the model's own predictions
    where nothing is labelled.

    Raises:
        UsageError: an option that the scorer does not have.
    """
    method = recipe.method
    cls = scorer(method.scorer)
    known = {
        n for n, p in inspect.signature(cls.__init__).parameters.items() if p.kind is p.KEYWORD_ONLY
    } - RECIPES_OWN
    strange = set(method.scorer_options) - known
    if strange:
        raise UsageError(
            f"The scorer {method.scorer!r} does not take this option.",
            got=", ".join(sorted(strange)),
            allowed=", ".join(sorted(known)) or "no options",
            next_step="correct method.scorer_options",
        )
    options = {"per": method.gradients, "seed": recipe.seed, **method.scorer_options}
    if not labelled and method.scorer == "fisher":
        if method.scorer_options.get("loss") == "label":
            raise UsageError(
                "The Fisher information of the labels' loss needs labels.",
                got="calibration examples without any",
                allowed="loss: predictive, which needs none",
                next_step="leave method.scorer_options.loss out, or give a labelled --train",
            )
        options["loss"] = "predictive"
    return cls(**options)


def score(session: Session, subject: Subject, examples: Examples) -> Scores:
    """Scores of every unit, from the store where the same model, examples and scorer have been
    scored before."""
    method = session.recipe.method
    key = session.store.key(
        VERSION,
        "scores",
        subject.hash,
        features_hash(examples.calibration_features),
        method.scorer,
        method.gradients,
        session.recipe.calibration.batch,
        session.recipe.seed,
        examples.task.name,
        examples.labelled,
        method.scorer_options,
    )
    with session.stage("score") as clock:
        stored = session.store.get_arrays("scores", key)
        if stored is not None:
            clock.cached = True
            parts: dict[str, dict] = {f.name: {} for f in dataclasses.fields(Scores)}
            for name, array in stored.items():
                part, site = name.split("/", 1)
                parts[part][site] = array
            return Scores(**parts)
        with on_best_device(subject.model):
            scores = make_scorer(session.recipe, examples.labelled).score(
                subject.model,
                subject.sites,
                batches(session, examples),
                examples.task,
                progress=session.progress,
            )
        session.store.put_arrays(
            "scores",
            key,
            {
                f"{f.name}/{site}": array
                for f in dataclasses.fields(Scores)
                for site, array in getattr(scores, f.name).items()
            },
        )
        return scores


def _values(recipe: Recipe, sites: list[Site], scores: Scores):
    """What each count is worth with interactions; None where the search goes by single units."""
    method = recipe.method
    return (
        joint_values(sites, scores)
        if method.interactions == "block" and method.search == "knapsack" and scores.gradients
        else None
    )


def refined_plan(session: Session, subject: Subject, scores: Scores, result: SearchResult) -> Plan:
    """The plan of searched counts without any compensation: which units stay, by the recipe's
    rearrangement."""
    with session.stage("rearrange"):
        return plan_of(
            subject.sites, refined(result.kept, scores, session.recipe.method.refine), result
        )


@dataclass(frozen=True)
class LatencySearcher:
    """The plan of greatest kept importance whose predicted latency is within a budget in ms."""

    recipe: Recipe
    table: LatencyTable

    unit: ClassVar = "ms"

    def __call__(self, sites: Sequence[Site], scores: Scores, budget: float) -> SearchResult:
        problem = Problem.from_table(
            sites, scores, self.table, values=_values(self.recipe, sites, scores)
        )
        return search(self.recipe.method.search)(problem, budget)

    def cost(self, site: Site, count: int) -> float:
        return self.table.choices(site.kind)[count]

    def dense(self, sites: Sequence[Site]) -> float:
        return self.table.predict_ms(sites, dense_counts(sites))

    def share(self, sites: Sequence[Site], counts: Counts) -> float:
        """Predicted latency of all the model's sites as a share of the dense model's."""
        return self.table.predict_ms(sites, counts) / self.dense(sites)


@dataclass(frozen=True)
class FlopsSearcher:
    """The same for MACs of the prunable sublayers at `sequence` tokens.

    With every unit on its own, one price a kind makes Algorithm 1 of Kwon et al. exact, whatever
    search is named. With interactions or an order of removal it is a knapsack, over filter counts
    in steps of 8.
    """

    recipe: Recipe
    hidden: int
    sequence: float

    unit: ClassVar = "flops"

    def __call__(self, sites: Sequence[Site], scores: Scores, budget: float) -> SearchResult:
        costs = unit_costs(sites, self.sequence, self.hidden)
        values = _values(self.recipe, sites, scores)
        if values is None and not scores.orders:
            return search("enumeration")(Problem.from_unit_costs(sites, scores, costs), budget)
        return search("knapsack")(
            Problem.from_unit_costs(sites, scores, costs, filter_grid=FLOPS_GRID, values=values),
            budget,
        )

    def cost(self, site: Site, count: int) -> float:
        return unit_costs([site], self.sequence, self.hidden)[site.name] * count

    def dense(self, sites: Sequence[Site]) -> float:
        return flops(sites, dense_counts(sites), self.sequence, self.hidden)

    def share(self, sites: Sequence[Site], counts: Counts) -> float:
        """MACs as a share of the dense model's."""
        return flops(sites, counts, self.sequence, self.hidden) / self.dense(sites)


def dense_counts(sites: Sequence[Site]) -> Counts:
    return {s.name: s.units for s in sites}


def flops_searcher(session: Session, subject: Subject, examples: Examples) -> FlopsSearcher:
    return FlopsSearcher(session.recipe, subject.hidden, sequence_of(examples))


def sequence_of(examples: Examples) -> float:
    """Mean tokens of a calibration example: the sequence length of the FLOPs budget (Kwon et al.
    use the task's)."""
    return math.fsum(f.tokens for f in examples.calibration_features) / len(
        examples.calibration_features
    )


def search_part(result: SearchResult, unit: str) -> SearchPart:
    """What the evidence says of a search; `unit` of the budget, "ms" or "flops"."""
    return SearchPart(
        method=result.method,
        budget=result.budget,
        budget_unit=unit,
        value_kept=result.value_share,
        optimality_gap=result.optimality_gap,
        price=result.price,
    )
