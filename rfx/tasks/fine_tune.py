"""Fine-tuning for what rfx brings along: AdamW, linear warm-up and decay, batches of like length,
word embeddings frozen."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from rfx.core.progress import Progress

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Part = TypeVar("Part")
POOL = 20  # batches within which examples are sorted by length: little padding, still well mixed


def length_batches(lengths: Sequence[int], size: int, epochs: int, seed: int) -> list[list[int]]:
    """Numbers of examples by batch, of all epochs, in a random order that `seed` decides."""
    rng = random.Random(seed)
    out: list[list[int]] = []
    for _ in range(epochs):
        order = list(range(len(lengths)))
        rng.shuffle(order)
        pools = [
            sorted(order[i : i + POOL * size], key=lengths.__getitem__)
            for i in range(0, len(order), POOL * size)
        ]
        epoch = [pool[i : i + size] for pool in pools for i in range(0, len(pool), size)]
        rng.shuffle(epoch)
        out += epoch
    return out


def train(
    model: PreTrainedModel,
    batches: Sequence[Part],
    loss: Callable[[Part], torch.Tensor],
    rate: float,
    progress: Progress,
    title: str,
) -> None:
    """One pass over `batches`; `loss` gives a batch's scalar. The model is in eval mode
    afterwards."""
    import torch

    model.get_input_embeddings().weight.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], rate)
    steps = len(batches)
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm, max(0.0, (steps - s) / (steps - warm + 1)))
    )
    model.train()
    with progress.bar(title, steps) as bar:
        for part in batches:
            value = loss(part)
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            bar.advance()
    model.eval()
