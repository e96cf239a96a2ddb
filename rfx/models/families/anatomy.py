"""What lies around a projection that the probe found: the module that gives its input or output
whole, the norm behind it, the layer that it is in. Seen in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass
class Seen:
    """Tensors of one forward pass, which live as long as this does: two that lie at one place in
    memory are one and the same.

    Args:
        fed: by module, the first tensor that it was given, by call.
        given: by module, the first tensor that it gave, by call; and how many things it gave with
            it (0: the tensor alone).
        order: modules in the order in which they ended.
    """

    fed: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    given: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    returns: dict[str, int] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)


def watch(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Seen:
    """One forward pass of an example."""
    import torch

    seen, names = Seen(), {m: n for n, m in model.named_modules()}

    def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        path = names[module]
        found = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)]
        first = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(first, torch.Tensor):
            return
        seen.fed.setdefault(path, []).append(found[0] if found else first.new_empty(0))
        seen.given.setdefault(path, []).append(first)
        seen.returns[path] = len(output) if isinstance(output, tuple) else 0
        seen.order.append(path)

    handles = [m.register_forward_hook(see, with_kwargs=True) for m in model.modules()]
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors of one pass are the same one."""
    return a is b or (
        a.shape == b.shape and a.data_ptr() == b.data_ptr() and a.stride() == b.stride()
    )


def block_of(
    model: nn.Module, seen: Seen, output: str, producers: Sequence[str], known: Sequence[str]
) -> str:
    """The largest module that gives what the projection gives or is fed, and in which no other
    dense module runs than the projection and its producers; empty where there is none.

    Args:
        output: path of the projection.
        known: paths of all dense modules.
    """
    others = set(known) - {output, *producers}
    for path, _ in model.named_modules():  # parents come before their children
        inside = [p for p in known if p == path or p.startswith(path + ".")]
        if not path or not {*producers} <= {*inside} or others & {*inside}:
            continue
        given = seen.given.get(path, [])
        ends = seen.given[output] if output in inside else seen.fed[output]
        if len(given) == len(ends) and all(same(a, b) for a, b in zip(given, ends, strict=True)):
            return path
    return ""


def norms_after(
    model: nn.Module, seen: Seen, inputs: Mapping[str, torch.Tensor], outputs: Sequence[str]
) -> dict[str, str]:
    """By projection, the first module that normalises what the projection's output has been added
    to; empty where there is none. Seen by NaNs in the output, in a row of the batch for each
    projection."""
    import torch

    if not outputs:
        return {}
    norms = [n for n in dict.fromkeys(seen.order) if _is_norm(model, seen, n)]
    hit: dict[str, torch.Tensor] = {}
    fed = {k: v.expand(len(outputs), *v.shape[1:]).contiguous() for k, v in inputs.items()}

    def poison(row: int) -> Callable[..., torch.Tensor]:
        def after(_module: nn.Module, _args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            output[row] = float("nan")
            return output

        return after

    def look(name: str) -> Callable[..., None]:
        def before(_module: nn.Module, args: tuple[Any, ...]) -> None:
            x = args[0]
            if len(x) == len(outputs):
                hit.setdefault(name, torch.isnan(x).flatten(1).any(1))

        return before

    handles = [
        model.get_submodule(p).register_forward_hook(poison(i)) for i, p in enumerate(outputs)
    ]
    handles += [model.get_submodule(n).register_forward_pre_hook(look(n)) for n in norms]
    try:
        with torch.no_grad():
            model(**fed)
    finally:
        for handle in handles:
            handle.remove()
    return {
        p: next((n for n in norms if n in hit and bool(hit[n][i])), "")
        for i, p in enumerate(outputs)
    }


def _is_norm(model: nn.Module, seen: Seen, path: str) -> bool:
    module, fed, given = model.get_submodule(path), seen.fed[path][0], seen.given[path][0]
    alike = fed.shape == given.shape and fed.is_floating_point()
    return alike and next(module.children(), None) is None and normalises(module, fed)


def normalises(module: torch.nn.Module, x: torch.Tensor) -> bool:
    """Whether a module's output stays as it is where its input, of the shape of `x`, is scaled."""
    import torch

    generator = torch.Generator().manual_seed(0)
    some = torch.randn(x.shape, generator=generator).to(x)
    with torch.no_grad():
        once, twice = module(some), module(2 * some)
    scale = once.std()
    # A norm's epsilon makes a small difference, a constant output is no norm.
    return bool(scale > 0) and bool((once - twice).abs().max() <= 1e-3 * scale)


def chain(model: nn.Module, seen: Seen, outputs: Sequence[str]) -> list[str]:
    """Paths of the layers: modules of one list, each called once with what the one before gave, in
    which the projections are, but for one beside them. [] where there are none such."""
    from torch import nn

    best: list[str] = []
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList):
            continue
        paths = [f"{path}.{i}" for i in range(len(module))]
        used = [p for p in paths if any(o.startswith(p + ".") for o in outputs)]
        inside = sum(o.startswith(path + ".") for o in outputs)
        once = all(len(seen.given.get(p, ())) == 1 for p in used)
        if inside < len(outputs) - 1 or not once or len(used) <= len(best):
            continue
        if all(same(seen.given[a][0], seen.fed[b][0]) for a, b in pairwise(used)):
            best = used
    return best
