"""Removal under an output metric, compensation included: what a unit is worth when the rest of its site may make up for it.

To second order a change dY of a site's output costs the model's output (KL to itself) sum of (g^T dy)^2 / 2, g the gradient
of the output's Fisher probe at that place. Without the products between tokens and with the usual Kronecker split this is
tr(dW^T M dW A) / 2, M = sum of g g^T the output metric and A the Gram matrix of the features, tokens weighted by |g|^2.
`surgeon` turns M and A into an order of removal and a damage curve a site; the knapsack chooses between the curves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.device import model_device
from rfx.errors import UsageError
from rfx.plan import Site
from rfx.progress import Progress, Silent
from rfx.scores.base import Batch, Scorer, Scores
from rfx.scores.fisher import TOKENS_CPU, TOKENS_GPU, scoring_state, split_batch
from rfx.scores.predictive import fisher_probe
from rfx.scores.surgeon import removal_curve

if TYPE_CHECKING:
    import torch

UNIFORM = 0.02  # of the token weights: a token that matters to nothing still is one
_BLOCK = 512


class OutputMetric(Scorer):
    """Order and damage of removal by site, and the token weights for the reconstruction. Needs no labels.

    Args:
        seed: of the probe's random signs.
        tokens_per_pass: larger batches are split for the backward pass.
    """

    name = "output-metric"

    def __init__(self, *, seed: int = 0, tokens_per_pass: int | None = None, **_: Any):
        super().__init__(seed=seed)
        self.tokens_per_pass = tokens_per_pass

    def score(
        self,
        model: torch.nn.Module,
        sites: Sequence[Site],
        batches: Iterable[Batch],
        task: Any,
        *,
        progress: Progress | None = None,
    ) -> Scores:
        """See `Scorer.score`. One forward and one backward pass, then one matrix inverse a site.

        Raises:
            UsageError: no examples, or a gradient that is not a number.
        """
        import torch

        progress = progress or Silent()
        device = model_device(model)
        limit = self.tokens_per_pass or (TOKENS_GPU if device.type == "cuda" else TOKENS_CPU)
        generator = torch.Generator().manual_seed(self.seed)
        total = len(batches) if hasattr(batches, "__len__") else None
        with scoring_state(model), _Tap(model, sites) as tap, progress.bar("score", total) as bar:
            for inputs, targets in batches:
                for some, _ in split_batch(inputs, targets, limit):
                    some = {k: v.to(device) for k, v in some.items()}
                    tap.real = some["attention_mask"].bool() if "attention_mask" in some else None
                    outputs = model(**some)
                    fisher_probe(outputs, some, task.output_names, generator).sum().backward()
                bar.advance()
        importance, orders, weights = {}, {}, {}
        with progress.bar("removal curves", len(sites)) as bar:
            for site in sites:
                statistic = tap.statistics.pop(site.name, None)
                if statistic is None:
                    raise UsageError("There are no examples to score with.", next_step="give calibration data")
                if not bool(torch.isfinite(statistic.metric).all()):
                    raise UsageError(
                        f"The gradients of {site.name} are not numbers.", got="NaN or infinity",
                        next_step="look for NaN in the inputs or the model's weights",
                    )  # fmt: skip
                weight = model.get_submodule(site.output).weight.detach()
                order, added = removal_curve(statistic.gram(), weight, statistic.metric, site.width)
                importance[site.name] = np.zeros(site.units)
                importance[site.name][order] = added
                orders[site.name] = order
                weights[site.name] = torch.cat(statistic.weights).cpu().numpy()
                bar.advance()
        return Scores(importance, orders=orders, token_weights=weights)


class _Statistic:
    """M [d, d], the weighted Gram matrix A [n, n] in upper blocks, and the token weights of one site."""

    def __init__(self, channels: int, hidden: int, device: torch.device):
        import torch

        f64 = {"dtype": torch.float64, "device": device}
        self.metric = torch.zeros(hidden, hidden, **f64)
        self._gram = torch.zeros(channels, channels, **f64)
        self.total = 0.0  # of the weights
        self.weights: list[torch.Tensor] = []

    def add(self, z: torch.Tensor, g: torch.Tensor, example: torch.Tensor) -> None:
        """Real tokens: features z [t, n], gradients g [t, d], the number of each token's example [t]."""
        import torch

        squares = g.square().sum(1)  # [t]
        # The uniform share within each example, so that nothing hangs on how examples are batched.
        count = torch.bincount(example)
        mean = torch.zeros(len(count), dtype=squares.dtype, device=g.device).index_add(0, example, squares) / count.clamp(min=1)
        w = (1 - UNIFORM) * squares + UNIFORM * mean[example]
        self.weights.append(w.float())
        self.metric += g.T @ g
        scaled = z * w.sqrt()[:, None]
        for i in range(0, scaled.shape[1], _BLOCK):
            self._gram[i : i + _BLOCK, i:] += scaled[:, i : i + _BLOCK].T @ scaled[:, i:]
        self.total += float(w.sum())

    def gram(self) -> torch.Tensor:
        """A, scaled so that tr(dW^T M dW A) / 2 is the damage summed over the examples: the weights' mean is 1."""
        upper = self._gram.triu()
        full = upper + upper.triu(1).T
        return full / self.total if self.total > 0 else full


class _Tap:
    """Watches input and output gradient of every output projection. Leaves nothing behind."""

    def __init__(self, model: torch.nn.Module, sites: Sequence[Site]):
        self.model, self.sites = model, sites
        self.statistics: Mapping[str, _Statistic] = {}
        self.real: torch.Tensor | None = None
        self._handles: list = []

    def __enter__(self) -> _Tap:
        for site in self.sites:
            module = self.model.get_submodule(site.output)
            self._handles.append(module.register_forward_hook(self._watch(site)))
        return self

    def _watch(self, site: Site):
        def tap(_module, args, output):
            z = args[0].detach()  # [B, T, n]
            if not output.requires_grad:  # the first site: the backward pass ends here
                output = output.detach().requires_grad_(True)
            output.register_hook(lambda grad: self._add(site, z, grad))
            return output

        return tap

    def _add(self, site: Site, z: torch.Tensor, grad: torch.Tensor) -> None:
        import torch

        if site.name not in self.statistics:
            self.statistics[site.name] = _Statistic(z.shape[-1], grad.shape[-1], grad.device)
        real = self.real
        if real is None or real.shape != z.shape[:2]:
            real = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device)
        example = torch.arange(len(z), device=z.device)[:, None].expand(real.shape)
        self.statistics[site.name].add(z[real], grad[real], example[real])

    def __exit__(self, *exc) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
