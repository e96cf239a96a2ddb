"""Running a model layer by layer, teacher beside student, with what a compensation needs to see of
every layer.

The layers are called as the model itself calls them (`rfx.models.calls`). A model without a chain
of layers is run whole, as if it were one layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rfx.core.plan import Kind, Site
from rfx.models.calls import MODEL, Call, Given, HiddenStates, Stop, hook
from rfx.models.families.taint import tensors
from rfx.models.modules import linear_at, output_of

if TYPE_CHECKING:
    import torch


# what is called before a module runs; gives its new arguments, or None to leave them as they are
PreHook = Callable[["torch.nn.Module", tuple], "tuple | None"]


class Resumed:
    """A model that begins at one of its layers, from hidden states that are kept: the layers before
    it do nothing.

    Args:
        before: paths of the layers that have been run. layer: path of the one that comes next.
        hidden: its input, by batch. in_tuple: whether a layer gives its output as the first of a
            tuple.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        before: Sequence[str],
        layer: str,
        hidden: HiddenStates,
        in_tuple: bool,
    ):
        self._whole = layer == MODEL
        self._before = [model.get_submodule(p) for p in before]
        self._layer, self._hidden, self._in_tuple = model.get_submodule(layer), hidden, in_tuple

    @contextmanager
    def rows(self, number: int, start: int, stop: int) -> Iterator[None]:
        """While open, a forward pass of the examples `start` to `stop` of batch `number` begins at
        the layer."""
        if self._whole:
            yield
            return
        hidden = self._hidden[number][start:stop]

        def pass_on(*args: Any, **kwargs: Any) -> torch.Tensor | tuple[torch.Tensor]:
            _, same = Given.of(args, kwargs)
            return (same,) if self._in_tuple else same

        def swap(_module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            return Given.of(args, kwargs)[0].with_hidden(hidden)

        with ExitStack() as stack:
            for module in self._before:
                stack.callback(_restore_forward, module, module.__dict__.get("forward"))
                module.forward = pass_on
            stack.enter_context(hook(self._layer, swap))
            yield


def _restore_forward(module: torch.nn.Module, own: Callable[..., Any] | None) -> None:
    if own is None:
        del module.forward
    else:
        module.forward = own


@dataclass
class Trace:
    """What one layer showed. By site name: `features` the output projection's input before any mask
    [B, T, channels], `streams` the residual stream after the site's sublayer and before the
    LayerNorm [B, T, d]. `output` [B, T, d]."""

    features: dict[str, torch.Tensor] = field(default_factory=dict)
    streams: dict[str, torch.Tensor] = field(default_factory=dict)
    output: torch.Tensor | None = None


def stream_is_output(site: Site) -> bool:
    """Whether the site's stream is the layer's output: no norm of the layer follows (pre-LN)."""
    return bool(site.layer_path) and not site.norm.startswith(site.layer_path + ".")


def run_layer(
    model: torch.nn.Module,
    sites: Sequence[Site],
    hidden: torch.Tensor,
    call: Call,
    masks: Mapping[str, torch.Tensor] | None = None,
    *,
    until: Site | None = None,
) -> Trace:
    """Run the layer of `sites` on `hidden` [B, T, d] with `masks` (site name -> [units]) on its
    projections' inputs. Where the stream has another width than the projection gives (a layer that
    projects once more, as MobileBERT's), the projection's own output stands in for it.

    With `until` the run ends at that site's stream and `output` stays None where it could.
    """
    trace, masks = Trace(), masks or {}
    given: dict[str, torch.Tensor] = {}  # by the projections themselves

    def watch_features(site: Site) -> PreHook:
        mask = masks.get(site.name)
        mask = None if mask is None else mask.repeat_interleave(site.width)  # [channels]

        def see(_module: torch.nn.Module, args: tuple) -> tuple | None:
            trace.features[site.name] = args[0]
            return None if mask is None else (args[0] * mask.to(args[0].dtype), *args[1:])

        return see

    def watch_output(site: Site) -> Callable[..., None]:
        def see(_module: torch.nn.Module, _args: tuple, output: torch.Tensor) -> None:
            given[site.name] = output

        return see

    def stream(site: Site, found: torch.Tensor) -> torch.Tensor:
        own = given.get(site.name)
        return found if own is None or found.shape[-1] == own.shape[-1] else own

    def watch_stream(site: Site) -> Callable[..., None]:
        def see(_module: torch.nn.Module, args: tuple, *output: torch.Tensor) -> None:
            trace.streams[site.name] = stream(site, output[0] if output else args[0])
            if until is not None and until.name == site.name:
                raise Stop

        return see

    with ExitStack() as stack:
        for site in sites:
            output = model.get_submodule(site.output)
            handles = [
                output.register_forward_pre_hook(watch_features(site)),
                output.register_forward_hook(watch_output(site)),
            ]
            if stream_is_output(site):
                pass
            elif site.norm:
                norm = model.get_submodule(site.norm)
                handles.append(norm.register_forward_pre_hook(watch_stream(site)))
            else:  # what the projection gives is all that there is to compare
                handles.append(output.register_forward_hook(watch_stream(site)))
            for handle in handles:
                stack.callback(handle.remove)
        with suppress(Stop):
            trace.output = call.run(model, sites[0].layer_path, hidden)
            for site in sites:
                if stream_is_output(site):
                    assert trace.output is not None  # it is a layer's
                    trace.streams[site.name] = stream(site, trace.output)
    return trace


def reads_first(model: torch.nn.Module, last: Site, inputs: Mapping[str, torch.Tensor]) -> bool:
    """Whether the model's outputs hang on the first position alone of what its last site gives:
    numbers that are none in all other positions do not show in them.

    Args:
        inputs: a batch, of which two examples are run.
    """
    import torch

    def poison(_module: torch.nn.Module, _args: tuple, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[:, 1:] = float("nan")
        return output

    handle = model.get_submodule(last.output).register_forward_hook(poison)
    try:
        with torch.no_grad():
            outputs = model(**{k: v[:2] for k, v in inputs.items()})
    finally:
        handle.remove()
    return not any(bool(torch.isnan(t).any()) for t in tensors(outputs))


def called_often(
    model: torch.nn.Module, sites: Sequence[Site], hidden: torch.Tensor, call: Call
) -> frozenset[str]:
    """The sites of a layer whose output projection runs more than once in a pass: layers that share
    their weights."""
    calls: Counter[str] = Counter()
    with ExitStack() as stack:
        for site in sites:
            count = lambda *_, name=site.name: calls.update([name])  # noqa: E731
            output = model.get_submodule(site.output)
            stack.callback(output.register_forward_pre_hook(count).remove)
        call.run(model, sites[0].layer_path, hidden)
    return frozenset(name for name, times in calls.items() if times > 1)


@contextmanager
def sliced(
    model: torch.nn.Module, site: Site, kept: torch.Tensor, scale: torch.Tensor | None = None
) -> Iterator[bool]:
    """While open, the site has only its `kept` units (int64 [K]), their outputs times `scale` [K]:
    what the masked one computes, for a part of the work. Yields whether it could be done, which is
    where nothing but rows and columns has to be cut; the modules are as before afterwards."""
    import torch

    inputs = [linear_at(model, p) for p in site.inputs]
    output = output_of(model, site)
    fits = (
        site.kind is Kind.FFN
        and not site.tables
        and len(kept) > 0
        and all(isinstance(m, torch.nn.Linear) and m.out_features == site.channels for m in inputs)
        and isinstance(output, torch.nn.Linear)
    )
    if not fits:
        yield False
        return
    before = [(m, m.weight, m.bias) for m in (*inputs, output)]

    def put(module: torch.nn.Linear, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        module.weight = torch.nn.Parameter(weight, requires_grad=False)
        free = None if bias is None else torch.nn.Parameter(bias, requires_grad=False)
        module.register_parameter("bias", free)

    try:
        for m in inputs:
            put(m, m.weight.detach()[kept], None if m.bias is None else m.bias.detach()[kept])
        weight = output.weight.detach()[:, kept]
        put(output, weight if scale is None else weight * scale.to(weight.dtype), output.bias)
        yield True
    finally:
        for m, weight, bias in before:
            m.weight = weight
            m.register_parameter("bias", bias)
