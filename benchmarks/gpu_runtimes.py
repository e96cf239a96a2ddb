"""The runtimes of the GPU benchmark, by what they can do."""

from __future__ import annotations

import functools

from rfx.core.errors import UserError
from rfx.runtimes.find import runtime_class, runtime_names


@functools.cache
def on_gpu(name: str) -> bool:
    """Whether a runtime computes on a GPU; false of one that is not known here or does not load."""
    try:
        return runtime_class(name).capabilities.device == "gpu"
    except UserError:
        return False


def gpu_runtimes() -> list[str]:
    """The names of those that do, the preferred first, whether they can run here or not."""
    names = [name for name in runtime_names() if on_gpu(name)]
    return sorted(names, key=lambda name: runtime_class(name).capabilities.preference)
