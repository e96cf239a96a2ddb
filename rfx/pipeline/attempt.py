"""One finished model of a plan: made, evaluated, and quantized beside fp32. A job makes a second
one only where sites have to be kept out of quantizing (see `rfx.pipeline.exclude`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rfx.evidence.records import AccuracyPart, CompensationPart, Excluded, SiteTuning
from rfx.methods.schedule.base import Outcome
from rfx.methods.scores.base import Scores
from rfx.models.subject import Subject
from rfx.pipeline import judge, require
from rfx.pipeline.baseline import Outputs
from rfx.pipeline.compensate import compensate
from rfx.pipeline.dense import Baseline, quantizes
from rfx.pipeline.loop import Found, search_counts
from rfx.pipeline.make import Pruned, make
from rfx.pipeline.quantized import Quantized, quantization
from rfx.pipeline.quantizing import Quantizing
from rfx.pipeline.session import Session
from rfx.pipeline.table import Tables
from rfx.recipe.spec import Recipe
from rfx.tasks.examples import Examples


@dataclass(frozen=True)
class Job:
    """What all finished models of a job are made of.

    Args:
        before: the dense engine's outputs on the evaluation set.
        quantized: the dense model at the recipe's precision, where that is a quantized one.
        quantizing: what makes the served file there.
    """

    session: Session
    subject: Subject
    examples: Examples
    scores: Scores
    dense: Baseline
    before: Outputs
    tables: Tables
    quantized: Baseline | None
    quantizing: Quantizing | None


@dataclass(frozen=True)
class Planned:
    """A plan with its update, and how it was found."""

    found: Found
    outcome: Outcome
    compensation: CompensationPart
    tuning: list[SiteTuning]


@dataclass(frozen=True)
class Attempt:
    """A finished model.

    Args:
        recipe: as it was made; it keeps the sites of `excluded` in fp32 too.
        after: outputs of its engine on the evaluation set.
        excluded: the sites that rfx kept in fp32 of itself.
    """

    recipe: Recipe
    planned: Planned
    subject: Subject
    pruned: Pruned
    accuracy: AccuracyPart
    quantized: Quantized | None
    after: Outputs
    excluded: tuple[Excluded, ...] = ()

    def close(self) -> None:
        """Let go of its engines."""
        self.pruned.engine.close()
        if self.pruned.proved_engine is not self.pruned.engine:
            self.pruned.proved_engine.close()


def planned(job: Job, recipe: Recipe) -> Planned:
    """Search, close the loop and compensate.

    Raises:
        InfeasibleError: no plan reaches the budget.
    """
    found = search_counts(
        job.session,
        recipe,
        job.subject,
        job.examples,
        job.scores,
        job.dense,
        job.tables,
        job.quantized,
    )
    return Planned(
        found,
        *compensate(
            job.session,
            recipe,
            job.subject,
            job.examples,
            job.scores,
            found.result,
            found.searcher,
        ),
    )


def attempt(
    job: Job, recipe: Recipe, plan: Planned, folder: Path, excluded: tuple[Excluded, ...] = ()
) -> Attempt:
    """Make the model of a plan in `folder`, and measure what it loses."""
    session, examples, outcome = job.session, job.examples, plan.outcome
    subject = job.subject.trained(outcome.model)
    if quantizes(recipe):
        left = [s.name for s in outcome.plan.sites if s.count]
        require.something_quantized(left, recipe.quantization.keep_fp32, "sites of the plan")
    pruned = make(
        session,
        recipe,
        subject,
        examples.task.graph_outputs(),
        outcome.plan,
        outcome.update,
        folder,
        plan.found.table,
        job.quantizing,
    )
    accuracy, after = judge.accuracy(
        session, recipe, subject, examples, job.dense, pruned.engine, before=job.before
    )
    part = quantization(
        session,
        recipe,
        subject,
        examples,
        outcome.plan,
        (pruned.proved, pruned.proved_engine),
        (pruned.artefact, pruned.engine),
        job.before,
        after,
        "" if job.quantizing is None else job.quantizing.method,
        excluded=excluded,
    )
    return Attempt(recipe, plan, subject, pruned, accuracy, part, after, excluded)
