"""Running a model layer by layer, teacher beside student, with what a compensation needs to see of
every layer.

The layers are called as the model itself calls them: the first layer's arguments are caught from a
forward pass that stops there. Between layers only hidden states are kept, in half precision where
they are many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rfx.core.device import model_device
from rfx.core.errors import UnsupportedModelError, UsageError
from rfx.core.inputs import Batch
from rfx.core.plan import Kind, Site
from rfx.models.modules import linear_at, output_of

if TYPE_CHECKING:
    import torch

# A store of hidden states larger than this goes to half precision.
_FULL_PRECISION_BYTES = 256 << 20


# what is called before a module runs; gives its new arguments, or None to leave them as they are
PreHook = Callable[["torch.nn.Module", tuple], "tuple | None"]


class _Stop(Exception):  # noqa: N818 - it is no error
    """Ends a forward pass that has shown what was wanted."""


@dataclass(frozen=True)
class Call:
    """How the model calls its layers for one batch, and which of its tokens count."""

    args: tuple  # positional, without the hidden states
    kwargs: Mapping[str, Any]  # without the hidden states
    real: torch.Tensor  # bool [B, T], False on padding
    first_row: int  # number of the batch's first row in the sample
    in_tuple: bool = False  # whether a layer gives its output as the first of a tuple

    def run(self, layer: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        """The layer's output [B, T, d] on `hidden` [B, T, d]."""
        output = layer(hidden, *self.args, **self.kwargs)
        return output[0] if isinstance(output, tuple) else output


class HiddenStates:
    """Hidden states [B, T, d] by batch: as they come while they are few, in float16 once they are
    many."""

    def __init__(self) -> None:
        self._states: list[torch.Tensor] = []
        self._bytes, self._half = 0, False
        self._dtype: torch.dtype | None = None  # of what came in

    def __len__(self) -> int:
        return len(self._states)

    def append(self, hidden: torch.Tensor) -> None:
        self._dtype = hidden.dtype
        self._bytes += hidden.numel() * hidden.element_size()
        if not self._half and self._bytes > _FULL_PRECISION_BYTES:
            self._half = True
            self._states = [self._shrunk(h) for h in self._states]
        self._states.append(self._shrunk(hidden) if self._half else hidden)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self._states[i].to(self._dtype)

    def __setitem__(self, i: int, hidden: torch.Tensor) -> None:
        self._states[i] = self._shrunk(hidden) if self._half else hidden

    def copy(self) -> HiddenStates:
        """Another list of the same tensors: none is ever changed in place."""
        other = HiddenStates()
        other.__dict__.update(self.__dict__, _states=list(self._states))
        return other

    @staticmethod
    def _shrunk(hidden: torch.Tensor) -> torch.Tensor:
        import torch

        half = hidden.half()
        # Beyond float16's range: as it is.
        return half if bool(torch.isfinite(half).all()) else hidden


def catch_first_layer(
    model: torch.nn.Module, layer_paths: Sequence[str], batches: Iterable[Batch]
) -> tuple[HiddenStates, list[Call]]:
    """The first layer's hidden states and call of every batch. The model runs no further than that.

    Raises:
        UnsupportedModelError: the layers are called with different arguments.
        UsageError: no batches.
    """
    import torch

    device = model_device(model)
    hidden, seen, in_tuple = HiddenStates(), 0, False
    calls: list[Call] = []
    first = model.get_submodule(layer_paths[0])
    for inputs, _ in batches:
        inputs = {k: v.to(device) for k, v in inputs.items()}
        if not calls:
            in_tuple = _require_equal_calls(model, layer_paths, inputs)
        caught: list[tuple[tuple, dict]] = []
        with _hook(first, _catcher(caught, stop=True)), suppress(_Stop):
            model(**inputs)
        args, kwargs, states = _without_hidden(*caught[0])
        real = inputs.get("attention_mask")
        real = (
            torch.ones(states.shape[:2], dtype=torch.bool, device=device)
            if real is None
            else real.bool()
        )
        hidden.append(states)
        calls.append(Call(args, kwargs, real, seen, in_tuple))
        seen += len(states)
    if not calls:
        raise UsageError("There are no examples to tune with.", next_step="give calibration data")
    return hidden, calls


