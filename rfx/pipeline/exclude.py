"""Sites that are kept in fp32 because a limit is not kept with them quantized.

It happens only where quantizing is to blame: the loss by it is above `--max-quantization-loss`, or
accuracy or agreement fail quantized and pass in fp32. Then the site that costs most for what it
saves leaves the integers, the closed loop finds the budget again, because latencies of mixed models
do not add up, and the model is finished anew. The evaluation set says whether a limit is kept;
which site leaves is decided on calibration examples alone.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from rfx.core.errors import InfeasibleError
from rfx.core.plan import FULL
from rfx.evidence.gates import accuracy_gate, agreement_gate, loses_too_much
from rfx.evidence.records import AccuracyPart, BySite, Excluded, Gate
from rfx.measure.latency import measure_pair
from rfx.pipeline import judge
from rfx.pipeline.attempt import Attempt, Job, Planned, attempt, planned
from rfx.pipeline.dense import workload_of
from rfx.pipeline.losses import Mixture, built, by_site
from rfx.recipe.spec import Recipe

MOST = 4  # sites that are kept in fp32 without being asked for
SECONDS = 1.0  # of timing a file without one quantized site, at least
SHARE = 0.25  # of the largest loss by a site: one that loses less would hardly help
RESOLUTION = 0.005  # of the latency: a smaller saving cannot be told from none


def with_kept(recipe: Recipe, excluded: Iterable[Excluded]) -> Recipe:
    """The recipe that keeps these sites in fp32 too."""
    sites = (*recipe.quantization.keep_fp32, *(x.site for x in excluded))
    return recipe.changed({"quantization.keep_fp32": sites}, origin="rfx, by a gate")


def exclude(job: Job, first: Attempt, folder: Path) -> Attempt:
    """The attempt that keeps its limits, with as few sites in fp32 as it takes; where none does,
    the one of the fewest losses. Its files are in `folder`, and its engines open."""
    best = current = first
    while (why := reasons(job, current)) and len(current.excluded) < MOST:
        if job.session.target.absent:
            job.session.warn(
                f"Quantizing fails a limit ({', '.join(why)}). Which site to keep in fp32 is "
                "decided by measured latencies, and the target is not here: give --keep-fp32."
            )
            break
        current = _looked_at(job, current)
        best = current if best.excluded == current.excluded else best
        chosen = _choose(job, current, why)
        if chosen is None:
            break
        excluded = (*current.excluded, chosen)
        job.session.note(
            f"{chosen.site} is kept in fp32: {', '.join(why)} fails with it quantized, and it "
            f"loses {chosen.divergence:.2g} for {chosen.saved_ms:.3g} ms"
        )
        recipe = with_kept(first.recipe, excluded)
        try:
            # What is counted in units does not depend on the precision of a site.
            counted = recipe.budget.latency is None and recipe.budget.size is None
            if not counted:
                job.session.expect(_SEARCH + recipe.method.polish + recipe.method.guard)
            plan = first.planned if counted else planned(job, recipe)
        except InfeasibleError:
            job.session.note("no plan reaches the budget with it in fp32")
            break
        current = _again(job, recipe, plan, current, folder, excluded)
        if _loss(current) < _loss(best):
            best = current
    if best is not current and best.excluded != current.excluded:
        best = _again(job, best.recipe, best.planned, current, folder, best.excluded)
    if best.excluded:
        best = _looked_at(job, best)
        job.session.warn(_said(best))
    return best


def reasons(job: Job, made: Attempt) -> list[str]:
    """Which limits are not kept because of quantizing."""
    if made.quantized is None:
        return []
    found = ["quantization"] if loses_too_much(made.quantized.part) else []
    failed = [g for g in _gates(made.recipe, made.accuracy) if g.outcome == "fail"]
    if failed:
        plain = judge.compared(made.recipe, job.examples, job.before, made.quantized.between)
        passed = {g.name for g in _gates(made.recipe, plain) if g.outcome == "pass"}
        found += [g.name for g in failed if g.name in passed]
    return found


# Stages, beside those of the job: search and compensation; export, engine, accuracy, beside fp32.
_SEARCH, _MAKE = 2, 4


def _gates(recipe: Recipe, part: AccuracyPart) -> tuple[Gate, Gate]:
    return accuracy_gate(part, recipe.limits.max_drop), agreement_gate(part)


def _loss(made: Attempt) -> tuple[int, float]:
    """How many limits fail, and how far the outputs are from the dense model's."""
    assert made.quantized is not None
    fails = [g.outcome == "fail" for g in _gates(made.recipe, made.accuracy)]
    part = made.accuracy
    far = part.drop if part.divergence is None else part.divergence
    return sum(fails) + loses_too_much(made.quantized.part), far if math.isfinite(far) else math.inf


