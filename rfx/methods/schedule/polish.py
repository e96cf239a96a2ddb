"""One step on the output itself, over the scales of all units at once.

Every site was fitted to its own residual stream, in turn. No fit has seen how the errors of all
sites add up at the model's output. To first order, scales 1 + theta move the student's outputs by
J theta. In the metric of the output's Fisher information (see
`rfx.methods.scores.predictive.residual_probe`) each example gives one row j of J and one number t,
which is how far the dense model's output lies along that row. The step minimises
|| J theta - t ||^2 + ridge ||theta||^2 over theta: a Gauss-Newton step on KL(dense || student).
There are fewer examples than units, so it is solved by the Gram matrix of the rows.

The ridge is chosen by cross-validation. The step is taken only where it foretells the left-out
examples by more than two standard errors, and where the step that four fifths of the examples give
lowers the divergence itself on the last fifth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.core.device import model_device
from rfx.core.plan import Site, Update
from rfx.methods.compensate.walk import HELD_OUT
from rfx.methods.schedule.base import Ground, Outcome
from rfx.methods.schedule.guard import divergences
from rfx.methods.scores.divergence import collect_outputs
from rfx.methods.scores.fisher import Fisher
from rfx.methods.scores.predictive import Signs, residual_probe
from rfx.models.modules import output_of
from rfx.models.shrink import output_weight
from rfx.models.student import as_student

if TYPE_CHECKING:
    import torch

RIDGES = tuple(float(r) for r in 10.0 ** np.arange(-2, 3.5, 0.5))  # of the rows' mean square
ROWS = (
    2048  # examples at most: the Gram matrix is one of them all, and its decompositions are cubic
)
TEMPERATURE = 2.0  # as the output metric's
LARGEST = 0.5  # of |theta|: a larger step is not of first order, so the ridge has to be
SURE = 2.0  # standard errors


@dataclass(frozen=True)
class Polished:
    """`ratio` is the squared error of the left-out examples with the step, as a share of that
    without; None where no step was tried, 1 where none was taken. `ridge` is a share of the rows'
    mean square."""

    outcome: Outcome
    ratio: float | None = None
    ridge: float | None = None


def polish(ground: Ground, outcome: Outcome) -> Polished:
    """The outcome with the step in its update. One forward pass of the dense model, and one forward
    and backward pass of the student over the calibration examples."""
    batches = ground.batches.only(lambda number: number < ROWS)
    rows = _Residuals(collect_outputs(ground.model, batches, ground.task))
    student = outcome.model or ground.model
    with as_student(student, ground.sites, outcome.plan, outcome.update):
        gradients = rows.score(
            student, ground.sites, batches, ground.task, progress=ground.progress
        ).gradients
    system = Step(
        gradients, np.concatenate(rows.targets), batches.numbers, model_device(ground.model)
    )
    choice = system.choose()
    if choice is None:
        return Polished(outcome, 1.0)
    ridge, ratio = choice

    def updated(step: Mapping[str, np.ndarray]) -> Update:
        return replace(outcome.update, weights=_scaled(student, ground.sites, outcome, step))

    # The output is not linear that far, or what was foretold is not the divergence.
    before, after = divergences(
        ground,
        outcome,
        (outcome.update, updated(system.solve(ridge, without_fold=HELD_OUT - 1))),
    )
    if not after < before:
        return Polished(outcome, 1.0)
    return Polished(replace(outcome, update=updated(system.solve(ridge))), ratio, ridge)


class _Residuals(Fisher):
    """Rows of J by site, [examples, units], and the `targets`."""

    def __init__(self, teacher: Sequence[Mapping[str, Any]]):
        super().__init__()
        self._teacher = teacher
        self.targets: list[np.ndarray] = []  # [batch] of each pass

    def beside(
        self, number: int, targets: Mapping[str, torch.Tensor]
    ) -> Mapping[str, torch.Tensor]:
        return self._teacher[number]

    def scalars(
        self,
        outputs: Any,
        inputs: Mapping[str, torch.Tensor],
        beside: Mapping[str, torch.Tensor],
        task: Any,
        signs: Signs,
    ) -> torch.Tensor:
        scalar, target = residual_probe(
            outputs, inputs, task.output_names, signs, beside, TEMPERATURE
        )
        self.targets.append(target.double().cpu().numpy())
        return scalar


class Step:
    """The ridge regression of the target [rows] on the rows by site, [rows, units].

    Args:
        numbers: of each row's example: a fold has all the rows of its examples.
    """

    def __init__(
        self,
        rows: Mapping[str, np.ndarray],
        target: np.ndarray,
        numbers: Sequence[int],
        device: torch.device | str = "cpu",
    ):
        import torch

        self.rows = rows
        self.target = torch.as_tensor(target, dtype=torch.float64, device=device)  # [n]
        self.gram = torch.zeros(len(target), len(target), dtype=torch.float64, device=device)
        for block in rows.values():
            r = torch.as_tensor(block, device=device).double()
            self.gram += r @ r.T
        self.scale = float(self.gram.diagonal().mean()) if len(target) else 0.0
        self.fold = torch.as_tensor(np.asarray(numbers) % HELD_OUT, device=device)

    def choose(self) -> tuple[float, float] | None:
        """(ridge, squared error of the left-out rows as a share of that without a step): the best
        ridge whose step is small enough; None where there is none, or where it helps by no more
        than chance may."""
        import torch

        base = float(self.target @ self.target)
        sizes = [int((self.fold == k).sum()) for k in range(HELD_OUT)]
        if min(sizes) < 2 or self.scale <= 0 or base <= 0:
            return None
        # The errors of the examples that a fit has not seen: [ridges, examples].
        left_out = torch.zeros(
            len(RIDGES), len(self.target), dtype=torch.float64, device=self.gram.device
        )
        for k in range(HELD_OUT):
            fit, left = self.fold != k, self.fold == k
            values, vectors = torch.linalg.eigh(self.gram[fit][:, fit])
            seen, cross = vectors.T @ self.target[fit], self.gram[left][:, fit] @ vectors
            for i, ridge in enumerate(RIDGES):
                left_out[i, left] = self.target[left] - cross @ (
                    seen / (values.clamp(min=0) + ridge * self.scale)
                )
        errors = left_out.square().sum(1)
        for i in errors.argsort().tolist():
            if not float(errors[i]) < base:
                return None
            if (
                max(float(np.abs(s).max(initial=0.0)) for s in self.solve(RIDGES[i]).values())
                <= LARGEST
            ):
                gain = self.target.square() - left_out[i].square()  # [n]
                sure = float(gain.mean()) > SURE * float(gain.std()) / len(gain) ** 0.5
                return (RIDGES[i], float(errors[i]) / base) if sure else None
        return None

    def solve(self, ridge: float, without_fold: int | None = None) -> dict[str, np.ndarray]:
        """theta by site [units], of all rows or of those outside of a fold."""
        import torch

        fit = self.fold != (-1 if without_fold is None else without_fold)
        gram = self.gram[fit][:, fit]
        dual = torch.linalg.solve(
            gram + ridge * self.scale * torch.eye(len(gram), dtype=gram.dtype, device=gram.device),
            self.target[fit],
        )
        where, found = fit.cpu().numpy(), dual.cpu().numpy()
        return {name: r[where].T.astype(np.float64) @ found for name, r in self.rows.items()}


def _scaled(
    model: torch.nn.Module, sites: Sequence[Site], outcome: Outcome, step: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The output projections' kept columns with the step folded in, [d, kept channels] by site."""
    import torch

    update = outcome.update
    weights = dict(update.weights)
    for site in sites:
        kept = list(outcome.plan[site.name].kept)
        if not kept:
            continue
        out = output_of(model, site)
        channels = torch.tensor(site.channels_of(kept), dtype=torch.long).to(out.weight.device)
        weight = update.weights.get(site.name)
        if weight is None:
            weight = (
                output_weight(site, out, kept, channels, update).detach().double().cpu().numpy()
            )
        weights[site.name] = weight * np.repeat(1.0 + step[site.name][kept], site.width)
    return weights
