"""One step on the output itself, over the scales of all units at once.

Every site was fitted to its own residual stream, in turn; how their errors add up at the model's output none of them has
seen. To first order scales 1 + theta move the student's outputs by J theta. In the metric of the output's Fisher information
(see `rfx.scores.predictive.residual_probe`) each example gives one row j of J and one number t, what the dense model's
output differs by along it: min over theta of || J theta - t ||^2 + ridge ||theta||^2, a Gauss-Newton step on KL(dense ||
student). There are fewer examples than units, so it is solved by the Gram matrix of the rows; the ridge is chosen by
cross-validation over the examples, and where no step foretells the left-out ones, or the divergence itself does not fall, there
is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rfx.plan import Plan, Update
from rfx.schedule.base import Ground, Outcome
from rfx.schedule.guard import divergences
from rfx.scores.divergence import collect_outputs
from rfx.scores.fisher import Fisher
from rfx.scores.predictive import residual_probe
from rfx.surgery.shrink import output_weight
from rfx.surgery.student import as_student

FOLDS = 5
RIDGES = tuple(float(r) for r in 10.0 ** np.arange(-2, 3.5, 0.5))  # of the rows' mean square
ROWS = 4096  # examples at most: the Gram matrix is one of them all
TEMPERATURE = 2.0  # as the output metric's
LARGEST = 0.5  # of |theta|: a larger step is not of first order, so the ridge has to be


@dataclass(frozen=True)
class Polished:
    """`ratio` is the squared error of the left-out examples with the step, as a share of that without; None where no step
    was tried, 1 where none helped. `ridge` is a share of the rows' mean square."""

    outcome: Outcome
    ratio: float | None = None
    ridge: float | None = None


def polish(ground: Ground, outcome: Outcome) -> Polished:
    """The outcome with the step in its update. One forward pass of the dense model, and one forward and backward pass of the
    student over the calibration examples."""
    batches = ground.batches.only(lambda number: number < ROWS)
    rows = _Residuals(collect_outputs(ground.model, batches, ground.task))
    with as_student(ground.model, ground.sites, outcome.plan, outcome.update):
        gradients = rows.score(ground.model, ground.sites, batches, ground.task, progress=ground.progress).gradients
    step, ratio, ridge = ridge_step(gradients, np.concatenate(rows.targets))
    if step is None:
        return Polished(outcome, 1.0)
    update = replace(outcome.update, weights=_scaled(ground, outcome.plan, outcome.update, step))
    before, after = divergences(ground, outcome.plan, (outcome.update, update))
    if not after < before:  # the output is not linear that far
        return Polished(outcome, 1.0)
    return Polished(replace(outcome, update=update), ratio, ridge)


class _Residuals(Fisher):
    """Rows of J by site, [examples, units], and the `targets`."""

    def __init__(self, teacher: Sequence[Mapping[str, Any]]):
        super().__init__()
        self._teacher, self.targets = teacher, []

    def beside(self, number, targets):
        return self._teacher[number]

    def scalars(self, outputs, inputs, beside, task, generator):
        scalar, target = residual_probe(outputs, inputs, task.output_names, generator, beside, TEMPERATURE)
        self.targets.append(target.double().cpu().numpy())
        return scalar


def ridge_step(rows: Mapping[str, np.ndarray], target: np.ndarray) -> tuple[dict[str, np.ndarray] | None, float, float | None]:
    """(theta by site [units], error of the left-out examples as a share of that without a step, ridge).

    Args:
        rows: by site, [examples, units]. target: [examples].
    """
    gram = sum(r.astype(np.float64) @ r.T.astype(np.float64) for r in rows.values())  # [n, n]
    scale, base = float(np.trace(gram)) / max(1, len(gram)), float(target @ target)
    if len(target) < 2 * FOLDS or scale <= 0 or base <= 0:
        return None, 1.0, None
    fold = np.arange(len(target)) % FOLDS
    errors = np.zeros(len(RIDGES))
    for k in range(FOLDS):
        fit, left = fold != k, fold == k
        values, vectors = np.linalg.eigh(gram[np.ix_(fit, fit)])
        seen, cross = vectors.T @ target[fit], gram[np.ix_(left, fit)] @ vectors
        for i, ridge in enumerate(RIDGES):
            errors[i] += np.square(target[left] - cross @ (seen / (np.maximum(values, 0) + ridge * scale))).sum()
    for i in np.argsort(errors, kind="stable"):
        if not errors[i] < base:
            break
        dual = np.linalg.solve(gram + RIDGES[i] * scale * np.eye(len(gram)), target)  # [n]
        step = {name: r.T.astype(np.float64) @ dual for name, r in rows.items()}
        if max(float(np.abs(s).max(initial=0.0)) for s in step.values()) <= LARGEST:
            return step, float(errors[i] / base), RIDGES[i]
    return None, 1.0, None


def _scaled(ground: Ground, plan: Plan, update: Update, step: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The output projections' kept columns with the step folded in, [d, kept channels] by site."""
    import torch

    weights = dict(update.weights)
    for site in ground.sites:
        kept = list(plan[site.name].kept)
        if not kept:
            continue
        out = ground.model.get_submodule(site.output)
        channels = torch.tensor([u * site.width + c for u in kept for c in range(site.width)], dtype=torch.long).to(out.weight.device)
        weight = update.weights.get(site.name)
        if weight is None:
            weight = output_weight(site, out, kept, channels, update).detach().double().cpu().numpy()
        weights[site.name] = weight * np.repeat(1.0 + step[site.name][kept], site.width)
    return weights
