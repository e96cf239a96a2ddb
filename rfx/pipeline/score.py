"""Score and search: how much each unit matters, and which counts fit the budget."""

from __future__ import annotations

import dataclasses
import math

from rfx.core.device import on_best_device
from rfx.core.plan import Plan
from rfx.cost.flops import FlopsCost
from rfx.evidence.records import SearchPart
from rfx.methods.build import Method, build
from rfx.methods.schedule.base import plan_of
from rfx.methods.scores.base import Scores
from rfx.methods.search.problem import SearchResult
from rfx.pipeline.examples import Examples, Subject
from rfx.pipeline.session import Session
from rfx.recipe.spec import Recipe
from rfx.tasks.calibration import Batches, features_hash

VERSION = 3  # of the scoring: scores of another are not taken from the store


def batches(session: Session, examples: Examples) -> Batches:
    """The calibration examples as batches of (inputs, targets) tensors, dynamic padding, in a fixed
    order."""
    return Batches(examples.task, examples.calibration_features, session.recipe.calibration.batch)


def method_of(recipe: Recipe, examples: Examples) -> Method:
    """The recipe's method, built for these examples."""
    return build(recipe.method, seed=recipe.seed, labelled=examples.labelled)


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
            scores = method_of(session.recipe, examples).scorer.score(
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


def refined_plan(
    session: Session, subject: Subject, method: Method, scores: Scores, result: SearchResult
) -> Plan:
    """The plan of searched counts without any compensation: which units stay, by the method's
    refinement."""
    with session.stage("rearrange"):
        return plan_of(subject.sites, method.refiner(result.kept, scores), result)


def flops_cost(subject: Subject, examples: Examples) -> FlopsCost:
    return FlopsCost(subject.hidden, sequence_of(examples))


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
