"""What a model is fed to see what it computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rfx.core.inputs import BATCH, InputSpec
from rfx.core.workload import Workload

if TYPE_CHECKING:
    import torch


def probe_inputs(
    model: torch.nn.Module, batch: int = 2, tokens: int = 8
) -> dict[str, torch.Tensor]:
    """Random token ids [batch, tokens], the last tokens of the second row padded. Seeded, global
    RNG untouched."""
    import torch

    vocabulary = int(getattr(model.config, "vocab_size", 32))
    generator = torch.Generator().manual_seed(0)
    # Ids from 3 up: the low ones are padding and special tokens in most vocabularies (RoBERTa
    # counts positions by them).
    ids = torch.randint(min(3, vocabulary - 1), vocabulary, (batch, tokens), generator=generator)
    mask = torch.ones_like(ids)
    if batch > 1 and tokens > 4:
        mask[1, -3:] = 0
    device = next(model.parameters()).device
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def examples(model: torch.nn.Module, inputs: InputSpec | None) -> dict[str, torch.Tensor]:
    """Two examples, eight long on every axis that is free.

    Args:
        inputs: what the model is fed; None: text.
    """
    import torch

    if inputs is None:
        return probe_inputs(model)
    sizes = {axis: 8 for axis in inputs.dynamic_axes if axis != BATCH}
    arrays = inputs.example(Workload(batch=2, axes=sizes))
    device = next(model.parameters()).device
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def first_of(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The first of some examples, which has no padding."""
    return {k: v[:1] for k, v in inputs.items()}


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """While open, the model is in eval mode; afterwards every module is as it was."""
    before = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, flag in before:
            module.training = flag
