"""Removal under an output metric, compensation included: what a unit is worth when the rest of its
site may make up for it.

To second order a change dY of a site's output costs the model's output (KL to itself) sum of (g^T
dy)^2 / 2, g the gradient of the output's Fisher probe at that place. Without the products between
tokens and with the usual Kronecker split this is tr(dW^T M dW A) / 2, M = sum of g g^T the output
metric and A the Gram matrix of the features, tokens weighted by |g|^2. `surgeon` turns M and A into
an order of removal and a damage curve a site; the knapsack chooses between the curves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.core.inputs import Batch
from rfx.core.plan import Plan, Site, Update
from rfx.core.progress import Progress
from rfx.core.registry import register
from rfx.methods.compensate.gram import Gram
from rfx.methods.finite import require_finite
from rfx.methods.scores.base import Scores, require_option
from rfx.methods.scores.divergence import collect_outputs, mean_divergence
from rfx.methods.scores.passes import GradientScorer, Tap
from rfx.methods.scores.predictive import Signs, fisher_probe
from rfx.methods.scores.surgeon import RemovalCurve, removal_curve
from rfx.models.modules import output_of
from rfx.models.student import as_student

if TYPE_CHECKING:
    import torch

TEMPERATURE = 2.0  # a model is surer of the examples it was trained on than of those it will meet
UNIFORM = 0.02  # of the token weights: a token that matters to nothing still is one


@register("scorer", "output-metric")
class OutputMetric(GradientScorer["_Metrics"]):
    """Order and damage of removal by site, and the token weights for the reconstruction. Needs no
    labels; after the passes one matrix inverse a site.

    Args:
        temperature: of the output distribution (not of a regression).
        points: at so many kept counts a site the damage is measured, not only predicted: the site
            alone is pruned and re-solved, and the divergence of the output taken on some examples;
            0 for none.
        examples: how many, of the first ones of the sample.
        seed: of the probe's random signs.
    """

    name = "output-metric"

    def __init__(
        self,
        *,
        temperature: float = TEMPERATURE,
        points: int = 0,
        examples: int = 128,
        seed: int = 0,
        tokens_per_pass: int | None = None,
        **_: Any,
    ):
        super().__init__(seed=seed, tokens_per_pass=tokens_per_pass)
        require_option(self.name, "temperature", temperature, 0, above=True)
        require_option(self.name, "points", points, 0, whole=True)
        require_option(self.name, "examples", examples, 1, whole=True)
        self.temperature, self.points, self.examples = temperature, points, examples

    def tap(self, model: torch.nn.Module, sites: Sequence[Site]) -> _Metrics:
        return _Metrics(model, sites)

    def beside(
        self, number: int, targets: Mapping[str, torch.Tensor]
    ) -> Mapping[str, torch.Tensor]:
        return {}

    def scalars(
        self,
        outputs: Any,
        inputs: Mapping[str, torch.Tensor],
        beside: Mapping[str, torch.Tensor],
        task: Any,
        signs: Signs,
    ) -> torch.Tensor:
        return fisher_probe(outputs, inputs, task.output_names, signs, self.temperature)

    def conclude(
        self,
        model: torch.nn.Module,
        tap: _Metrics,
        batches: Iterable[Batch],
        task: Any,
        progress: Progress,
    ) -> Scores:
        import torch

        probes = _Probes(model, batches, task, self.examples) if self.points else None
        importance, orders, weights = {}, {}, {}
        with progress.bar("removal curves", len(tap.sites)) as bar:
            for site in tap.sites:
                seen = tap.seen.pop(site.name)
                require_finite(site.name, "gradients and features", seen.metric, *seen.gram.sums)
                output = output_of(model, site)
                weight, biased = output.weight.detach(), output.bias is not None
                points = [round(site.units * k / self.points) for k in range(1, self.points + 1)]
                # Tokens' weights have a mean of 1.
                gram = (seen.gram.centred if biased else seen.gram.zz) / max(seen.gram.rows, 1e-300)
                curve = removal_curve(gram, weight, seen.metric, site.width, checkpoints=points)
                added = (
                    curve.added
                    if probes is None
                    else probes.scaled(site, curve, seen.gram.z_sum / seen.gram.rows)
                )
                importance[site.name] = np.zeros(site.units)
                importance[site.name][curve.order] = added
                orders[site.name] = curve.order
                weights[site.name] = torch.cat(seen.weights).cpu().numpy()
                bar.advance()
        return Scores(importance, orders=orders, token_weights=weights)


class _Seen:
    """M [d, d], the weighted Gram matrix A [n, n], and the token weights of one site."""

    def __init__(self, channels: int, hidden: int, device: torch.device):
        import torch

        self.metric = torch.zeros(hidden, hidden, dtype=torch.float64, device=device)
        self.gram = Gram(channels, 0, device)
        self.weights: list[torch.Tensor] = []


class _Metrics(Tap):
    side = "output"

    def __init__(self, model: torch.nn.Module, sites: Sequence[Site]):
        super().__init__(model, sites)
        self.seen: dict[str, _Seen] = {}

    def add(self, site: Site, x: torch.Tensor, gradient: torch.Tensor) -> None:
        import torch

        if site.name not in self.seen:
            self.seen[site.name] = _Seen(x.shape[-1], gradient.shape[-1], gradient.device)
        seen, real = self.seen[site.name], self.real_of(x)
        z, g = x[real], gradient[real]  # [t, n], [t, d]
        example = torch.arange(len(x), device=x.device)[:, None].expand(real.shape)[real]  # [t]
        squares = g.square().sum(1)  # [t]
        # The uniform share within each example, so that nothing hangs on how examples are batched.
        mean = torch.zeros(len(x), dtype=squares.dtype, device=x.device).index_add(
            0, example, squares
        )
        mean = mean / torch.bincount(example, minlength=len(x)).clamp(min=1)
        w = (1 - UNIFORM) * squares + UNIFORM * mean[example]
        # The reconstruction goes by |g|: |g|^2 leaves it too few tokens to fit on
        # (docs/pages/explanation/accuracy.md).
        seen.weights.append(w.sqrt().float())
        seen.metric += g.T @ g
        seen.gram.add(z, z[:, :0], w)


class _Probes:
    """Some examples, the dense model's outputs on them, and how far a model with one pruned site is
    from these."""

    def __init__(self, model: torch.nn.Module, batches: Iterable[Batch], task: Any, examples: int):
        self.model, self.task, self.batches, seen, self.total = model, task, [], 0, 0
        for inputs, targets in batches:
            size = len(next(iter(inputs.values())))
            self.total += size
            if seen < examples:
                some = min(size, examples - seen)
                self.batches.append(({k: v[:some] for k, v in inputs.items()}, targets))
                seen += some
        self.dense = collect_outputs(model, self.batches, task)

    def scaled(self, site: Site, curve: RemovalCurve, mean: torch.Tensor) -> np.ndarray:
        """What each removal adds once the predicted damage is scaled to the measured one: by the
        ratio of the two at every checkpoint, its logarithm interpolated between them. `mean` of the
        features, [n]."""
        predicted = np.concatenate([[0.0], np.cumsum(curve.added)])  # [units + 1]
        where, ratios = [], []
        for removed, weight in sorted(curve.weights.items()):
            if predicted[removed] > 0:
                # A sum, as the damage is.
                measured = self.total * self._divergence(site, curve.order[removed:], weight, mean)
                where.append(removed)
                ratios.append(np.log(max(measured, 1e-3 * predicted[removed]) / predicted[removed]))
        if not where:
            return curve.added
        damage = predicted * np.exp(np.interp(np.arange(len(predicted)), where, ratios))
        return np.diff(np.maximum.accumulate(damage))

    def _divergence(
        self, site: Site, kept: np.ndarray, weight: torch.Tensor, mean: torch.Tensor
    ) -> float:
        """With `weight` [d, n] in place, zero but for the `kept` units; the bias, where there is
        one, takes what the features' mean loses."""
        module = output_of(self.model, site)
        biases = {}
        if module.bias is not None:
            biases[site.name] = (
                (module.bias.detach().double() + (module.weight.detach().double() - weight) @ mean)
                .cpu()
                .numpy()
            )
        plan = Plan.of([site], {site.name: kept.tolist()})
        channels = site.channels_of(plan[site.name].kept)
        update = Update({}, {site.name: weight[:, channels].cpu().numpy()}, biases)
        with as_student(self.model, [site], plan, update):
            return mean_divergence(self.model, self.batches, self.dense, self.task)
