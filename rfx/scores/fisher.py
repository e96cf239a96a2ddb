"""Fisher information of the mask variables (Kwon et al. 2022, section 3, equations 4 to 6).

The damage of removing units is (1-m)^T I (1-m) / 2 with I = sum over examples of g g^T, g = dL/dm at m = 1. A mask
variable scales its unit's channels x of the output projection's input, so g = sum over tokens and channels of
x * dL/dx: the gradient that reaches x in one backward pass gives every example's g, with no mask in the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.device import model_device
from rfx.errors import UsageError
from rfx.plan import Site
from rfx.progress import Progress, Silent
from rfx.scores.base import Batch, Scorer, Scores
from rfx.scores.predictive import fisher_probe

if TYPE_CHECKING:
    import torch

TOKENS_CPU, TOKENS_GPU = 2048, 32768  # of one backward pass: bounds the activations that it keeps


class Fisher(Scorer):
    """Diagonal importance sum g^2 (float64) and the rows g (float32 [samples, units]) by site.

    Args:
        per: "example" squares each example's gradient, as the paper's equation does; "batch" squares the mean gradient
            of each batch as it comes, as the paper's code does (one row a batch).
        loss: "label" is the task's loss; "predictive" takes the Fisher information of the model's own predictions, for
            data without labels.
        seed: of the random signs of the predictive form.
        tokens_per_pass: larger batches are split for the backward pass; the scores do not depend on it.
    """

    name = "fisher"

    def __init__(
        self,
        *,
        per: str = "example",
        loss: str = "label",
        seed: int = 0,
        tokens_per_pass: int | None = None,
        **_: Any,
    ):
        super().__init__(per=per, seed=seed)
        for value, allowed, what in (
            (per, ("example", "batch"), "gradient form"),
            (loss, ("label", "predictive"), "loss"),
        ):
            if value not in allowed:
                raise UsageError(f"There is no such Fisher {what}.", got=value, allowed=", ".join(allowed))
        self.loss, self.tokens_per_pass = loss, tokens_per_pass

    def score(
        self,
        model: torch.nn.Module,
        sites: Sequence[Site],
        batches: Iterable[Batch],
        task: Any,
        *,
        progress: Progress | None = None,
    ) -> Scores:
        """See `Scorer.score`. One forward and one backward pass, the latter to the first site's input only.

        Raises:
            UsageError: no examples, or a gradient that is not a number.
        """
        import torch

        device = model_device(model)
        limit = self.tokens_per_pass or (TOKENS_GPU if device.type == "cuda" else TOKENS_CPU)
        generator = torch.Generator().manual_seed(self.seed)
        rows: dict[str, list[np.ndarray]] = {s.name: [] for s in sites}
        total = len(batches) if hasattr(batches, "__len__") else None
        with (
            scoring_state(model),
            _GradientTap(model, sites) as tap,
            (progress or Silent()).bar("score", total) as bar,
        ):
            for inputs, targets in batches:
                parts: dict[str, list[torch.Tensor]] = {s.name: [] for s in sites}
                for some_inputs, some_targets in split_batch(inputs, targets, limit):
                    some_inputs = {k: v.to(device) for k, v in some_inputs.items()}
                    outputs = model(**some_inputs)
                    if self.loss == "label":
                        losses = task.losses(outputs, {k: v.to(device) for k, v in some_targets.items()})  # [b]
                    else:
                        losses = fisher_probe(outputs, some_inputs, task.output_names, generator)
                    # The sum, not the mean: each example's gradient is that of its own loss.
                    losses.sum().backward()
                    for name, g in tap.take().items():
                        parts[name].append(g)  # [b, units]
                for name, some in parts.items():
                    g = torch.cat(some) if some else torch.empty(0)  # [B, units]
                    rows[name].append((g if self.per == "example" else g.mean(0, keepdim=True)).cpu().numpy())
                bar.advance()
        return _finish(sites, rows)


class _GradientTap:
    """Collects, for every site, g [batch, units] = sum over tokens and channels of x * dL/dx. Leaves nothing behind."""

    def __init__(self, model: torch.nn.Module, sites: Sequence[Site]):
        self.model, self.sites = model, sites
        self._gradients: dict[str, torch.Tensor] = {}
        self._handles: list = []

    def __enter__(self) -> _GradientTap:
        for site in self.sites:
            module = self.model.get_submodule(site.output)
            self._handles.append(module.register_forward_pre_hook(self._watch(site)))
        return self

    def _watch(self, site: Site):
        def tap(_module, args):
            x = args[0]  # [B, T, units * width]
            if not x.requires_grad:  # the first site: the backward pass ends here
                x = x.detach().requires_grad_(True)
            value = x.detach()
            x.register_hook(lambda grad: self._add(site, value, grad))
            return (x, *args[1:])

        return tap

    def _add(self, site: Site, x: torch.Tensor, grad: torch.Tensor) -> None:
        g = (x * grad).sum(dim=1, dtype=_accumulator(grad))  # [B, units * width]
        if site.width > 1:
            g = g.view(len(g), site.units, site.width).sum(dim=2)  # [B, units]
        before = self._gradients.get(site.name)
        self._gradients[site.name] = g if before is None else before + g  # a layer may run in chunks

    def take(self) -> dict[str, torch.Tensor]:
        taken, self._gradients = self._gradients, {}
        return taken

    def __exit__(self, *exc) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._gradients = {}


def _accumulator(grad: torch.Tensor) -> torch.dtype:
    import torch

    return torch.float64 if grad.dtype is torch.float64 else torch.float32


@contextmanager
def scoring_state(model: torch.nn.Module):
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


def split_batch(inputs: dict, targets: dict, tokens: int):
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
        yield {k: v[i : i + step] for k, v in inputs.items()}, {k: v[i : i + step] for k, v in targets.items()}


def _finish(sites: Sequence[Site], rows: dict[str, list[np.ndarray]]) -> Scores:
    importance, gradients = {}, {}
    for site in sites:
        if not sum(len(r) for r in rows[site.name]):
            raise UsageError("There are no examples to score with.", next_step="give calibration data")
        g = np.concatenate(rows[site.name]).astype(np.float32)  # [samples, units]
        rows[site.name].clear()
        squares = np.einsum("bu,bu->u", g, g, dtype=np.float64)
        if not np.isfinite(squares).all():
            raise UsageError(
                f"The gradients of {site.name} are not numbers.",
                got=f"{int((~np.isfinite(squares)).sum())} of {site.units} units",
                next_step="look for NaN in the labels, the inputs or the model's weights",
            )
        importance[site.name], gradients[site.name] = squares, g
    return Scores(importance, gradients)
