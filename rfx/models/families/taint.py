"""Which channels depend on which: numbers that are none (NaN) are put into the output of some
modules, and what is fed to others is looked at.

A pass has several rows, the same example in each of them, and every row has NaNs of its own. What
reaches a dense module is noted there, channel by channel, and taken out again, so that it goes no
further than the *first* dense module on its way.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

ROWS = 64  # of a pass, at most

# what is poisoned in one row: channels of the output of modules; None: all of them
Row = Mapping["nn.Module", "torch.Tensor | None"]


@dataclass
class Hits:
    """What a pass showed, by module: which channels of its input a row's NaNs reached, bool [rows,
    channels]; and by row whether the model's output has any, bool [rows]."""

    inputs: dict[nn.Module, torch.Tensor] = field(default_factory=dict)
    output: torch.Tensor | None = None

    def of(self, module: nn.Module, row: int) -> torch.Tensor | None:
        """Bool [channels]; None where nothing reached the module in that row."""
        found = self.inputs.get(module)
        return found[row] if found is not None and bool(found[row].any()) else None


@dataclass(frozen=True)
class _Axes:
    """The axis of the batch, of what a module is fed and of what it gives; None: it has none."""

    fed: int | None
    given: int | None


class Taint:
    """Passes over one model.

    Args:
        model: in eval mode, with attention that is computed as a formula ("eager"): kernels hide
            NaNs of queries and keys.
        inputs: one example, tensors [1, ...].
    """

    def __init__(self, model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> None:
        self.model, self.inputs = model, dict(inputs)
        self.names = {m: n for n, m in model.named_modules()}
        self.rows = 0  # that were run so far
        self.order: list[nn.Module] = []  # dense modules as they are called, each once
        self.positions: dict[nn.Module, int] = {}  # where a weight is applied, for one example
        self._axes = self._look()

    def _look(self) -> dict[nn.Module, list[_Axes]]:
        """By module and call. Two passes, of 2 and of 3 rows: the axis whose length goes with them
        is the batch's."""
        import torch

        shapes: list[dict[nn.Module, list[tuple[torch.Size, torch.Size]]]] = []
        for rows in (2, 3):
            seen: dict[nn.Module, list[tuple[torch.Size, torch.Size]]] = {}

            def see(
                module: nn.Module,
                args: tuple[Any, ...],
                output: Any,
                seen: dict[nn.Module, list[tuple[torch.Size, torch.Size]]] = seen,
            ) -> None:
                if args and isinstance(args[0], torch.Tensor) and isinstance(output, torch.Tensor):
                    seen.setdefault(module, []).append((args[0].shape, output.shape))

            with _hooked(m.register_forward_hook(see) for m in self.model.modules() if dense(m)):
                self._forward(rows)
            shapes.append(seen)
        two, three = shapes
        found: dict[nn.Module, list[_Axes]] = {}
        for module, calls in two.items():
            if len(calls) != len(three.get(module, ())):
                continue  # it is called for each example, and nothing is known of it
            self.order.append(module)
            pairs = list(zip(calls, three[module], strict=True))
            found[module] = [_Axes(*(_batch_axis(*s) for s in zip(*p, strict=True))) for p in pairs]
            self.positions[module] = sum(
                after.numel() // outputs(module) // (1 if axes.given is None else 2)
                for (_, after), axes in zip(calls, found[module], strict=True)
            )
        return found

    def _forward(self, rows: int) -> Any:
        import torch

        fed = {k: v.expand(rows, *v.shape[1:]).contiguous() for k, v in self.inputs.items()}
        self.rows += rows
        with torch.no_grad():
            return self.model(**fed)

    def place(self, module: nn.Module) -> str:
        """The path of a module without its numbers, which modules share that have the same place
        in every layer."""
        return re.sub(r"\d+", "#", self.names[module])

    def reads(self, module: nn.Module) -> bool:
        """Whether what a module is fed can be told apart by rows."""
        return all(axes.fed is not None for axes in self._axes[module])

    def examples_first(self, module: nn.Module) -> bool:
        """Whether the first axis of what a module is fed is that of the examples, and no more."""
        return all(axes.fed == 0 for axes in self._axes[module])

    def run(
        self, rows: Sequence[Row], clean: Sequence[Collection[nn.Module]] | None = None
    ) -> Hits:
        """What the NaNs of each row reach.

        Args:
            rows: what is poisoned in each.
            clean: by row the only dense modules that NaNs stop at; None: all.
        """
        import torch

        whole = Hits()
        for start, stop in self._passes(rows):
            part = self._pass(rows[start:stop], clean and clean[start:stop])
            for module, hit in part.inputs.items():
                if module not in whole.inputs:
                    whole.inputs[module] = torch.zeros(len(rows), hit.shape[1], dtype=torch.bool)
                whole.inputs[module][start:stop] = hit
            assert part.output is not None
            whole.output = (
                part.output if whole.output is None else torch.cat([whole.output, part.output])
            )
        return whole

    def _passes(self, rows: Sequence[Row]) -> Iterator[tuple[int, int]]:
        """Which rows go together. One that poisons a module whose output has no axis of the batch
        goes alone: all rows of its pass see that."""
        start = 0
        for i, row in enumerate(rows):
            alone = any(axes.given is None for m in row for axes in self._axes[m])
            if alone and start < i:
                yield start, i
                start = i
            if alone or i + 1 == len(rows) or i + 1 - start == ROWS:
                yield start, i + 1
                start = i + 1

    def _pass(self, rows: Sequence[Row], clean: Sequence[Collection[nn.Module]] | None) -> Hits:
        import torch

        hits = Hits()
        called: Counter[tuple[str, nn.Module]] = Counter()

        def axes(when: str, module: nn.Module) -> _Axes:
            """Of the call that comes now."""
            called[when, module] += 1
            return self._axes[module][called[when, module] - 1]

        def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            axis = axes("before", module).fed
            x = args[0]
            bad = torch.isnan(x)
            if not bool(bad.any()):
                return None
            apart = _rows_first(bad, axis, channel_axis(module, x), len(rows))  # [R, C]
            hits.inputs[module] = hits.inputs[module] | apart if module in hits.inputs else apart
            if clean is None:
                return (torch.nan_to_num(x, nan=0.0), *args[1:])
            stops = torch.tensor([module in some for some in clean])
            if not bool(stops.any()):
                return None
            if bool(stops.all()) or axis is None:
                return (torch.nan_to_num(x, nan=0.0), *args[1:])
            x = x.clone()
            parts = x.movedim(axis, 0)
            each = len(parts) // len(rows)
            for i in torch.nonzero(stops).flatten().tolist():
                part = parts[i * each : (i + 1) * each]
                part.copy_(torch.nan_to_num(part, nan=0.0))
            return (x, *args[1:])

        def poison(module: nn.Module) -> Callable[..., torch.Tensor]:
            def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> torch.Tensor:
                output = output.clone()
                axis = axes("after", module).given
                channels_at = channel_axis(module, output)
                last = output.movedim(channels_at, -1)
                # A view, so that what is written into it is in the output.
                parts = last if axis is None else _batch_first(last, axis, channels_at)
                each = len(parts) // len(rows)
                for i, row in enumerate(rows):
                    if module not in row:
                        continue
                    part = parts if axis is None else parts[i * each : (i + 1) * each]
                    channels = row[module]
                    if channels is None:
                        part.fill_(float("nan"))
                    else:
                        part[..., channels] = float("nan")
                return output

            return after

        poisoned = dict.fromkeys(m for row in rows for m in row)
        handles = [m.register_forward_pre_hook(before) for m in self.order]
        with _hooked([*handles, *(m.register_forward_hook(poison(m)) for m in poisoned)]):
            output = self._forward(len(rows))
        bad = torch.zeros(len(rows), dtype=torch.bool)
        for tensor in tensors(output):
            nan = torch.isnan(tensor)
            if not bool(nan.any()):
                continue
            same = tensor.dim() > 0 and len(tensor) == len(rows)
            bad |= nan.reshape(len(rows), -1).any(1).cpu() if same else torch.ones_like(bad)
        hits.output = bad
        return hits

    def poisoned_parameter(
        self, parameter: torch.Tensor, dim: int = 0, indices: torch.Tensor | None = None
    ) -> Hits:
        """What NaNs in a parameter reach: in one pass of one row.

        Args:
            indices: along `dim`; None: the whole parameter.
        """
        import torch

        with torch.no_grad():
            before = parameter.detach().clone()
            try:
                if indices is None:
                    parameter.fill_(float("nan"))
                else:
                    parameter.index_fill_(dim, indices.to(parameter.device), float("nan"))
                return self._pass([{}], None)
            finally:
                parameter.copy_(before)


def dense(module: nn.Module) -> bool:
    """Whether a module mixes all channels: a linear layer, or a convolution of one group."""
    from torch import nn

    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return module.groups == 1
    return isinstance(module, nn.Linear)


def outputs(module: nn.Module) -> int:
    """Channels that a dense module gives."""
    return int(getattr(module, "out_features", 0) or module.out_channels)  # type: ignore[arg-type]


def fed(module: nn.Module) -> int:
    """Channels that a dense module is fed."""
    return int(getattr(module, "in_features", 0) or module.in_channels)  # type: ignore[arg-type]


def weights(module: nn.Module) -> int:
    """Weights of a dense module, which are its products for one position."""
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    return weight.numel()


def channel_axis(module: nn.Module, x: torch.Tensor) -> int:
    """The axis of the channels, of what a module is fed or gives."""
    from torch import nn

    if isinstance(module, nn.Conv2d):
        return x.dim() - 3
    return x.dim() - (2 if isinstance(module, nn.Conv1d) else 1)


def tensors(output: Any) -> Iterator[torch.Tensor]:
    """The tensors of floating-point numbers in what a model gives."""
    import torch

    if isinstance(output, torch.Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from tensors(value)


def _batch_axis(two: torch.Size, three: torch.Size) -> int | None:
    """The one axis whose lengths are as 2 to 3; None where it is none, or not one alone."""
    found = [i for i, (a, b) in enumerate(zip(two, three, strict=True)) if 3 * a == 2 * b and a]
    return found[0] if len(found) == 1 else None


def _batch_first(last: torch.Tensor, axis: int, channels: int) -> torch.Tensor:
    """A view with the batch first, of one whose channels were moved to the end."""
    return last.movedim(axis - (1 if channels < axis else 0), 0)


def _rows_first(bad: torch.Tensor, axis: int | None, channels: int, rows: int) -> torch.Tensor:
    """Bool [rows, channels] on the CPU: where a row has any. Without an axis of the batch what is
    bad is so in every row."""

    last = bad.movedim(channels, -1)
    if axis is None:
        return last.flatten(0, -2).any(0).cpu().expand(rows, -1).clone()
    front = _batch_first(last, axis, channels)
    apart: torch.Tensor = front.reshape(rows, -1, front.shape[-1]).any(1).cpu()
    return apart


@contextmanager
def _hooked(handles: Iterable[Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for handle in handles:
            stack.callback(handle.remove)
        yield