def _require_equal_calls(model: torch.nn.Module, layer_paths: Sequence[str], inputs: dict) -> bool:
    """One whole forward pass of one batch: every layer must get the same arguments beside its
    hidden states. Returns whether layers give tuples."""
    caught: list[tuple[tuple, dict]] = []
    handles = [
        model.get_submodule(p).register_forward_pre_hook(_catcher(caught), with_kwargs=True)
        for p in layer_paths
    ]
    given: list[bool] = []
    last = model.get_submodule(layer_paths[-1])
    handles.append(
        last.register_forward_hook(
            lambda _module, _args, output: given.append(isinstance(output, tuple))
        )
    )
    try:
        model(**{k: v[:2] for k, v in inputs.items()})
    finally:
        for handle in handles:
            handle.remove()
    first = _without_hidden(*caught[0])[:2]
    for other in caught[1:]:
        if len(caught) != len(layer_paths) or not _equal(first, _without_hidden(*other)[:2]):
            raise UnsupportedModelError(
                "The layers of this model are called with arguments that differ from layer to "
                "layer.",
                got=type(model).__name__,
                next_step="prune it without compensation (compensate: none)",
            )
    return given[0]


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
        self._before = [model.get_submodule(p) for p in before]
        self._layer, self._hidden, self._in_tuple = model.get_submodule(layer), hidden, in_tuple

    @contextmanager
    def rows(self, number: int, start: int, stop: int) -> Iterator[None]:
        """While open, a forward pass of the examples `start` to `stop` of batch `number` begins at
        the layer."""
        hidden = self._hidden[number][start:stop]

        def pass_on(
            hidden_states: torch.Tensor, *_: Any, **__: Any
        ) -> torch.Tensor | tuple[torch.Tensor]:
            return (hidden_states,) if self._in_tuple else hidden_states

        def swap(_module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            return (
                ((hidden, *args[1:]), kwargs)
                if args
                else (args, {**kwargs, "hidden_states": hidden})
            )

        with ExitStack() as stack:
            for module in self._before:
                stack.callback(_restore_forward, module, module.__dict__.get("forward"))
                module.forward = pass_on
            stack.enter_context(_hook(self._layer, swap))
            yield


def _restore_forward(module: torch.nn.Module, own: Callable[..., Any] | None) -> None:
    if own is None:
        del module.forward
    else:
        module.forward = own


def _catcher(
    caught: list[tuple[tuple, dict]], stop: bool = False
) -> Callable[[torch.nn.Module, tuple, dict], None]:
    def catch(_module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        caught.append((args, kwargs))
        if stop:
            raise _Stop

    return catch


@contextmanager
def _hook(module: torch.nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _without_hidden(args: tuple, kwargs: dict) -> tuple[tuple, dict, torch.Tensor]:
    if args:
        return args[1:], kwargs, args[0]
    rest = dict(kwargs)
    return (), rest, rest.pop("hidden_states")


def _equal(a: Any, b: Any) -> bool:
    import torch

    if a is b:
        return True
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    return type(a) is type(b) and not isinstance(a, torch.Tensor) and bool(a == b)


@dataclass
class Trace:
    """What one layer showed. By site name: `features` the output projection's input before any mask
    [B, T, channels], `streams` the residual stream after the site's sublayer and before the
    LayerNorm [B, T, d]. `output` [B, T, d]."""

    features: dict[str, torch.Tensor] = field(default_factory=dict)
    streams: dict[str, torch.Tensor] = field(default_factory=dict)
    output: torch.Tensor | None = None


def stream_is_output(site: Site) -> bool:
    """Whether the site's stream is the layer's output: no LayerNorm of the layer follows
    (pre-LN)."""
    return not site.norm.startswith(site.layer_path + ".")


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
    projections' inputs.

    With `until` the run ends at that site's stream and `output` stays None where it could.
    """
    trace, masks = Trace(), masks or {}
    handles = []

    def watch_features(site: Site) -> PreHook:
        mask = masks.get(site.name)
        # [channels]
        mask = None if mask is None else mask.to(hidden.dtype).repeat_interleave(site.width)

        def see(_module: torch.nn.Module, args: tuple) -> tuple | None:
            if site.name in trace.features:
                raise UnsupportedModelError(
                    "This model runs a sublayer in pieces, which the tuning cannot follow.",
                    next_step="set chunk_size_feed_forward to 0 in its config",
                )
            trace.features[site.name] = args[0]
            return None if mask is None else (args[0] * mask, *args[1:])

        return see

    def watch_stream(site: Site) -> PreHook:
        def see(_module: torch.nn.Module, args: tuple) -> None:
            trace.streams[site.name] = args[0]
            if until is not None and until.name == site.name:
                raise _Stop

        return see

    try:
        for site in sites:
            handles.append(
                model.get_submodule(site.output).register_forward_pre_hook(watch_features(site))
            )
            if not stream_is_output(site):
                handles.append(
                    model.get_submodule(site.norm).register_forward_pre_hook(watch_stream(site))
                )
        trace.output = call.run(model.get_submodule(sites[0].layer_path), hidden)
        for site in sites:
            if stream_is_output(site):
                trace.streams[site.name] = trace.output
    except _Stop:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return trace


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
