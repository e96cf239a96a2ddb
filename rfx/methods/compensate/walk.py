"""The walk of every compensation: site by site from the first, the pruned student's activations
against the dense teacher's residual stream, earlier sites already compensated.

One layer at a time (a model without a chain of layers counts as one); in a Transformer three passes
over the batches: the teacher and the student's attention; the student's FFN; the student's output
with what was found. What is fitted to the statistics is a subclass's business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.core.device import model_device
from rfx.core.errors import UsageError
from rfx.core.inputs import Batch
from rfx.core.plan import Site
from rfx.core.progress import Progress
from rfx.methods.compensate.gram import Gram
from rfx.methods.compensate.outputs import LayerOutputs
from rfx.methods.finite import require_finite
from rfx.models.calls import Call, HiddenStates, catch_calls
from rfx.models.modules import output_of
from rfx.models.streams import Resumed, Trace, called_often, reads_first, run_layer, sliced

if TYPE_CHECKING:
    import torch

Decide = Callable[[Site, Resumed], np.ndarray]
HEAD_POSITIONS = ("first", "all")
HELD_OUT = 5  # every fifth example is held out
OFTEN = "its weights are used several times in a pass"


@dataclass(frozen=True)
class SiteRecord:
    """What came of a site's fit. Errors are mean squares of the residual stream against the
    teacher's, a token (by its weight, where tokens have weights) and channel: on the held-out
    examples, and on those fitted. None where nothing was fitted or held out. `ridge` is the one
    chosen, as a share of the features' mean square."""

    site: str
    accepted: bool
    held_out_before: float | None = None
    held_out_after: float | None = None
    reason: str = ""
    fit_before: float | None = None
    ridge: float | None = None


@dataclass
class Fit:
    """The statistics of one site while they are gathered: fitted and held-out examples apart."""

    kept: torch.Tensor  # int64 [K]
    channels: torch.Tensor  # int64 [K * width]
    fit: Gram
    held_out: Gram | None
    sliced: bool = False  # the features come with the kept channels only

    def add(
        self,
        z: torch.Tensor,
        error: torch.Tensor,
        positions: torch.Tensor,
        held_out: torch.Tensor,
        weights: torch.Tensor | None = None,
    ) -> None:
        """z [B, T, channels], error [B, T, d] at `positions` (bool [B, T]); `held_out` bool [B];
        `weights` [B, T]."""
        for gram, examples in ((self.fit, ~held_out), (self.held_out, held_out)):
            if gram is not None:
                rows = positions & examples[:, None]  # [B, T]
                z_rows = z[rows]
                z_rows = z_rows if self.sliced else z_rows.index_select(1, self.channels)
                gram.add(z_rows, error[rows], None if weights is None else weights[rows])


