"""The loss of the model's own predictions: labels drawn from what the model predicts, so that none are needed.

The Fisher information proper is the expectation over the model's predictive distribution; one draw an example is an
unbiased estimate of it (Kunstner, Hennig and Balles 2019). The labels' loss gives the empirical Fisher instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def predictive_losses(
    outputs: Any, inputs: Mapping[str, torch.Tensor], names: Sequence[str], generator: torch.Generator
) -> torch.Tensor:
    """-log p(y) of drawn labels, [batch]: summed over the outputs called `names`, averaged over the real tokens.

    A field [batch, classes] is a class an example; one class means a regression (unit Gaussian); [batch, tokens] of a
    name that ends in `start_logits` or `end_logits` is a position; [batch, tokens, classes] is a class a token.
    """
    total = None
    for name in names:
        logits = getattr(outputs, name)
        if logits.shape[-1] == 1 and logits.dim() == 2:
            losses = _gaussian(logits, generator)
        elif logits.dim() == 3:
            losses = _tokens(logits, inputs["attention_mask"].bool(), generator)
        else:
            if name.endswith(("start_logits", "end_logits")):
                logits = logits.masked_fill(~inputs["attention_mask"].bool(), float("-inf"))
            losses = _drawn(logits, generator)
        total = losses if total is None else total + losses
    return total


def _drawn(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Cross-entropy of a class drawn from each row's softmax: [rows, classes] -> [rows]."""
    import torch

    probabilities = logits.detach().float().softmax(-1).cpu()
    labels = torch.multinomial(probabilities, 1, generator=generator).squeeze(-1).to(logits.device)
    return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")


def _tokens(logits: torch.Tensor, real: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mean over real tokens: [B, T, classes] -> [B]."""
    losses = _drawn(logits.flatten(0, 1), generator).view(real.shape)  # [B, T]
    return (losses * real).sum(1) / real.sum(1).clamp(min=1)


def _gaussian(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Squared error / 2 of a value drawn around the prediction: [B, 1] -> [B]."""
    import torch

    noise = torch.randn(values.shape, generator=generator).to(values.device)
    return 0.5 * (values - (values.detach() + noise)).square().squeeze(-1)