def _looked_at(job: Job, made: Attempt) -> Attempt:
    """The same, with what quantizing costs by site."""
    if made.quantized is None or made.quantized.part.by_site is not None:
        return made
    job.session.expect(1)
    pruned, part = made.pruned, made.quantized.part
    losses = by_site(
        job.session,
        made.recipe,
        made.subject,
        job.examples.served,
        part.sites,
        (pruned.proved, pruned.proved_engine),
        (pruned.artefact, pruned.engine),
    )
    known = replace(made.quantized, part=part.model_copy(update={"by_site": losses}))
    return replace(made, quantized=known)


def _choose(job: Job, made: Attempt, why: list[str]) -> Excluded | None:
    """The site with the largest loss for each millisecond that quantizing it saves; None where no
    site is left, or they cannot be told apart."""
    assert made.quantized is not None
    losses: BySite | None = made.quantized.part.by_site
    if losses is None or len(losses.sites) < 2:  # with the last one nothing would be quantized
        return None
    most = max(row.divergence for row in losses.sites)
    rows = [row for row in losses.sites if row.divergence >= SHARE * most and row.divergence > 0]
    pruned, session = made.pruned, job.session
    session.expect(1)
    with session.stage("what each site saves"):
        mixture = Mixture.of(
            made.subject, made.quantized.part.sites, pruned.proved, pruned.artefact
        )
        if mixture is None:
            return None
        found = []
        for row in rows:
            with built(session, made.recipe, mixture.without(row.site)) as other:
                pair = measure_pair(
                    session.target.here,
                    pruned.engine,
                    other,
                    workload_of(made.recipe, FULL),
                    inputs=made.subject.as_served.inputs,
                    seed=made.recipe.seed + 3,
                    min_seconds=SECONDS,
                    max_seconds=SECONDS,
                )
            saved = max(pair.pruned_ms - pair.dense_ms, RESOLUTION * pair.dense_ms)
            found.append(
                Excluded(site=row.site, why=why, divergence=row.divergence, saved_ms=saved)
            )
    return max(found, key=lambda x: x.divergence / x.saved_ms, default=None)


def _again(
    job: Job,
    recipe: Recipe,
    plan: Planned,
    last: Attempt,
    folder: Path,
    excluded: tuple[Excluded, ...],
) -> Attempt:
    """Another model in the place of the last one."""
    last.close()
    job.session.expect(_MAKE + recipe.quantization.by_site)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return attempt(job, recipe, plan, folder, excluded)


def _said(made: Attempt) -> str:
    one = len(made.excluded) == 1
    sites = ", ".join(x.site for x in made.excluded)
    why = dict.fromkeys(reason for x in made.excluded for reason in x.why)
    named = {"quantization": "the loss by quantizing", "accuracy": "accuracy"}
    limits = " and ".join(named.get(reason, reason) for reason in why)
    return (
        f"The site{'' if one else 's'} {sites} {'is' if one else 'are'} kept in fp32, because "
        f"{limits} did not keep {'its limit' if len(why) == 1 else 'their limits'} with "
        f"{'it' if one else 'them'} quantized."
    )
