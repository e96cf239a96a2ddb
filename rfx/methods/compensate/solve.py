"""The solvers of mask tuning: from a site's normal equations to one scale a kept unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rfx.core.device import solver_module
from rfx.methods.compensate.gram import ScaleSystem

if TYPE_CHECKING:
    import torch

RANGE = 10.0  # scales outside [-10, 10] are not believed (Kwon et al. 2022, section 4.3)


@dataclass(frozen=True)
class Solution:
    """`r` float64 [K] with scales 1 + r, or None and the `reason` why there is none."""

    r: torch.Tensor | None
    reason: str = ""


def damped_least_squares(system: ScaleSystem, damp: float = 1.0) -> Solution:
    """min || A r - vec(E) ||^2 + damp^2 ||r||^2, the paper's problem: (G + damp^2 I) r = g.

    Cholesky in float64; LSMR on the same matrix where rounding has left it without one.
    """
    import torch

    n = len(system.right)
    matrix = system.normal + damp**2 * torch.eye(
        n, dtype=torch.float64, device=system.normal.device
    )
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if not int(failed):
        r = torch.cholesky_solve(system.right[:, None], factor)[:, 0]
        if bool(torch.isfinite(r).all()):
            return _in_range(r)
    r, stop = _lsmr(matrix, system.right, damp=0.0, maxiter=max(100, 5 * n))
    return (
        _in_range(r)
        if stop in (0, 1, 2, 4, 5)
        else Solution(None, f"LSMR did not converge (istop {stop})")
    )


def reference_lsmr(system: ScaleSystem, *, ones_column: bool) -> Solution:
    """As the paper's code solves it: LSMR with damp 1 on the normal matrix itself, min || G r - g
    ||^2 + ||r||^2, where the tolerance at which it stops is what regularises. For MHA a column of
    ones joins A, started from 1 like the others, and its coefficient is thrown away.
    """
    import torch

    matrix, right = system.normal, system.right
    if ones_column:
        cross, square, error = system.ones
        matrix = torch.cat(
            [
                torch.cat([matrix, cross[:, None]], 1),
                torch.cat([cross, cross.new_tensor([square])])[None],
            ]
        )
        right = torch.cat([right - cross, right.new_tensor([error - square])])
    r, stop = _lsmr(matrix, right, damp=1.0, maxiter=5 * len(right))
    if stop not in (0, 1, 2):
        return Solution(None, f"LSMR did not converge (istop {stop})")
    return _in_range(r[: len(system.right)])


def _lsmr(
    matrix: torch.Tensor, right: torch.Tensor, *, damp: float, maxiter: int
) -> tuple[torch.Tensor, int]:
    import torch

    solver = solver_module(matrix.device)
    x, stop, *_ = solver.lsmr(
        solver.array(matrix),
        solver.array(right),
        damp=damp,
        atol=1e-6,
        btol=1e-6,
        conlim=1e8,
        maxiter=maxiter,
    )
    return torch.as_tensor(solver.numpy(x), dtype=torch.float64, device=right.device), int(stop)


def _in_range(r: torch.Tensor) -> Solution:
    largest = float((1.0 + r).abs().max()) if len(r) else 0.0
    if not largest <= RANGE:  # NaN too
        return Solution(None, f"a scale of {largest:.3g} is outside [-10, 10]")
    return Solution(r)
