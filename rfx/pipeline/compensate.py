"""Refine and compensate: from searched counts to the plan and its update, in the order of the
recipe's schedule."""

from __future__ import annotations

import math

from rfx.core.device import on_best_device
from rfx.core.plan import Plan
from rfx.evidence.records import CompensationPart, SiteTuning
from rfx.methods.schedule.base import Outcome, plan_of
from rfx.methods.schedule.guard import Guarded, guard
from rfx.methods.schedule.polish import Polished, polish
from rfx.methods.scores.base import Scores
from rfx.methods.search.problem import SearchResult
from rfx.methods.search.reference import reference_teacher
from rfx.methods.search.searcher import Searcher
from rfx.models.subject import Subject
from rfx.pipeline.score import flops_cost, method_of
from rfx.pipeline.session import Session
from rfx.recipe.spec import Recipe
from rfx.tasks.examples import Examples


def refined_plan(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    examples: Examples,
    scores: Scores,
    result: SearchResult,
) -> Plan:
    """The plan of searched counts without any compensation: which units stay, by the recipe's
    rearrangement."""
    with session.stage("rearrange"):
        kept = method_of(recipe, examples).refiner(result.kept, scores)
        return plan_of(subject.sites, kept, result)


def compensate(
    session: Session,
    recipe: Recipe,
    subject: Subject,
    examples: Examples,
    scores: Scores,
    result: SearchResult,
    searcher: Searcher,
) -> tuple[Outcome, CompensationPart, list[SiteTuning]]:
    """The plan and its update. An update stays only if it brings the output nearer to the dense
    model's on every fifth example.

    Returns:
        The outcome, and what the evidence says of the compensation and of each site.
    """
    method = method_of(recipe, examples)
    flops = flops_cost(subject, examples)
    ground = method.ground(
        subject.model,
        subject.sites,
        examples.batches(recipe.calibration.batch),
        examples.task,
        searcher,
        teacher_masks=lambda plan: reference_teacher(subject.sites, scores, flops, plan),
        progress=session.progress,
    )
    with session.stage(method.compensation.verb or "rearrange"), on_best_device(subject.model):
        outcome = method.schedule.run(ground, scores, result)
    polished = Polished(outcome)
    if recipe.method.polish:
        with session.stage("polish"), on_best_device(subject.model):
            polished = polish(ground, outcome)
            outcome = polished.outcome
    guarded = Guarded(outcome)
    if recipe.method.guard:
        with session.stage("guard"), on_best_device(subject.model):
            guarded = guard(ground, outcome)
    dropped = guarded.outcome is not outcome
    if dropped:
        session.warn(_dropped(recipe, polished, guarded))
    part = CompensationPart(
        method=recipe.method.compensate,
        schedule=recipe.method.schedule,
        accepted=not dropped,
        trained=guarded.outcome.model is not None,
        divergence_before=guarded.divergence_before,
        divergence_after=guarded.divergence_after,
        polish=1.0 if dropped and polished.ratio is not None else polished.ratio,
    )
    rows = [
        SiteTuning(
            site=r.site,
            accepted=r.accepted and not dropped,
            held_out_before=_number(r.held_out_before),
            held_out_after=_number(r.held_out_after),
            ridge=r.ridge,
            reason="dropped: the output is no nearer" if r.accepted and dropped else r.reason,
        )
        for r in outcome.sites
    ]
    return guarded.outcome, part, rows


def _dropped(recipe: Recipe, polished: Polished, guarded: Guarded) -> str:
    """The warning that a compensation did not help."""
    parts = [] if recipe.method.compensate == "none" else [recipe.method.compensate]
    if polished.ratio not in (None, 1.0):
        parts.append("the polish")
    before, after = (_number(guarded.divergence_before), _number(guarded.divergence_after))
    return (
        f"What {' and '.join(parts)} fitted was dropped: on every fifth calibration example it "
        f"takes the output further from the dense model's ({before:.4g} without it, {after:.4g} "
        "with it)."
    )


def _number(value: float | None) -> float:
    """What was not measured is not a number."""
    return math.nan if value is None else value
