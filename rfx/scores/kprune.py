"""Knowledge measurement of K-prune (Park, Choi and Kang 2024, section 4.2): what a unit's removal would cost in
predictive and in representational knowledge of the dense model.

Predictive: sum over the unit's channels of g^2 / 2, g the gradient of the distillation loss T^2 KL(teacher || student) in a
mask variable of that channel, a mean over examples (their equation 4). Representational: ||x_i w_i^T||^2 of each channel i, a
mean over tokens and output channels (equation 5); no gradients. The score is lambda_pred K_pred + lambda_rep K_rep.

Not as their code has it: examples are squared one by one, so that the batch size says nothing (for gradients that differ
from example to example their lambda_rep of 2.5e-4 at 32 a batch is 0.256 here); channels of a head are summed, where they
take the mean and put the head size back by mu = 64; and the loss' labels are drawn from the teacher, which adds the Fisher
information to the squared gradient of KL, so that the first sublayer, where student and teacher agree, has scores too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.device import model_device
from rfx.errors import UsageError
from rfx.plan import Site
from rfx.progress import Progress, Silent
from rfx.scores.base import Batch, Scorer, Scores
from rfx.scores.divergence import collect_outputs
from rfx.scores.fisher import TOKENS_CPU, TOKENS_GPU, scoring_state, split_batch
from rfx.scores.predictive import knowledge_probe

if TYPE_CHECKING:
    import torch

LAMBDA_PRED, LAMBDA_REP, TEMPERATURE = 1.0, 0.256, 2.0


class KPrune(Scorer):
    """Additive importance without interactions. Needs no labels.

    Args:
        lambda_pred, lambda_rep: weights of the two kinds of knowledge.
        temperature: T of the distillation loss (not of a regression).
        seed: of the drawn labels.
    """

    name = "kprune"

    def __init__(self, *, lambda_pred: float = LAMBDA_PRED, lambda_rep: float = LAMBDA_REP,
                 temperature: float = TEMPERATURE, seed: int = 0, tokens_per_pass: int | None = None, **_: Any):  # fmt: skip
        super().__init__(seed=seed)
        self.lambda_pred, self.lambda_rep, self.temperature = lambda_pred, lambda_rep, temperature
        self.tokens_per_pass = tokens_per_pass
        self._teacher: list[dict[str, torch.Tensor]] | None = None

    def watch(self, teacher: torch.nn.Module, batches: Iterable[Batch], task: Any) -> None:
        """Keep the dense model's outputs; without this the model that is scored is its own teacher."""
        self._teacher = collect_outputs(teacher, batches, task)

    def score(
        self,
        model: torch.nn.Module,
        sites: Sequence[Site],
        batches: Iterable[Batch],
        task: Any,
        *,
        progress: Progress | None = None,
    ) -> Scores:
        """See `Scorer.score`. One forward pass, and one backward pass to the first of `sites`.

        Raises:
            UsageError: no examples, or a gradient that is not a number.
        """
        import torch

        device = model_device(model)
        limit = self.tokens_per_pass or (TOKENS_GPU if device.type == "cuda" else TOKENS_CPU)
        generator = torch.Generator().manual_seed(self.seed)
        total = len(batches) if hasattr(batches, "__len__") else None
        examples = 0
        with scoring_state(model), _Tap(model, sites) as tap, (progress or Silent()).bar("score", total) as bar:
            for number, (inputs, _) in enumerate(batches):
                teacher = {} if self._teacher is None else self._teacher[number]
                for some, truth in split_batch(inputs, teacher, limit):
                    some = {k: v.to(device) for k, v in some.items()}
                    tap.real = some["attention_mask"].bool() if "attention_mask" in some else None
                    outputs = model(**some)
                    truth = truth or {name: getattr(outputs, name).detach() for name in task.output_names}
                    probe = knowledge_probe(outputs, some, task.output_names, generator, truth, self.temperature)
                    probe.sum().backward()
                    examples += len(probe)
                bar.advance()
        importance = {}
        for site in sites:
            seen = tap.seen.get(site.name)
            if seen is None:
                raise UsageError("There are no examples to score with.", next_step="give calibration data")
            weight = model.get_submodule(site.output).weight.detach().double()  # [d, channels]
            predictive = seen.squares / 2 / examples  # [channels]
            representational = seen.features / seen.tokens * weight.square().mean(0)  # [channels]
            score = self.lambda_pred * predictive + self.lambda_rep * representational
            if not bool(torch.isfinite(score).all()):
                raise UsageError(
                    f"The gradients of {site.name} are not numbers.", got="NaN or infinity",
                    next_step="look for NaN in the inputs or the model's weights",
                )  # fmt: skip
            # Times the examples: the sum over them, as the other scorers give it.
            importance[site.name] = (examples * score.view(site.units, site.width).sum(1)).cpu().numpy().astype(np.float64)
        return Scores(importance)


class _Seen:
    """Sums over examples of g^2 and over tokens of x^2, float64 [channels]."""

    def __init__(self, channels: int, device: torch.device):
        import torch

        self.squares = torch.zeros(channels, dtype=torch.float64, device=device)
        self.features = torch.zeros(channels, dtype=torch.float64, device=device)
        self.tokens = 0


class _Tap:
    """Watches the input of every output projection and its gradient. Leaves nothing behind."""

    def __init__(self, model: torch.nn.Module, sites: Sequence[Site]):
        self.model, self.sites = model, sites
        self.seen: dict[str, _Seen] = {}
        self.real: torch.Tensor | None = None
        self._handles: list = []

    def __enter__(self) -> _Tap:
        for site in self.sites:
            module = self.model.get_submodule(site.output)
            self._handles.append(module.register_forward_pre_hook(self._watch(site)))
        return self

    def _watch(self, site: Site):
        def tap(_module, args):
            x = args[0]  # [B, T, channels]
            if not x.requires_grad:  # the first of the sites: the backward pass ends here
                x = x.detach().requires_grad_(True)
            value = x.detach()
            x.register_hook(lambda grad: self._add(site, value, grad))
            return (x, *args[1:])

        return tap

    def _add(self, site: Site, x: torch.Tensor, grad: torch.Tensor) -> None:
        seen = self.seen.setdefault(site.name, _Seen(x.shape[-1], x.device))
        seen.squares += (x * grad).sum(1).double().square().sum(0)  # per example, then over examples
        real = x if self.real is None or self.real.shape != x.shape[:2] else x[self.real]
        flat = real.reshape(-1, x.shape[-1])
        seen.features += flat.square().sum(0).double()
        seen.tokens += len(flat)

    def __exit__(self, *exc) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
