"""How a model calls its layers: caught once, so that a layer can be run again by itself on other
hidden states. Between layers only hidden states are kept, in half precision where they are many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rfx.core.device import model_device
from rfx.core.errors import UnsupportedModelError, UsageError
from rfx.core.inputs import Batch
from rfx.core.plan import Site
from rfx.models.masks import MaskTap

if TYPE_CHECKING:
    import torch

# A store of hidden states larger than this goes to half precision.
_FULL_PRECISION_BYTES = 256 << 20
MODEL = ""  # the path of the whole model, which stands for its one layer where it has no chain


class Stop(Exception):  # noqa: N818 - it is no error
    """Ends a forward pass that has shown what was wanted."""


@dataclass(frozen=True)
class Given:
    """What a module is called with beside its hidden states; `name` is theirs, empty where they
    come first."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    name: str

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Given, torch.Tensor]:
        """What a module was called with, and its hidden states: the first tensor."""
        import torch

        if args and isinstance(args[0], torch.Tensor):
            return cls(args[1:], kwargs, ""), args[0]
        name = "hidden_states"
        if name not in kwargs:
            name = next(k for k, v in kwargs.items() if isinstance(v, torch.Tensor))
        rest = dict(kwargs)
        return cls(args, {k: v for k, v in rest.items() if k != name}, name), rest[name]

    def with_hidden(self, hidden: torch.Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call on other hidden states."""
        if self.name:
            return self.args, {**self.kwargs, self.name: hidden}
        return (hidden, *self.args), dict(self.kwargs)


@dataclass(frozen=True)
class Call:
    """How the model calls its layers for one batch, and which of its tokens count."""

    given: Mapping[str, Given]  # by the path of a layer
    real: torch.Tensor  # bool [B, T], False on padding
    first_row: int  # number of the batch's first row in the sample
    in_tuple: bool = False  # whether a layer gives its output as the first of a tuple

    def run(self, model: torch.nn.Module, path: str, hidden: torch.Tensor) -> torch.Tensor | None:
        """The layer's output [B, T, d] on `hidden` [B, T, d]; None of a whole model."""
        args, kwargs = self.given[path].with_hidden(hidden)
        output = model.get_submodule(path)(*args, **kwargs)
        if path == MODEL:
            return None
        first: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return first


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

        if not hidden.is_floating_point():  # the ids of tokens
            return hidden
        half = hidden.half()
        # Beyond float16's range: as it is.
        return half if bool(torch.isfinite(half).all()) else hidden


def catch_calls(
    model: torch.nn.Module,
    layer_paths: Sequence[str],
    batches: Iterable[Batch],
    first_site: Site,
) -> tuple[HiddenStates, list[Call]]:
    """The first layer's hidden states and the call of every layer, of every batch. Where all layers
    are called alike, the model runs no further than the first.

    Args:
        first_site: a site of the first layer, by which it is seen whether later layers are given
            what earlier ones computed, beside their hidden states.

    Raises:
        UnsupportedModelError: they are.
        UsageError: no batches.
    """
    import torch

    device = model_device(model)
    hidden, seen, in_tuple, alike = HiddenStates(), 0, False, True
    calls: list[Call] = []
    for inputs, _ in batches:
        inputs = {k: v.to(device) for k, v in inputs.items()}
        if not calls:
            in_tuple, alike = _look(model, layer_paths, inputs, first_site)
        caught = _caught(model, layer_paths[:1] if alike else layer_paths, inputs, stop=True)
        given, states = caught[layer_paths[0]]
        real = inputs.get("attention_mask")
        real = (
            torch.ones(states.shape[:2], dtype=torch.bool, device=device)
            if real is None
            else real.bool()
        )
        hidden.append(states)
        by_path = {p: caught[p][0] if p in caught else given for p in layer_paths}
        calls.append(Call(by_path, real, seen, in_tuple))
        seen += len(states)
    if not calls:
        raise UsageError("There are no examples to tune with.", next_step="give calibration data")
    return hidden, calls


def _look(
    model: torch.nn.Module,
    layer_paths: Sequence[str],
    inputs: Mapping[str, torch.Tensor],
    first_site: Site,
) -> tuple[bool, bool]:
    """Two whole forward passes of two examples, the second one with the first site masked.

    Returns:
        Whether layers give tuples, and whether all are called with the same beside their hidden
        states.
    """
    import torch

    some = {k: v[:2] for k, v in inputs.items()}
    tuples: list[bool] = []
    handle = model.get_submodule(layer_paths[-1]).register_forward_hook(
        lambda _module, _args, output: tuples.append(isinstance(output, tuple))
    )
    try:
        plain = _caught(model, layer_paths, some)
    finally:
        handle.remove()
    nothing = {first_site.name: torch.zeros(first_site.units, device=model_device(model))}
    with MaskTap(model, [first_site], nothing):
        masked = _caught(model, layer_paths, some)
    for path in layer_paths:
        if not _equal(_beside(plain[path][0]), _beside(masked[path][0])):
            raise UnsupportedModelError(
                "The layers of this model hand on more than their hidden states, which the tuning "
                "cannot follow.",
                got=f"{type(model).__name__}: what {path} is called with",
                next_step="prune it without compensation (compensate: none)",
            )
    first = _beside(plain[layer_paths[0]][0])
    return tuples[0], all(_equal(first, _beside(plain[p][0])) for p in layer_paths)


def _beside(given: Given) -> tuple[Any, ...]:
    return given.args, dict(given.kwargs), given.name


def _caught(
    model: torch.nn.Module,
    layer_paths: Sequence[str],
    inputs: Mapping[str, torch.Tensor],
    stop: bool = False,
) -> dict[str, tuple[Given, torch.Tensor]]:
    """What the layers are called with in a forward pass, which ends before the last of them where
    `stop` says so."""
    found: dict[str, tuple[Given, torch.Tensor]] = {}

    def catcher(path: str) -> Callable[..., None]:
        def catch(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found[path] = Given.of(args, kwargs)
            if stop and path == layer_paths[-1]:
                raise Stop

        return catch

    with ExitStack() as stack:
        for path in layer_paths:
            stack.enter_context(hook(model.get_submodule(path), catcher(path)))
        with suppress(Stop):
            model(**inputs)
    return found


@contextmanager
def hook(module: torch.nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


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
