"""Knowledge measurement of K-prune (Park, Choi and Kang 2024, section 4.2): what a unit's removal
would cost in predictive and in representational knowledge of the dense model.

Predictive: sum over the unit's channels of g^2 / 2, g the gradient of the distillation loss T^2
KL(teacher || student) in a mask variable of that channel, a mean over examples (their equation 4).
Representational: ||x_i w_i^T||^2 of each channel i, a mean over tokens and output channels
(equation 5); no gradients. The score is lambda_pred K_pred + lambda_rep K_rep.

Not as their code has it: examples are squared one by one, so that the batch size says nothing (for
gradients that differ from example to example their lambda_rep of 2.5e-4 at 32 a batch is 0.256
here); channels of a head are summed, where they take the mean and put the head size back by mu =
64; and the loss' labels are drawn from the teacher, which adds the Fisher information to the
squared gradient of KL, so that the first sublayer, where student and teacher agree, has scores too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.core.inputs import Batch
from rfx.core.plan import Site
from rfx.core.progress import Progress
from rfx.core.registry import register
from rfx.methods.finite import require_finite
from rfx.methods.scores.base import Scores, require_option
from rfx.methods.scores.divergence import collect_outputs
from rfx.methods.scores.passes import GradientScorer, Tap
from rfx.methods.scores.predictive import Signs, knowledge_probe
from rfx.models.modules import output_of

if TYPE_CHECKING:
    import torch

LAMBDA_PRED, LAMBDA_REP, TEMPERATURE = 1.0, 0.256, 2.0


@register("scorer", "kprune")
class KPrune(GradientScorer["_Knowledge"]):
    """Additive importance without interactions. Needs no labels.

    Args:
        lambda_pred, lambda_rep: weights of the two kinds of knowledge.
        temperature: T of the distillation loss (not of a regression).
        seed: of the drawn labels.
    """

    name = "kprune"

    def __init__(
        self,
        *,
        lambda_pred: float = LAMBDA_PRED,
        lambda_rep: float = LAMBDA_REP,
        temperature: float = TEMPERATURE,
        seed: int = 0,
        tokens_per_pass: int | None = None,
        **_: Any,
    ):
        super().__init__(seed=seed, tokens_per_pass=tokens_per_pass)
        require_option(self.name, "lambda_pred", lambda_pred, 0)
        require_option(self.name, "lambda_rep", lambda_rep, 0)
        require_option(self.name, "temperature", temperature, 0, above=True)
        self.lambda_pred, self.lambda_rep, self.temperature = lambda_pred, lambda_rep, temperature
        self._teacher: list[dict[str, torch.Tensor]] | None = None

    def watch(self, teacher: torch.nn.Module, batches: Iterable[Batch], task: Any) -> None:
        """Keep the dense model's outputs; without this the model that is scored is its own
        teacher."""
        self._teacher = collect_outputs(teacher, batches, task)

    def tap(self, model: torch.nn.Module, sites: Sequence[Site]) -> _Knowledge:
        return _Knowledge(model, sites)

    def beside(
        self, number: int, targets: Mapping[str, torch.Tensor]
    ) -> Mapping[str, torch.Tensor]:
        return {} if self._teacher is None else self._teacher[number]

    def scalars(
        self,
        outputs: Any,
        inputs: Mapping[str, torch.Tensor],
        beside: Mapping[str, torch.Tensor],
        task: Any,
        signs: Signs,
    ) -> torch.Tensor:
        teacher = beside or {name: getattr(outputs, name).detach() for name in task.output_names}
        return knowledge_probe(outputs, inputs, task.output_names, signs, teacher, self.temperature)

    def conclude(
        self,
        model: torch.nn.Module,
        tap: _Knowledge,
        batches: Iterable[Batch],
        task: Any,
        progress: Progress,
    ) -> Scores:

        importance = {}
        for site in tap.sites:
            seen = tap.seen[site.name]
            weight = output_of(model, site).weight.detach().double()  # [d, channels]
            predictive = seen.squares / 2 / seen.examples  # [channels]
            representational = seen.features / seen.tokens * weight.square().mean(0)  # [channels]
            score = self.lambda_pred * predictive + self.lambda_rep * representational
            require_finite(site.name, "gradients and features", score)
            # Times the examples: the sum over them, as the other scorers give it.
            score = seen.examples * score.view(site.units, site.width).sum(1)
            importance[site.name] = score.cpu().numpy().astype(np.float64)
        return Scores(importance)


class _Seen:
    """Sums over examples of g^2 and over tokens of x^2, float64 [channels]."""

    def __init__(self, channels: int, device: torch.device):
        import torch

        self.squares = torch.zeros(channels, dtype=torch.float64, device=device)
        self.features = torch.zeros(channels, dtype=torch.float64, device=device)
        self.tokens = self.examples = 0


class _Knowledge(Tap):
    def __init__(self, model: torch.nn.Module, sites: Sequence[Site]):
        super().__init__(model, sites)
        self.seen: dict[str, _Seen] = {}

    def add(self, site: Site, x: torch.Tensor, gradient: torch.Tensor) -> None:
        if site.name not in self.seen:
            self.seen[site.name] = _Seen(x.shape[-1], x.device)
        seen = self.seen[site.name]
        # Per example, then over examples.
        seen.squares += (x * gradient).sum(1).double().square().sum(0)
        real = x[self.real_of(x)]  # [t, channels]
        seen.features += real.square().sum(0).double()
        seen.tokens += len(real)
        seen.examples += len(x)
