"""The form in which rfx takes models: the same function, made of modules that can be sliced."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def canonical(model: nn.Module) -> None:
    """Give a model that form, in place.

    transformers' Conv1D of GPT-2 and its kin is a linear layer whose weight lies the other way
    round, [inputs, outputs]: it becomes a linear layer, under its own name.
    """
    import torch
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    for path, module in list(model.named_modules()):
        if not isinstance(module, Conv1D):
            continue
        inputs, outputs = module.weight.shape
        facts = {"device": module.weight.device, "dtype": module.weight.dtype}
        linear = nn.Linear(inputs, outputs, **facts)
        with torch.no_grad():
            linear.weight.copy_(module.weight.T)
            linear.bias.copy_(module.bias)
        linear.train(module.training)
        linear.requires_grad_(module.weight.requires_grad)
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, linear)
