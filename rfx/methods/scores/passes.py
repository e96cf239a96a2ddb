"""The passes of a scorer that goes by gradients: forward and backward over the batches, with a tap
at every site.

A subclass says which scalar of an example is differentiated, what the tap keeps of a site, and what
becomes of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from rfx.core.device import model_device
from rfx.core.errors import UsageError
from rfx.core.inputs import Batch
from rfx.core.plan import Site
from rfx.core.progress import Progress, Silent
from rfx.methods.scores.base import Scorer, Scores
from rfx.methods.scores.predictive import Signs

if TYPE_CHECKING:
    import torch
    from torch.utils.hooks import RemovableHandle
    from typing_extensions import Self

    from rfx.models.streams import Resumed

_TOKENS_CPU, _TOKENS_GPU = 2048, 32768  # of one backward pass: bounds the activations that it keeps


class Tap(ABC):
    """Watches every site's output projection while it is open: the value that goes in and the
    gradient of `side`. Leaves nothing behind. The backward pass ends at the first site."""

    side: ClassVar[str] = "input"  # or "output": whose gradient

    def __init__(self, model: torch.nn.Module, sites: Sequence[Site]):
        self.model, self.sites = model, sites
        self.real: torch.Tensor | None = None  # bool [B, T] of the pass under way, False on padding
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        for site in self.sites:
            module = self.model.get_submodule(site.output)
            register = (
                module.register_forward_pre_hook
                if self.side == "input"
                else module.register_forward_hook
            )
            self._handles.append(register(self._watch(site)))
        return self

    def _watch(self, site: Site) -> Callable[..., Any]:
        def tap(_module: torch.nn.Module, args: tuple[Any, ...], *output: torch.Tensor) -> Any:
            watched = output[0] if output else args[0]
            if not watched.requires_grad:  # the first site: the backward pass ends here
                watched = watched.detach().requires_grad_(True)
            x = args[0].detach()
            watched.register_hook(lambda gradient: self.add(site, x, gradient))
            return watched if output else (watched, *args[1:])

        return tap

    @abstractmethod
    def add(self, site: Site, x: torch.Tensor, gradient: torch.Tensor) -> None:
        """The projection's input x [B, T, channels] and the gradient of it, or of the output [B, T,
        d]."""

    def end_pass(self) -> None:  # noqa: B027
        """A forward and a backward pass have ended: a batch, or a part of one."""

    def end_batch(self) -> None:  # noqa: B027
        """A whole batch has been gone through."""

    def real_of(self, x: torch.Tensor) -> torch.Tensor:
        """bool [B, T]: the real tokens of x; all of them where a layer runs in other pieces than
        the inputs."""
        import torch

        if self.real is None or self.real.shape != x.shape[:2]:
            return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        return self.real

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


T = TypeVar("T", bound=Tap)


class GradientScorer(Scorer, Generic[T]):
    """Args:
    tokens_per_pass: larger batches are split for the backward pass; the scores do not depend on it.
    """

    def __init__(self, *, seed: int = 0, tokens_per_pass: int | None = None, **more: Any):
        super().__init__(seed=seed, **more)
        self.tokens_per_pass = tokens_per_pass

    @abstractmethod
    def tap(self, model: torch.nn.Module, sites: Sequence[Site]) -> T:
        """What watches the sites during the passes."""

    @abstractmethod
    def scalars(
        self,
        outputs: Any,
        inputs: Mapping[str, torch.Tensor],
        beside: Mapping[str, torch.Tensor],
        task: Any,
        signs: Signs,
    ) -> torch.Tensor:
        """What is differentiated, one number an example: [batch]."""

    @abstractmethod
    def beside(
        self, number: int, targets: Mapping[str, torch.Tensor]
    ) -> Mapping[str, torch.Tensor]:
        """What `scalars` needs of batch `number` beside the inputs, first axis the batch."""

    @abstractmethod
    def conclude(
        self,
        model: torch.nn.Module,
        tap: T,
        batches: Iterable[Batch],
        task: Any,
        progress: Progress,
    ) -> Scores:
        """The scores, from what the tap kept."""

    def score(
        self,
        model: torch.nn.Module,
        sites: Sequence[Site],
        batches: Iterable[Batch],
        task: Any,
        *,
        progress: Progress | None = None,
        resumed: Resumed | None = None,
    ) -> Scores:
        """See `Scorer.score`. One forward pass, and one backward pass to the first of `sites` only.

        Raises:
            UsageError: no examples, or a gradient that is not a number.
        """

        progress, device = progress or Silent(), model_device(model)
        limit = self.tokens_per_pass or (_TOKENS_GPU if device.type == "cuda" else _TOKENS_CPU)
        total = len(batches) if isinstance(batches, Sized) else None
        number, seen = -1, 0
        with (
            scoring_state(model),
            self.tap(model, sites) as tap,
            progress.bar("score", total) as bar,
        ):
            for number, (inputs, targets) in enumerate(batches):
                start = 0
                for some, beside in split_batch(inputs, self.beside(number, targets), limit):
                    size = len(next(iter(some.values())))
                    some, beside = (
                        {k: v.to(device) for k, v in part.items()} for part in (some, beside)
                    )
                    tap.real = some["attention_mask"].bool() if "attention_mask" in some else None
                    # The sum, not the mean: each example's gradient is that of its own scalar.
                    with resumed.rows(number, start, start + size) if resumed else nullcontext():
                        outputs = model(**some)
                    self.scalars(
                        outputs, some, beside, task, Signs(self.seed, seen + start)
                    ).sum().backward()
                    tap.end_pass()
                    start += size
                seen += start
                tap.end_batch()
                bar.advance()
        if number < 0:
            raise UsageError(
                "There are no examples to score with.", next_step="give calibration data"
            )
        return self.conclude(model, tap, batches, task, progress)


@contextmanager
def scoring_state(model: torch.nn.Module) -> Iterator[None]:
    """Dropout off, parameters without gradients, autograd on; all as before afterwards."""
    import torch

    training = [(m, m.training) for m in model.modules()]
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        try:
            model.eval()
            for p, _ in wanted:
                p.requires_grad_(False)
            yield
        finally:
            for p, flag in wanted:
                p.requires_grad_(flag)
            for m, mode in training:
                m.training = mode


def split_batch(
    inputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor], tokens: int
) -> Iterator[tuple[Mapping[str, torch.Tensor], Mapping[str, torch.Tensor]]]:
    """The batch in parts of at most `tokens` tokens (padding counted), whole examples."""
    first = next(iter(inputs.values()))  # [B, T, ...]
    size = len(first)
    step = max(1, tokens // max(1, first.shape[1] if first.dim() > 1 else 1))
    if size <= step:
        yield inputs, targets
        return
    parts = -(-size // step)
    step = -(-size // parts)  # parts of equal size
    for i in range(0, size, step):
        yield (
            {k: v[i : i + step] for k, v in inputs.items()},
            {k: v[i : i + step] for k, v in targets.items()},
        )
