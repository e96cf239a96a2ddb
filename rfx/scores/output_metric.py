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
from rfx.scores.divergence import collect_outputs, mean_divergence
from rfx.scores.fisher import TOKENS_CPU, TOKENS_GPU, scoring_state, split_batch
from rfx.scores.predictive import fisher_probe
from rfx.scores.surgeon import RemovalCurve, removal_curve

if TYPE_CHECKING:
    import torch

TEMPERATURE = 2.0  # a model is surer of the examples it was trained on than of those it will meet
UNIFORM = 0.02  # of the token weights: a token that matters to nothing still is one
_BLOCK = 512


class OutputMetric(Scorer):
    """Order and damage of removal by site, and the token weights for the reconstruction. Needs no labels.

    Args:
        temperature: of the output distribution (not of a regression).
        points: at so many kept counts a site the damage is measured, not only predicted: the site alone is pruned and
            re-solved, and the divergence of the output taken on some examples; 0 for none.
        examples: how many, of the first ones of the sample.
        seed: of the probe's random signs.
        tokens_per_pass: larger batches are split for the backward pass.
    """

    name = "output-metric"

    def __init__(self, *, temperature: float = TEMPERATURE, points: int = 0, examples: int = 128, seed: int = 0, tokens_per_pass: int | None = None, **_: Any):
        super().__init__(seed=seed)
        self.temperature = temperature
        self.points, self.examples, self.tokens_per_pass = int(points), int(examples), tokens_per_pass

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
                    fisher_probe(outputs, some, task.output_names, generator, self.temperature).sum().backward()
                bar.advance()
        probes = _Probes(model, batches, task, self.examples) if self.points else None
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
                points = sorted({round(site.units * k / self.points) for k in range(1, self.points + 1)}) if self.points else ()
                curve = removal_curve(statistic.gram(), weight, statistic.metric, site.width, checkpoints=points)
                added = curve.added
                if points:
                    added = self._measured(model, site, curve, statistic.mean(), probes, task)
                importance[site.name] = np.zeros(site.units)
                importance[site.name][curve.order] = added
                orders[site.name] = curve.order
                weights[site.name] = torch.cat(statistic.weights).cpu().numpy()
                bar.advance()
        return Scores(importance, orders=orders, token_weights=weights)


    @staticmethod
    def _measured(model, site: Site, curve: RemovalCurve, mean: torch.Tensor, probes: _Probes, task: Any) -> np.ndarray:
        """What each removal adds once the predicted damage is scaled to the measured one: by the ratio of the two at every
        checkpoint, its logarithm interpolated between them."""
        predicted = np.concatenate([[0.0], np.cumsum(curve.added)])  # [units + 1]
        module = model.get_submodule(site.output)
        where, ratios = [], []
        for removed, weight in sorted(curve.weights.items()):
            if predicted[removed] <= 0:
                continue
            shift = (module.weight.detach().double() - weight) @ mean  # the bias takes what the features' mean loses
            measured = probes.divergence(module, weight, shift)
            where.append(removed)
            ratios.append(np.log(max(measured * probes.scale, 1e-3 * predicted[removed]) / predicted[removed]))
        if not where:
            return curve.added
        damage = predicted * np.exp(np.interp(np.arange(len(predicted)), where, ratios))
        return np.diff(np.maximum.accumulate(damage))


class _Probes:
    """Some examples, the dense model's outputs on them, and how far a model with one changed projection is from these."""

    def __init__(self, model: torch.nn.Module, batches: Iterable[Batch], task: Any, examples: int):
        self.model, self.task, self.batches, seen, total = model, task, [], 0, 0
        for inputs, targets in batches:
            size = len(next(iter(inputs.values())))
            total += size
            if seen < examples:
                some = min(size, examples - seen)
                self.batches.append(({k: v[:some] for k, v in inputs.items()}, targets))
                seen += some
        self.scale = total  # damage is a sum over all examples
        self.dense = collect_outputs(model, self.batches, task)

    def divergence(self, module: torch.nn.Module, weight: torch.Tensor, shift: torch.Tensor) -> float:
        """Mean over the examples with `weight` [d, n] in place and `shift` [d] on the bias."""
        import torch

        old, old_bias = module.weight, module.bias
        bias = shift if old_bias is None else old_bias.detach().double() + shift
        try:
            module.weight = torch.nn.Parameter(weight.to(old.dtype), requires_grad=False)
            module.bias = torch.nn.Parameter(bias.to(old.dtype), requires_grad=False)
            return mean_divergence(self.model, self.batches, self.dense, self.task)
        finally:
            module.weight, module.bias = old, old_bias


class _Statistic:
    """M [d, d], the weighted Gram matrix A [n, n] in upper blocks, and the token weights of one site."""

    def __init__(self, channels: int, hidden: int, device: torch.device):
        import torch

        f64 = {"dtype": torch.float64, "device": device}
        self.metric = torch.zeros(hidden, hidden, **f64)
        self._gram = torch.zeros(channels, channels, **f64)
        self._sum = torch.zeros(channels, **f64)
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
        # |g|, between the expansion's |g|^2, which leaves too few tokens to fit on, and none: docs/accuracy.md has the measure.
        self.weights.append(w.sqrt().float())
        self.metric += g.T @ g
        scaled = z * w.sqrt()[:, None]
        for i in range(0, scaled.shape[1], _BLOCK):
            self._gram[i : i + _BLOCK, i:] += scaled[:, i : i + _BLOCK].T @ scaled[:, i:]
        self._sum += (z * w[:, None]).sum(0, dtype=torch.float64)
        self.total += float(w.sum())

    def mean(self) -> torch.Tensor:
        """Weighted mean of the features, float64 [n]."""
        return self._sum / max(self.total, 1e-300)

    def gram(self) -> torch.Tensor:
        """A around the mean, which a free bias takes care of; scaled so that tr(dW^T M dW A) / 2 is the damage summed over
        the examples."""
        upper = self._gram.triu()
        mean = self.mean()
        return (upper + upper.triu(1).T) / max(self.total, 1e-300) - mean[:, None] * mean[None]


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
