"""A model with its first layers alone, for timing."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rfx.core.errors import is_interrupt
from rfx.core.inputs import InputSpec
from rfx.core.site import Site
from rfx.core.workload import Workload

if TYPE_CHECKING:
    from torch import nn


def layer_number(site: Site) -> int:
    """The number of a site's layer in the list of the model's layers, which may have several sites
    of a kind; that of the site where no list says it."""
    number = site.layer_path.rpartition(".")[2]
    return int(number) if number.isdigit() else site.layer


def first_layers(
    model: nn.Module, sites: Sequence[Site], inputs: InputSpec, layers: int
) -> nn.Module | None:
    """The same model in which `layers` layers are left, sharing its weights; None where its layers
    are not a list that can be cut, or where what is left does not run."""
    import torch
    from torch import nn

    parents = {s.layer_path.rpartition(".")[0] for s in sites}
    numbers = [s.layer_path.rpartition(".")[2] for s in sites]
    if len(parents) != 1 or parents == {""} or not all(n.isdigit() for n in numbers):
        return None
    (path,) = parents
    whole = model.get_submodule(path)
    if not isinstance(whole, nn.ModuleList) or len(whole) != 1 + max(map(int, numbers)):
        return None
    shared = {id(p): p for p in (*model.parameters(), *model.buffers())}
    short = copy.deepcopy(model, shared)
    above, _, name = path.rpartition(".")
    kept = [short.get_submodule(f"{path}.{i}") for i in range(layers)]
    setattr(short.get_submodule(above), name, nn.ModuleList(kept))
    example = inputs.example(Workload.of_text(batch=2, sequence=7))
    try:
        with torch.no_grad():
            short(**{n: torch.from_numpy(v) for n, v in example.items()})
    except Exception as error:  # whatever a forward pass raises that misses its layers
        if is_interrupt(error):
            raise
        return None
    return short
