"""Score: how much each unit matters; and the searchers that spend a budget on it."""

from __future__ import annotations

from dataclasses import replace

from rfx.core.device import on_best_device
from rfx.core.registry import code_of, find
from rfx.cost.base import ComputedCost
from rfx.cost.flops import FlopsCost
from rfx.cost.restricted import Restriction
from rfx.evidence.records import SearchPart
from rfx.methods.build import Method, build
from rfx.methods.scores.base import Scores
from rfx.methods.search.problem import SearchResult
from rfx.models.subject import Subject
from rfx.pipeline.session import Session
from rfx.recipe.spec import Recipe
from rfx.tasks.calibration import features_hash
from rfx.tasks.examples import Examples

VERSION = 4  # of the scoring: scores of another are not taken from the store


def method_of(recipe: Recipe, examples: Examples) -> Method:
    """The recipe's method, built."""
    method = build(recipe.method, seed=recipe.seed, labelled=examples.labelled)
    return replace(method, restriction=restriction_of(recipe))


def restriction_of(recipe: Recipe) -> Restriction:
    """What the recipe forbids the search to choose."""
    return Restriction(tuple(recipe.sites.freeze), recipe.sites.whole)


def score(session: Session, recipe: Recipe, subject: Subject, examples: Examples) -> Scores:
    """Scores of every unit, from the store where the same model, examples and scorer have been
    scored before."""
    spec = recipe.method
    facts = [
        VERSION,
        "scores",
        subject.hash,
        features_hash(examples.calibration_features),
        spec.scorer,
        spec.gradients,
        recipe.calibration.batch,
        recipe.seed,
        examples.task.name,
        examples.labelled,
        spec.scorer_options,
    ]
    sites = [site.to_json() for site in subject.sites]  # as the family read them
    own = codes(recipe, scorer=spec.scorer, task=examples.task.name)
    key = session.store.key(*facts, sites, *own)
    with session.stage("score") as clock:
        stored = session.store.get_arrays("scores", key)
        if stored is not None:
            clock.cached = True
            return Scores.from_arrays(stored)
        with on_best_device(subject.model):
            scores = method_of(recipe, examples).scorer.score(
                subject.model,
                subject.sites,
                examples.batches(recipe.calibration.batch),
                examples.task,
                progress=session.progress,
            )
        session.store.put_arrays("scores", key, scores.to_arrays())
        return scores


def codes(recipe: Recipe, **parts: str) -> list[str]:
    """What a stored result depends on where parts of other packages made it, whose code may change
    under one name: of these `parts` by kind, and of what writes the file."""
    found = {"exporter": recipe.exporter, "precision": recipe.workload.precision, **parts}
    return [code for kind, name in found.items() if (code := code_of(kind, name))]


def flops_cost(subject: Subject, examples: Examples) -> FlopsCost:
    """MACs of the prunable sublayers at the mean length of a calibration example (Kwon et al. 2022
    use the task's)."""
    return FlopsCost(subject.hidden, examples.mean_tokens)


def computed_cost(recipe: Recipe, subject: Subject, examples: Examples) -> ComputedCost:
    """The cost that the recipe's budget is a share of, where it is computed and not measured."""
    unit = recipe.budget.unit
    made: ComputedCost = find("cost", str(unit)).of_model(
        hidden=subject.hidden, tokens=examples.mean_tokens
    )
    return made


def search_part(result: SearchResult, unit: str) -> SearchPart:
    """What the evidence says of a search; `unit` of the budget, e.g. "ms"."""
    return SearchPart(
        method=result.method,
        budget=result.budget,
        budget_unit=unit,
        value_kept=result.value_share,
        optimality_gap=result.optimality_gap,
        price=result.price,
        importance_total=result.importance_total,
    )
