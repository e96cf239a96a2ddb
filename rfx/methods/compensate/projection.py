"""Reconstruction of output projections: least squares on W_O and W_2 from the streamed Gram
matrices.

For every site, in execution order, the kept channels Z of the student are fitted to what the dense
model's residual stream
holds before the LayerNorm and the rest of the student does not: min over dW of || Z dW^T - E ||^2 +
ridge ||dW||^2, a ridge towards the old weights. "projection" leaves the bias as it is (K-prune's
weight tuning, Park, Choi and Kang 2024, section 4.4, there without a ridge); "affine" fits it too,
and gives an emptied sublayer its best constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.core.inputs import Batch
from rfx.core.plan import Site, Update
from rfx.core.progress import Progress, Silent
from rfx.core.registry import register
from rfx.methods.compensate.base import Compensated, Compensator, Masks
from rfx.methods.compensate.gram import Gram
from rfx.methods.compensate.walk import Decide, Fit, SiteRecord, Walk
from rfx.models.modules import output_of

if TYPE_CHECKING:
    import torch

RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the mean diagonal of the Gram matrix


@dataclass(frozen=True)
class Reconstruction:
    """`weights[site]` float64 [d, kept channels] and `biases[site]` float64 [d] of the sites that
    were refitted; `masks[site]` the 0/1 masks they belong to; `sites` has a record each."""

    weights: Mapping[str, np.ndarray]
    biases: Mapping[str, np.ndarray]
    masks: Mapping[str, np.ndarray]
    sites: tuple[SiteRecord, ...]


def reconstruct(
    model: torch.nn.Module,
    sites: Sequence[Site],
    masks: Mapping[str, np.ndarray] | Decide,
    batches: Iterable[Batch],
    *,
    bias: bool = True,
    head_positions: str = "all",
    token_weights: Mapping[str, np.ndarray] | None = None,
    progress: Progress | None = None,
    title: str = "reconstruct",
) -> Reconstruction:
    """Refit the output projection of every site in execution order.

    Args:
        model: the dense model; it is left as it was.
        masks: 0/1 by site name, [units], or a function that gives each site's when its turn comes
            (see `Walk`).
        bias: fit the biases too, of the projections that have one.
        head_positions, token_weights: see `Walk`.

    Raises:
        UsageError: masks that do not fit, no examples. UnsupportedModelError: layers that cannot be
            run one by one.
    """
    walk = _Projection(model, sites, masks, batches, head_positions, token_weights)
    walk.bias = bias
    walk.run(progress or Silent(), title)
    return Reconstruction(
        walk.weights,
        walk.biases,
        {n: m.cpu().numpy() for n, m in walk.masks.items()},
        tuple(walk.records),
    )


class _Projection(Walk):
    bias = True
    narrow_attention = True  # what the last attention gives at other positions reaches nothing

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.weights: dict[str, np.ndarray] = {}
        self.biases: dict[str, np.ndarray] = {}

    def skip(self, site: Site, kept: torch.Tensor) -> str:
        return "" if self._fits_bias(site) else super().skip(site, kept)

    def _fits_bias(self, site: Site) -> bool:
        """A projection without a bias stays without one."""
        return self.bias and output_of(self.model, site).bias is not None

    def left_out(self, site: Site) -> None:
        """Nothing is left of it: others may score the student as it stands."""
        import torch

        self.patch(site, torch.zeros_like(output_of(self.model, site).weight), None)

    def solve(self, site: Site, fit: Fit) -> None:
        """The ridge by the error on the held-out examples, then a fit on all of them; kept where
        that error falls."""
        import torch

        module, bias = output_of(self.model, site), self._fits_bias(site)
        old = module.weight.detach()[:, fit.channels].double()  # [d, K * width]
        old_bias = (
            torch.zeros(len(old), dtype=torch.float64)
            if module.bias is None
            else module.bias.detach().double().cpu()
        )
        held_out = fit.held_out
        assert held_out is not None  # a walk of this kind holds examples out
        before = error_of(held_out, None) if held_out.rows else None
        choice: tuple[float, float] | None = None  # (held-out error, ridge)
        if before is not None and fit.fit.rows:
            system = RidgeSystem(fit.fit, bias)
            held_zz = held_out.zz
            tries = [
                (error_of(held_out, system.solve(r), held_zz), r)
                for r in (RIDGES if len(fit.channels) else (0.0,))
            ]
            choice = min((t for t in tries if np.isfinite(t[0])), default=None)
        accepted = choice is not None and before is not None and choice[0] < before
        reason = (
            ""
            if accepted
            else "there are no held-out examples"
            if before is None
            else "the held-out error does not fall"
        )
        record = SiteRecord(
            site.name,
            accepted,
            before,
            choice[0] if choice else None,
            reason,
            error_of(fit.fit, None),
            choice[1] if choice else None,
        )
        self.records.append(record)
        new, new_bias = old, old_bias.to(old.device)
        if accepted and choice is not None:
            fit.fit.absorb(held_out)
            change, shift = RidgeSystem(fit.fit, bias).solve(choice[1])
            new, new_bias = old + change.T, new_bias + shift
            self.weights[site.name] = new.cpu().numpy()
            if bias:
                self.biases[site.name] = new_bias.cpu().numpy()
        # Whatever was found, the student's pruned columns are zero from now on: others may score it
        # as it stands.
        full = torch.zeros(module.weight.shape, dtype=torch.float64, device=old.device)
        full[:, fit.channels] = new
        self.patch(site, full, new_bias if accepted and bias else None)


class RidgeSystem:
    """(C + ridge * mean diagonal of C) dW = Z^T E; with a free bias, on centred features and
    errors."""

    def __init__(self, gram: Gram, bias: bool):
        self.bias, self.rows = bias, max(float(gram.rows), 1e-30)
        self.c, self.right = gram.centred if bias else gram.zz, gram.ze
        self.z, self.e = gram.z_sum, gram.e_sum
        if bias:
            self.right = self.right - self.z[:, None] * self.e[None] / self.rows
        self.scale = float(self.c.diagonal().mean()) if len(self.c) else 0.0

    def solve(self, ridge: float) -> tuple[torch.Tensor, torch.Tensor]:
        """dW [n, d] and the bias's change [d], float64. By Cholesky; by least squares where
        rounding leaves none."""
        import torch

        matrix = self.c + ridge * max(self.scale, 1e-30) * torch.eye(
            len(self.c), dtype=torch.float64, device=self.c.device
        )
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if int(failed):
            change = torch.linalg.lstsq(matrix.cpu(), self.right.cpu(), driver="gelsd").solution.to(
                self.right.device
            )
        else:
            change = torch.cholesky_solve(self.right, factor)
        shift = (self.e - self.z @ change) / self.rows if self.bias else torch.zeros_like(self.e)
        return change, shift


def error_of(
    gram: Gram, found: tuple[torch.Tensor, torch.Tensor] | None, zz: torch.Tensor | None = None
) -> float:
    """Mean squared error a row and channel once `found` (dW [n, d], the bias's change [d]) is in
    place."""
    squared = gram.ee
    if found is not None:
        change, shift = found
        zz = gram.zz if zz is None else zz
        squared += float((change * (zz @ change)).sum()) - 2.0 * float((change * gram.ze).sum())
        squared += 2.0 * float(shift @ (gram.z_sum @ change)) - 2.0 * float(shift @ gram.e_sum)
        squared += float(gram.rows) * float(shift @ shift)
    return max(0.0, squared) / max(1e-30, float(gram.rows) * len(gram.e_sum))


@register("compensation", "projection")
class Projection(Compensator):
    """See `reconstruct`: the weights alone."""

    name, verb, on_the_way = "projection", "reconstruct", True
    bias = False

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
        found = reconstruct(
            model,
            sites,
            masks,
            batches,
            bias=self.bias,
            head_positions=head_positions,
            token_weights=token_weights,
            progress=progress,
        )
        return Compensated(
            Update(weights=found.weights, biases=found.biases), found.masks, found.sites
        )


@register("compensation", "affine")
class Affine(Projection):
    """See `reconstruct`: weights and bias; an emptied sublayer gets its best constant."""

    name, bias = "affine", True
