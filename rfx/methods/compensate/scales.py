"""Mask tuning (Kwon et al. 2022, section 4.3): one real scale a kept unit, fitted layer by layer
without training.

For every site, in execution order, the student (pruned, its earlier sites already tuned) is fitted
to the teacher's
residual stream: min over m of || sum of m_u z_u w_u - (teacher's stream - the rest of the
student's) ||^2.

Two modes. "kwon" is the paper repaired: dense teacher, every site, damped least squares, and each
site's scales stay only if they lower the error on held-out examples. "kwon-reference" is what the
paper's code does: a teacher masked at the square root of the constraint, layer 0's attention
untuned, LSMR on the normal matrix, and no more tuning after the first site that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.core.errors import UsageError
from rfx.core.inputs import Batch
from rfx.core.plan import Kind, Site, Update
from rfx.core.progress import Progress, Silent
from rfx.core.registry import register
from rfx.methods.compensate.base import Compensated, Compensator, Masks, given_masks
from rfx.methods.compensate.gram import ScaleSystem
from rfx.methods.compensate.solve import damped_least_squares, reference_lsmr
from rfx.methods.compensate.walk import Decide, Fit, SiteRecord, Walk, check_masks
from rfx.models.modules import output_of

if TYPE_CHECKING:
    import torch

MODES = ("kwon", "kwon-reference")


@dataclass(frozen=True)
class TuningResult:
    """`scales[site]` float64 [units]: 0 where pruned, 1 where kept and not tuned. `sites` has a
    record each."""

    scales: Mapping[str, np.ndarray]
    sites: tuple[SiteRecord, ...]


def tune(
    model: torch.nn.Module,
    sites: Sequence[Site],
    masks: Mapping[str, np.ndarray],
    batches: Iterable[Batch],
    *,
    mode: str = "kwon",
    head_positions: str = "all",
    teacher_masks: Mapping[str, np.ndarray] | None = None,
    progress: Progress | None = None,
) -> TuningResult:
    """Fit the scales of every site in execution order.

    Args:
        model: the dense model; it is left as it was.
        masks: 0/1 by site name, [units].
        batches: (inputs, targets); the targets are not read.
        mode: "kwon" or "kwon-reference".
        head_positions: which positions of the last layer the model's head reads: "first" (text
            classification) or "all"; its FFN is fitted on these.
        teacher_masks: 0/1 by site name, the teacher of "kwon-reference".

    Raises:
        UsageError: an unknown mode, masks that do not fit, no examples, no teacher for
            "kwon-reference".
        UnsupportedModelError: layers that cannot be run one by one.
    """
    if mode not in MODES:
        raise UsageError(
            "There is no such tuning.",
            got=mode,
            allowed=", ".join(MODES),
            next_step="correct method.tuning",
        )
    if mode == "kwon-reference" and teacher_masks is None:
        raise UsageError(
            "The reference's tuning needs its teacher.",
            got="no teacher_masks",
            allowed="the binary masks searched at the square root of the constraint",
            next_step="give teacher_masks, or another mode",
        )
    walk = _Tuning(
        model, sites, masks, batches, head_positions, mode=mode, teacher_masks=teacher_masks
    )
    walk.run(progress or Silent())
    return TuningResult(
        {name: m.cpu().numpy() for name, m in walk.masks.items()}, tuple(walk.records)
    )


class _Tuning(Walk):
    """One real scale a kept unit."""

    def __init__(
        self,
        model: torch.nn.Module,
        sites: Sequence[Site],
        masks: Mapping[str, np.ndarray],
        batches: Iterable[Batch],
        head_positions: str,
        *,
        mode: str,
        teacher_masks: Mapping[str, np.ndarray] | None,
    ):
        import torch

        super().__init__(model, sites, masks, batches, head_positions)
        check_masks(sites, teacher_masks or {}, all_sites=False)
        self.mode, self.stopped = mode, ""
        self.hold_out = mode != "kwon-reference"
        self.teacher_masks = {
            name: torch.as_tensor(np.asarray(m, dtype=np.float64)).to(self.device)
            for name, m in (teacher_masks or {}).items()
        }

    def skip(self, site: Site, kept: torch.Tensor) -> str:
        if self.stopped:
            return f"tuning stopped at {self.stopped}"
        if (
            self.mode == "kwon-reference"
            and len(kept)
            and site.kind is Kind.MHA
            and site.layer == self.sites[0].layer
        ):
            return "the reference does not tune the first layer's attention"
        return super().skip(site, kept)

    def solve(self, site: Site, fit: Fit) -> None:
        """Solve, judge, and put the scales in place."""
        weight = output_of(self.model, site).weight.detach()[:, fit.channels]  # [d, K * width]
        system = ScaleSystem(fit.fit, weight, site.width)
        if self.mode == "kwon-reference":
            solution = reference_lsmr(system, ones_column=site.kind is Kind.MHA)
            record = SiteRecord(
                site.name, solution.r is not None, None, None, solution.reason, system.error()
            )
            if solution.r is None:
                self.stopped = site.name
        else:
            assert fit.held_out is not None  # this mode holds examples out
            held_out = ScaleSystem(fit.held_out, weight, site.width)
            solution = damped_least_squares(system)
            record = _judge(site, system, held_out, solution.r, solution.reason)
        if record.accepted and solution.r is not None:
            self.masks[site.name][fit.kept] = 1.0 + solution.r
        self.records.append(record)


def _judge(
    site: Site, fit: ScaleSystem, held_out: ScaleSystem, r: torch.Tensor | None, reason: str
) -> SiteRecord:
    """Accept scales that lower the held-out error."""
    before = held_out.error() if held_out.rows else None
    after = held_out.error(r) if held_out.rows and r is not None else None
    if r is None:
        return SiteRecord(site.name, False, before, None, reason, fit.error())
    if before is None:
        return SiteRecord(
            site.name, False, None, None, "there are no held-out examples", fit.error()
        )
    accepted = after is not None and after < before
    return SiteRecord(
        site.name,
        accepted,
        before,
        after,
        "" if accepted else "the held-out error does not fall",
        fit.error(),
    )


@register("compensation", "scales")
class Scales(Compensator):
    """See `tune`. `tuning` is its mode."""

    name, verb = "scales", "tune"

    def __init__(self, *, tuning: str = "kwon", **_: Any):
        self.mode = tuning

    def fit(
        self,
        model: torch.nn.Module,
        sites: Sequence[Site],
        masks: Masks | Decide,
        batches: Iterable[Batch],
        *,
        head_positions: str = "all",
        token_weights: Mapping[str, np.ndarray] | None = None,
        teacher_masks: Callable[[], Masks] | None = None,
        progress: Progress | None = None,
    ) -> Compensated:
        masks = given_masks(masks, self.name)
        result = tune(
            model,
            sites,
            masks,
            batches,
            mode=self.mode,
            head_positions=head_positions,
            progress=progress,
            teacher_masks=teacher_masks()
            if self.mode == "kwon-reference" and teacher_masks
            else None,
        )
        return Compensated(Update(scales=result.scales), masks, result.sites)