class Walk(ABC):
    """Runs teacher and student through the layers and gathers the statistics of every site.

    Args:
        model: the dense model; as it was once `run` has ended.
        masks: 0/1 by site name, [units]; or a function that gives a site's when its turn comes,
            called with the site and the student as far as it has come, while the model's earlier
            sites are the compensated student's.
        batches: (inputs, targets); the targets are not read.
        head_positions: which positions of the last layer the model's head reads, "first" or "all":
            its FFN is fitted there.
        token_weights: by site name, [real tokens] in the order of the batches.
    """

    hold_out = True
    # whether the last layer's attention too is fitted where the head reads, and nowhere else
    narrow_attention = False

    def __init__(
        self,
        model: torch.nn.Module,
        sites: Sequence[Site],
        masks: Mapping[str, np.ndarray] | Decide,
        batches: Iterable[Batch],
        head_positions: str = "all",
        token_weights: Mapping[str, np.ndarray] | None = None,
    ):
        if head_positions not in HEAD_POSITIONS:
            raise UsageError(
                "There are no such head positions.",
                got=head_positions,
                allowed=", ".join(HEAD_POSITIONS),
                next_step="correct head_positions of the task",
            )
        if not callable(masks):
            check_masks(sites, masks)
        self.model, self.sites, self.batches = model, sites, batches
        self.head_positions, self.token_weights = head_positions, token_weights or {}
        self.decide: Decide = masks if callable(masks) else lambda site, _: masks[site.name]
        self.device = model_device(model)
        self.masks: dict[
            str, torch.Tensor
        ] = {}  # the student's, of the sites whose turn has come: float64 [units]
        self.teacher_masks: dict[str, torch.Tensor] = {}
        self.records: list[SiteRecord] = []
        self.often: frozenset[str] = frozenset()  # sites that are run several times in a pass
        self._patched: list[tuple[torch.nn.Linear, Any, Any]] = []  # with weight and bias before

    @abstractmethod
    def solve(self, site: Site, fit: Fit) -> None:
        """Fit, judge, record, and put what was found into `masks` or by `patch`."""

    def skip(self, site: Site, kept: torch.Tensor) -> str:
        """Why a site is not fitted, "" where it is."""
        return "" if len(kept) else "the sublayer is empty"

    def left_out(self, site: Site) -> None:  # noqa: B027 - nothing to do where masks say it all
        """Put in place what a site that is not fitted is to the student; the dense model has been
        through its layer by then."""

    def patch(self, site: Site, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Give the student's output projection these, [d, channels] and [d], until the walk
        ends."""
        import torch

        module: torch.nn.Linear = output_of(self.model, site)
        self._patched.append((module, module.weight, module.bias))
        module.weight = torch.nn.Parameter(weight.to(module.weight.dtype), requires_grad=False)
        if bias is not None:
            module.bias = torch.nn.Parameter(bias.to(module.weight.dtype), requires_grad=False)

    def run(self, progress: Progress, title: str = "tune") -> None:
        """The whole walk; the model is in eval mode meanwhile and left as it was.

        Raises:
            UnsupportedModelError: layers that cannot be run one by one. UsageError: no examples.
        """
        import torch

        training = [(m, m.training) for m in self.model.modules()]
        try:
            self.model.eval()
            with torch.no_grad():
                self._run(progress, title)
        finally:
            for layer, weight, bias in reversed(self._patched):
                layer.weight = weight
                layer.register_parameter("bias", bias)
            self._patched.clear()
            for module, flag in training:
                module.training = flag

    def _run(self, progress: Progress, title: str) -> None:
        layers = [list(group) for _, group in groupby(self.sites, key=lambda s: s.layer_path)]
        paths = [layer[0].layer_path for layer in layers]
        if self.head_positions == "first":
            inputs = {k: v.to(self.device) for k, v in next(iter(self.batches))[0].items()}
            # The task says where heads usually read; a decoder's reads the last token.
            if not reads_first(self.model, self.sites[-1], inputs):
                self.head_positions = "all"
        teacher, self.calls = catch_calls(self.model, paths, self.batches, self.sites[0])
        self.often = called_often(self.model, layers[0], teacher[0], self.calls[0])
        student = teacher.copy()
        with progress.bar(title, total=len(layers)) as bar:
            for number, layer in enumerate(layers):
                self.resumed = Resumed(
                    self.model, paths[:number], paths[number], student, self.calls[0].in_tuple
                )
                self._layer(layer, teacher, student, last=number == len(layers) - 1)
                bar.advance()

    def _layer(
        self, layer: list[Site], teacher: HiddenStates, student: HiddenStates, last: bool
    ) -> None:
        """Fit the sites of one layer in their order; then `teacher` and `student` hold the next
        layer's inputs.

        The last site of a layer, the closing one, is fitted to streams of the teacher that are
        kept from the pass before. In a Transformer that is the FFN, after one pass for the
        attention.
        """
        *inner, closing = layer
        targets = teacher.copy()  # of the closing site; filled batch by batch
        outputs = LayerOutputs(self.model, closing)
        passes: list[Site | None] = [*inner] or [None]
        for site in passes:
            fit = self._begin(site) if site is not None else None
            weights = self._weights(site)
            for i, call in enumerate(self.calls):
                trace = run_layer(self.model, layer, teacher[i], call, self.teacher_masks)
                if site is not None and fit is not None:
                    seen = run_layer(self.model, layer, student[i], call, self.masks, until=site)
                    error = trace.streams[site.name] - seen.streams[site.name]  # [B, T, d]
                    positions = self._positions(call, last and self.narrow_attention)
                    features = seen.features[site.name]  # [B, T, channels]
                    fit.add(features, error, positions, self._held_out(call), weights(call))
                if site is passes[-1]:  # from then on the teacher's input is not needed
                    targets[i] = self._closing_target(closing, trace)
                    outputs.put(i, trace, teacher, targets)
            self._finish(site, fit)

        fit = self._begin(closing)
        if fit is not None:
            weights = self._weights(closing)
            with sliced(self.model, closing, fit.kept) as fit.sliced:
                masks = {
                    s.name: self.masks[s.name] for s in layer if not (fit.sliced and s is closing)
                }
                for i, call in enumerate(self.calls):
                    seen = run_layer(self.model, layer, student[i], call, masks, until=closing)
                    error = targets[i] - seen.streams[closing.name]  # [B, T, d]
                    fit.add(
                        seen.features[closing.name],
                        error,
                        self._positions(call, last),
                        self._held_out(call),
                        weights(call),
                    )
        self._finish(closing, fit)

        if not last:
            outputs.to_next(teacher, targets)
            self._student_output(layer, student)

    def _finish(self, site: Site | None, fit: Fit | None) -> None:
        if site is not None and fit is not None:
            for gram in (fit.fit, fit.held_out):
                if gram is not None:
                    require_finite(site.name, "features and errors", *gram.sums)
            self.solve(site, fit)
        elif site is not None:
            self.left_out(site)

    def _begin(self, site: Site) -> Fit | None:
        """Empty statistics of a site that is to be fitted; None, and a record, for one that is
        not."""
        import torch

        self.masks[site.name] = torch.tensor(
            np.asarray(self.decide(site, self.resumed), dtype=np.float64), device=self.device
        )
        kept = torch.nonzero(self.masks[site.name]).flatten()  # [K]
        reason = OFTEN if site.name in self.often else self.skip(site, kept)
        if reason:
            self.records.append(SiteRecord(site.name, False, reason=reason))
            return None
        channels = torch.tensor(
            site.channels_of(kept.tolist()), dtype=torch.long, device=kept.device
        )
        hidden = output_of(self.model, site).out_features
        grams = [Gram(len(channels), hidden, self.device) for _ in range(2 if self.hold_out else 1)]
        return Fit(kept, channels, grams[0], grams[1] if self.hold_out else None)

    def _weights(self, site: Site | None) -> Callable[[Call], torch.Tensor | None]:
        """A function that gives the next batch's token weights [B, T], 0 on padding, at a mean of 1
        over all."""
        import torch

        array = self.token_weights.get(site.name) if site is not None else None
        if array is None:
            return lambda call: None
        flat = torch.as_tensor(np.asarray(array), dtype=torch.float32, device=self.device)
        flat = flat / flat.mean().clamp(min=1e-30)
        start = 0

        def next_weights(call: Call) -> torch.Tensor:
            nonlocal start
            count = int(call.real.sum())
            weights = torch.zeros(call.real.shape, device=self.device)
            weights[call.real] = flat[start : start + count]
            start += count
            return weights

        return next_weights

    def _held_out(self, call: Call) -> torch.Tensor:
        """bool [B]: every fifth example of the sample."""
        import torch

        rows = slice(call.first_row, call.first_row + len(call.real))
        known = getattr(self.batches, "numbers", None)
        numbers = (
            torch.arange(rows.start, rows.stop) if known is None else torch.tensor(known[rows])
        )
        held_out = (
            numbers % HELD_OUT == HELD_OUT - 1
            if self.hold_out
            else torch.zeros(len(numbers), dtype=torch.bool)
        )
        return held_out.to(self.device)

    def _positions(self, call: Call, last: bool) -> torch.Tensor:
        """bool [B, T]: the tokens that a site is fitted on."""
        import torch

        if not (last and self.head_positions == "first"):
            return call.real
        positions = torch.zeros_like(call.real)
        positions[:, 0] = True
        return positions

    def _closing_target(self, site: Site, trace: Trace) -> torch.Tensor:
        """The teacher's stream after the closing site. The reference's teacher has its FFN whole
        here, on a pruned prefix."""
        import torch

        stream = trace.streams[site.name]  # [B, T, d]
        mask = self.teacher_masks.get(site.name)
        if mask is None:
            return stream
        output = output_of(self.model, site)
        missing = (1.0 - mask).to(stream.dtype)  # [units]
        return stream + torch.nn.functional.linear(
            trace.features[site.name] * missing, output.weight
        )

    def _student_output(self, layer: list[Site], student: HiddenStates) -> None:
        """The student's hidden states after the layer, with what was found."""
        import torch

        closing = layer[-1]
        mask = self.masks[closing.name]
        kept = torch.nonzero(mask).flatten()
        with sliced(self.model, closing, kept, mask[kept]) as in_part:
            masks = {s.name: self.masks[s.name] for s in layer if not (in_part and s is closing)}
            for i, call in enumerate(self.calls):
                output = run_layer(self.model, layer, student[i], call, masks).output
                assert output is not None  # the run went to its end
                student[i] = output


def check_masks(
    sites: Sequence[Site], masks: Mapping[str, np.ndarray], *, all_sites: bool = True
) -> None:
    """Raises UsageError unless every site has a mask of 0 and 1, [units]."""
    for site in sites:
        mask = np.asarray(masks[site.name]) if site.name in masks else None
        if mask is None and not all_sites:
            continue
        if mask is None or mask.shape != (site.units,) or not np.isin(mask, (0, 1)).all():
            raise UsageError(
                f"The mask of {site.name} does not fit.",
                got="none" if mask is None else f"shape {mask.shape}",
                allowed=f"0 or 1 for each of its {site.units} units",
                next_step="give one mask for each site, of its number of units",
            )
