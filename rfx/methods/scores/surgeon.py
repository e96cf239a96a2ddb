"""What removing units of one site costs when the rest make up for it: structured optimal brain
surgery.

With features Z (Gram matrix A = Z^T Z, centred where a free bias takes their mean), projection W
[d, n] and an output metric M [d, d] a change dW costs tr(dW^T M dW A) / 2. Removing the columns S
and re-solving the others costs tr(W_S^T M W_S P_SS^-1) / 2 with P = A^-1, moves the others by dW_K
= -W_S P_SS^-1 P_SK, and takes the Schur complement of P_SS from P (Hassibi and Stork 1993 for
single weights; Kurtic, Frantar and Alistarh 2023, ZipLM, for structures). Greedy; the costs of the
steps add up to the joint cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

DAMPING = 1e-3  # of the mean diagonal of A
# about so many removals of single channels at once: filters go in blocks of units / STEPS, at least
# 8
STEPS = 96


@dataclass(frozen=True)
class RemovalCurve:
    """`order` int64 [units], first to go first; `added` float64 [units], what each removal adds to
    the damage, in that order, >= 0; `weights` [d, n] by number of removed units, zero in their
    columns, where they were asked for."""

    order: np.ndarray
    added: np.ndarray
    weights: Mapping[int, torch.Tensor]


def removal_curve(
    gram: torch.Tensor,
    weight: torch.Tensor,
    metric: torch.Tensor,
    width: int,
    *,
    damping: float = DAMPING,
    checkpoints: Sequence[int] = (),
) -> RemovalCurve:
    """The order in which the units of a site should go, and what each removal adds to the damage.

    Args:
        gram: A, [n, n]. weight: W [d, n]. metric: M [d, d], positive semi-definite.
        width: channels of a unit; heads go one at a time, filters (width 1) some at a time by the
            diagonal form.
        checkpoints: numbers of removed units at which the re-solved weights are wanted.
    """
    import torch

    n = gram.shape[0]
    units = n // width
    a = gram.double()
    scale = float(a.diagonal().mean())
    if not scale > 0:  # features that are all zero
        return RemovalCurve(np.arange(units), np.zeros(units), {})
    p = _inverse(a, damping * scale)  # [n, n]
    v = _root(metric).T @ weight.double()  # [r, n], |v_i|^2 = w_i^T M w_i
    w = weight.double() if checkpoints else None
    wanted = sorted(set(checkpoints))
    states: dict[int, torch.Tensor] = {}
    alive = torch.arange(units, device=a.device)
    order, added = [], []
    block = 1 if width > 1 else max(8, units // STEPS)
    while len(alive):
        if width > 1:
            costs = _block_costs(p, v, width)
            chosen = costs.argmin()[None]
            step = costs[chosen]
        else:
            costs = v.square().sum(0) / p.diagonal().clamp(min=1e-300)
            size = min(block, len(alive))
            chosen = costs.topk(size, largest=False).indices
            chosen = chosen[costs[chosen].argsort(stable=True)]
            step = costs[chosen]
        gone = (
            chosen[:, None] * width + torch.arange(width, device=a.device)
        ).flatten()  # channels
        stay = torch.ones(len(p), dtype=torch.bool, device=a.device)
        stay[gone] = False
        # P_SS^-1 P_S: [s, n']
        solved = torch.cholesky_solve(p[gone], torch.linalg.cholesky(_stable(p[gone][:, gone])))
        if width == 1:  # what the block really costs, shared out as the diagonal form says
            joint = 0.5 * float(
                (v[:, gone] @ torch.linalg.inv(_stable(p[gone][:, gone])) * v[:, gone]).sum()
            )
            share = (
                step / step.sum() if float(step.sum()) > 0 else torch.full_like(step, 1 / len(step))
            )
            step = joint * share
        v = (v - v[:, gone] @ solved)[:, stay]
        if w is not None:
            w = (w - w[:, gone] @ solved)[:, stay]
        rest = torch.nonzero(stay).flatten()
        p = p[rest][:, rest] - p[rest][:, gone] @ solved[:, rest]
        order.append(alive[chosen])
        added.append(step.clamp(min=0))
        keep = torch.ones(len(alive), dtype=torch.bool, device=a.device)
        keep[chosen] = False
        alive = alive[keep]
        removed = units - len(alive)
        while wanted and wanted[0] <= removed:  # the first state at or beyond it
            wanted.pop(0)
            full = torch.zeros(weight.shape, dtype=torch.float64, device=a.device)
            channels = (alive[:, None] * width + torch.arange(width, device=a.device)).flatten()
            assert w is not None  # it is followed where there are checkpoints
            full[:, channels] = w
            states[removed] = full
    return RemovalCurve(
        torch.cat(order).cpu().numpy().astype(np.int64),
        torch.cat(added).double().cpu().numpy(),
        states,
    )


def _root(metric: torch.Tensor) -> torch.Tensor:
    """L with L L^T = M, [d, r]: by eigenvectors, for a metric of few gradients has less than full
    rank."""
    import torch

    values, vectors = torch.linalg.eigh(metric.double())
    keep = values > values[-1].clamp(min=0) * 1e-12
    return vectors[:, keep] * values[keep].sqrt()


def _block_costs(p: torch.Tensor, v: torch.Tensor, width: int) -> torch.Tensor:
    """tr(V_S P_SS^-1 V_S^T) / 2 of every unit, [units]."""
    import torch

    units = len(p) // width
    # [units, width, width]
    blocks = p.view(units, width, units, width).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    vs = v.view(len(v), units, width).permute(1, 2, 0)  # [units, width, r]
    solved = torch.cholesky_solve(vs, torch.linalg.cholesky(_stable(blocks)))
    return 0.5 * (vs * solved).sum((1, 2))


def _stable(blocks: torch.Tensor) -> torch.Tensor:
    """A hair on the diagonal, for what rounding took from it."""
    import torch

    mean = blocks.diagonal(dim1=-2, dim2=-1).mean(-1).abs().clamp(min=1e-300)
    return blocks + 1e-10 * mean[..., None, None] * torch.eye(
        blocks.shape[-1], dtype=blocks.dtype, device=blocks.device
    )


def _inverse(a: torch.Tensor, ridge: float) -> torch.Tensor:
    """(A + ridge I)^-1; of examples that are all alike A is rounding alone, and takes a larger
    ridge."""
    import torch

    eye = torch.eye(len(a), dtype=a.dtype, device=a.device)
    for _ in range(8):
        factor, failed = torch.linalg.cholesky_ex(a + ridge * eye)
        if not failed:
            return torch.cholesky_inverse(factor)
        ridge *= 10
    return torch.cholesky_inverse(torch.linalg.cholesky(a + ridge * eye))
