"""Mask tuning (Kwon et al. 2022, section 4.3): one real scale a kept unit, fitted layer by layer without training.

For every site, in execution order, the student (pruned, its earlier sites already tuned) is fitted to the teacher's
residual stream: min over m of || sum of m_u z_u w_u - (teacher's stream - the rest of the student's) ||^2.

Two modes. "kwon" is the paper repaired: dense teacher, every site, damped least squares, and each site's scales stay
only if they lower the error on held-out examples. "kwon-reference" is what the paper's code does: a teacher masked at
the square root of the constraint, layer 0's attention untuned, LSMR on the normal matrix, and no more tuning after the
first site that fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from rfx.compensate.gram import Gram, ScaleSystem
from rfx.compensate.solve import damped_least_squares, reference_lsmr
from rfx.compensate.streams import Call, HiddenStates, catch_first_layer, run_layer, sliced_ffn, stream_is_output
from rfx.device import model_device
from rfx.errors import UsageError
from rfx.plan import Kind, Site
from rfx.progress import Progress, Silent
from rfx.scores.base import Batch

if TYPE_CHECKING:
    import torch

MODES = ("kwon", "kwon-reference")
HEAD_POSITIONS = ("first", "all")
_HELD_OUT = 5  # every fifth example is held out


@dataclass(frozen=True)
class SiteRecord:
    """What came of a site's tuning. Errors are mean squares of the residual stream against the teacher's, a token and
    channel: on the held-out examples, and on those fitted. None where nothing was fitted or held out."""

    site: str
    accepted: bool
    held_out_before: float | None = None
    held_out_after: float | None = None
    reason: str = ""
    fit_before: float | None = None
    fit_after: float | None = None


@dataclass(frozen=True)
class TuningResult:
    """`scales[site]` float64 [units]: 0 where pruned, 1 where kept and not tuned. `sites` has a record each."""

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
        head_positions: which positions of the last layer the model's head reads: "first" (text classification) or
            "all"; its FFN is fitted on these.
        teacher_masks: 0/1 by site name, the teacher of "kwon-reference".

    Raises:
        UsageError: an unknown mode, masks that do not fit, no examples, no teacher for "kwon-reference".
        UnsupportedModelError: layers that cannot be run one by one.
    """
    import torch

    _check(sites, masks, mode, head_positions, teacher_masks)
    training = [(m, m.training) for m in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            return _Tuning(model, sites, masks, batches, mode, head_positions, teacher_masks).run(progress or Silent())
    finally:
        for module, flag in training:
            module.training = flag


@dataclass
class _Fit:
    """The statistics of one site while they are gathered: fitted and held-out examples apart."""

    kept: torch.Tensor  # int64 [K]
    channels: torch.Tensor  # int64 [K * width]
    fit: Gram
    held_out: Gram | None
    sliced: bool = False  # the features come with the kept channels only

    def add(self, z: torch.Tensor, error: torch.Tensor, positions: torch.Tensor, held_out: torch.Tensor) -> None:
        """z [B, T, channels], error [B, T, d] at `positions` (bool [B, T]); `held_out` bool [B]."""
        for gram, examples in ((self.fit, ~held_out), (self.held_out, held_out)):
            if gram is not None:
                rows = positions & examples[:, None]  # [B, T]
                z_rows = z[rows]
                gram.add(z_rows if self.sliced else z_rows.index_select(1, self.channels), error[rows])


@dataclass
class _Tuning:
    """The walk through the layers. One layer at a time, three passes over the batches: teacher and the student's
    attention; the student's FFN; the student's output with the scales found."""

    model: torch.nn.Module
    sites: Sequence[Site]
    masks: Mapping[str, np.ndarray]
    batches: Iterable[Batch]
    mode: str
    head_positions: str
    teacher_masks: Mapping[str, np.ndarray] | None
    records: list[SiteRecord] = field(default_factory=list)
    stopped: str = ""

    def run(self, progress: Progress) -> TuningResult:
        import torch

        device = model_device(self.model)
        self.device = device
        self.scales = {
            s.name: torch.tensor(np.asarray(self.masks[s.name], dtype=np.float64), device=device) for s in self.sites
        }
        self.teacher_scales = {
            name: torch.as_tensor(np.asarray(m, dtype=np.float64)).to(device)
            for name, m in (self.teacher_masks or {}).items()
        }
        layers = [list(group) for _, group in groupby(self.sites, key=lambda s: s.layer_path)]
        teacher, self.calls = catch_first_layer(self.model, [layer[0].layer_path for layer in layers], self.batches)
        student = teacher.copy()
        with progress.bar("tune", total=len(layers)) as bar:
            for number, layer in enumerate(layers):
                self._tune_layer(layer, teacher, student, last=number == len(layers) - 1)
                bar.advance()
        return TuningResult({name: s.cpu().numpy() for name, s in self.scales.items()}, tuple(self.records))

    def _tune_layer(self, layer: list[Site], teacher: HiddenStates, student: HiddenStates, last: bool) -> None:
        """Tune the sites of one layer; then `teacher` and `student` hold the next layer's inputs."""
        mha = next((s for s in layer if s.kind is Kind.MHA), None)
        ffn = next((s for s in layer if s.kind is Kind.FFN), None)
        targets = teacher.copy()  # of the FFN; filled batch by batch
        outputs = _Outputs(self.model, ffn)

        fit = self._begin(mha)
        for i, call in enumerate(self.calls):
            trace = run_layer(self.model, layer, teacher[i], call, self.teacher_scales)
            if fit is not None:
                seen = run_layer(self.model, layer, student[i], call, self.scales, until=mha)
                error = trace.streams[mha.name] - seen.streams[mha.name]  # [B, T, d]
                fit.add(seen.features[mha.name], error, call.real, self._held_out(call))
            if ffn is not None:
                targets[i] = self._ffn_target(ffn, trace)
            outputs.put(i, trace, teacher, targets)
        self._finish(mha, fit)

        fit = self._begin(ffn)
        if fit is not None:
            with sliced_ffn(self.model, ffn, fit.kept) as fit.sliced:
                scales = {s.name: self.scales[s.name] for s in layer if not (fit.sliced and s is ffn)}
                for i, call in enumerate(self.calls):
                    seen = run_layer(self.model, layer, student[i], call, scales, until=ffn)
                    error = targets[i] - seen.streams[ffn.name]  # [B, T, d]
                    positions = self._positions(call, last)
                    fit.add(seen.features[ffn.name], error, positions, self._held_out(call))
        self._finish(ffn, fit)

        if not last:
            outputs.to_next(teacher, targets)
            self._student_output(layer, ffn, student)

    def _begin(self, site: Site | None) -> _Fit | None:
        """Empty statistics of a site that is to be tuned; None, and a record, for one that is not."""
        import torch

        if site is None:
            return None
        kept = torch.nonzero(self.scales[site.name]).flatten()  # [K]
        reason = ""
        if self.stopped:
            reason = f"tuning stopped at {self.stopped}"
        elif not len(kept):
            reason = "the sublayer is empty"
        elif self.mode == "kwon-reference" and site.kind is Kind.MHA and site.layer == self.sites[0].layer:
            reason = "the reference does not tune the first layer's attention"
        if reason:
            self.records.append(SiteRecord(site.name, False, reason=reason))
            return None
        width = torch.arange(site.width, device=kept.device)
        channels = (kept[:, None] * site.width + width).flatten()
        hidden = self.model.get_submodule(site.output).weight.shape[0]
        grams = [Gram(len(channels), hidden, self.device) for _ in range(1 if self.mode == "kwon-reference" else 2)]
        return _Fit(kept, channels, grams[0], grams[1] if len(grams) > 1 else None)

    def _finish(self, site: Site | None, fit: _Fit | None) -> None:
        """Solve, judge, and put the scales in place."""
        if site is None or fit is None:
            return
        weight = self.model.get_submodule(site.output).weight.detach()[:, fit.channels]  # [d, K * width]
        system = ScaleSystem(fit.fit, weight, site.width)
        if self.mode == "kwon-reference":
            solution = reference_lsmr(system, ones_column=site.kind is Kind.MHA)
            record = SiteRecord(site.name, solution.r is not None, None, None, solution.reason, system.error())
            if solution.r is None:
                self.stopped = site.name
        else:
            held_out = ScaleSystem(fit.held_out, weight, site.width)
            solution = damped_least_squares(system)
            record = _judge(site, system, held_out, solution.r, solution.reason)
        if solution.r is not None:
            record = SiteRecord(**{**record.__dict__, "fit_after": system.error(solution.r)})
        if record.accepted:
            self.scales[site.name][fit.kept] = 1.0 + solution.r
        self.records.append(record)

    def _held_out(self, call: Call) -> torch.Tensor:
        """bool [B]: every fifth example of the sample (none in the reference)."""
        import torch

        numbers = call.first_example + torch.arange(len(call.real), device=self.device)
        if self.mode == "kwon-reference":
            return torch.zeros_like(numbers, dtype=torch.bool)
        return numbers % _HELD_OUT == _HELD_OUT - 1

    def _positions(self, call: Call, last: bool) -> torch.Tensor:
        """bool [B, T]: the tokens that an FFN is fitted on."""
        import torch

        if not (last and self.head_positions == "first"):
            return call.real
        positions = torch.zeros_like(call.real)
        positions[:, 0] = True
        return positions

    def _ffn_target(self, ffn: Site, trace) -> torch.Tensor:
        """The teacher's stream after the FFN. The reference's teacher has its FFN whole here, on a pruned prefix."""
        import torch

        stream = trace.streams[ffn.name]  # [B, T, d]
        mask = self.teacher_scales.get(ffn.name)
        if mask is None:
            return stream
        output = self.model.get_submodule(ffn.output)
        missing = (1.0 - mask).to(stream.dtype)  # [units]
        return stream + torch.nn.functional.linear(trace.features[ffn.name] * missing, output.weight)

    def _student_output(self, layer: list[Site], ffn: Site | None, student: HiddenStates) -> None:
        """The student's hidden states after the layer, with the scales found."""
        import torch

        kept = torch.nonzero(self.scales[ffn.name]).flatten() if ffn is not None else torch.empty(0, dtype=torch.int64)
        with sliced_ffn(self.model, ffn or layer[0], kept, self.scales[ffn.name][kept] if ffn else None) as sliced:
            scales = {s.name: self.scales[s.name] for s in layer if not (sliced and s is ffn)}
            for i, call in enumerate(self.calls):
                student[i] = run_layer(self.model, layer, student[i], call, scales).output


class _Outputs:
    """Keeps the teacher's next hidden states without a third store: the FFN's target stream gives them by the layer's
    own LayerNorm, or is them (pre-LN). Where neither holds (a masked teacher) they are kept themselves."""

    def __init__(self, model: torch.nn.Module, ffn: Site | None):
        self.model, self.ffn, self.how = model, ffn, ""

    def put(self, i: int, trace, teacher: HiddenStates, targets: HiddenStates) -> None:
        """After batch i: the target is stored; `teacher[i]` has been used and may be replaced."""
        import torch

        if not self.how:
            self.how = "keep"
            if self.ffn is not None:
                stream = trace.streams[self.ffn.name]
                if stream_is_output(self.ffn):
                    rebuilt, how = stream, "same"
                else:
                    rebuilt, how = self.model.get_submodule(self.ffn.norm)(stream), "norm"
                if torch.equal(rebuilt, trace.output) and torch.equal(
                    targets[i], stream.half().to(stream.dtype)
                ) | torch.equal(targets[i], stream):
                    self.how = how
        if self.how == "keep":
            teacher[i] = trace.output

    def to_next(self, teacher: HiddenStates, targets: HiddenStates) -> None:
        """`teacher` becomes the next layer's inputs."""
        for i in range(len(teacher)):
            if self.how == "norm":
                teacher[i] = self.model.get_submodule(self.ffn.norm)(targets[i])
            elif self.how == "same":
                teacher[i] = targets[i]


def _judge(site: Site, fit: ScaleSystem, held_out: ScaleSystem, r: torch.Tensor | None, reason: str) -> SiteRecord:
    """Accept scales that lower the held-out error."""
    before = held_out.error() if held_out.rows else None
    after = held_out.error(r) if held_out.rows and r is not None else None
    if r is None:
        return SiteRecord(site.name, False, before, None, reason, fit.error())
    if before is None:
        return SiteRecord(site.name, False, None, None, "there are no held-out examples", fit.error())
    accepted = after < before
    return SiteRecord(
        site.name, accepted, before, after, "" if accepted else "the held-out error does not fall", fit.error()
    )


def _check(sites, masks, mode, head_positions, teacher_masks) -> None:
    if mode not in MODES:
        raise UsageError("There is no such tuning.", got=mode, allowed=", ".join(MODES))
    if head_positions not in HEAD_POSITIONS:
        raise UsageError("There are no such head positions.", got=head_positions, allowed=", ".join(HEAD_POSITIONS))
    if mode == "kwon-reference" and teacher_masks is None:
        raise UsageError(
            "The reference's tuning needs its teacher.",
            got="no teacher_masks",
            allowed="the binary masks searched at the square root of the constraint",
        )
    for given in (masks,) if teacher_masks is None else (masks, teacher_masks):
        for site in sites:
            mask = np.asarray(given[site.name]) if site.name in given else None
            if mask is None and given is teacher_masks:
                continue
            if mask is None or mask.shape != (site.units,) or not np.isin(mask, (0, 1)).all():
                raise UsageError(
                    f"The mask of {site.name} does not fit.",
                    got="none" if mask is None else f"shape {mask.shape}",
                    allowed=f"0 or 1 for each of its {site.units} units",
                )
