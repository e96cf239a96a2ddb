"""Where tensors live, and who solves: SciPy on the CPU, CuPy where a CUDA GPU has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Solver:
    """An array module with the iterative solver on it. `lsmr(A, b, **options)` returns (x, istop,
    iterations, ...)."""

    name: str  # "scipy" | "cupy"
    arrays: Any  # numpy | cupy
    lsmr: Callable[..., tuple]

    def array(self, tensor: torch.Tensor) -> Any:
        """`tensor` as an array of this module, on its device, float64."""
        if self.name == "cupy":
            return self.arrays.asarray(tensor.detach().cuda().double())
        return tensor.detach().cpu().double().numpy()

    def numpy(self, array: Any) -> np.ndarray:
        return self.arrays.asnumpy(array) if self.name == "cupy" else array


def default_device() -> torch.device:
    """The first CUDA GPU, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def model_device(model: torch.nn.Module) -> torch.device:
    """Where the model's parameters are (the CPU for a model without any)."""
    import torch

    return next((p.device for p in model.parameters()), torch.device("cpu"))


@contextmanager
def on_best_device(model: torch.nn.Module) -> Iterator[None]:
    """While open, the model is on the first CUDA GPU, if there is one; afterwards where it was."""
    before, best = model_device(model), default_device()
    if best == before:
        yield
        return
    model.to(best)
    try:
        yield
    finally:
        model.to(before)
        if best.type == "cuda":  # torch would keep the memory, and the runtimes beside it need it
            import torch

            torch.cuda.empty_cache()


def solver_module(device: torch.device | None = None) -> Solver:
    """CuPy where `device` is a CUDA GPU (default: where there is one) and CuPy works on it; SciPy
    otherwise."""
    device = default_device() if device is None else device
    if device.type == "cuda":
        try:
            import cupy
            from cupyx.scipy.sparse.linalg import lsmr as cupy_lsmr

            # A CuPy without its CUDA libraries fails here, not in the middle of the tuning.
            cupy.zeros(1) + 1
            return Solver("cupy", cupy, cupy_lsmr)
        except Exception:
            # Missing, built for another CUDA, no driver: SciPy solves the same system.
            pass
    import numpy
    from scipy.sparse.linalg import lsmr as scipy_lsmr

    return Solver("scipy", numpy, scipy_lsmr)
