"""How far a model's outputs are from the dense model's: KL divergence (of labels that are
independent of one another their sum), the squared error of a regression, or one minus the cosine
of an embedding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.core.device import model_device
from rfx.core.inputs import Batch
from rfx.methods.scores.predictive import output_fields

if TYPE_CHECKING:
    import torch

Outputs = Sequence[Mapping[str, "torch.Tensor"]]  # of each batch, by name


def collect_outputs(
    model: torch.nn.Module, batches: Iterable[Batch], task: Any
) -> list[dict[str, torch.Tensor]]:
    """The model's outputs on every batch, on the model's device, without gradients."""
    import torch

    device, out = model_device(model), []
    training = [(m, m.training) for m in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            for inputs, _ in batches:
                outputs = model(**{k: v.to(device) for k, v in inputs.items()})
                out.append({name: getattr(outputs, name).detach() for name in task.output_names})
    finally:
        for module, flag in training:
            module.training = flag
    return out


def divergence(
    teacher: Mapping[str, torch.Tensor],
    student: Mapping[str, torch.Tensor],
    inputs: Mapping[str, torch.Tensor],
    names: Sequence[str],
) -> torch.Tensor:
    """KL(teacher || student) of each example, float64 [batch]: summed over the outputs, averaged
    over real tokens; the squared error of a regression; one minus the cosine of a direction."""
    import torch
    from torch.nn.functional import logsigmoid

    totals: list[torch.Tensor] = []
    pairs = zip(
        output_fields(SimpleNamespace(**teacher), inputs, names),
        output_fields(SimpleNamespace(**student), inputs, names),
        strict=True,
    )
    for (kind, z, examples), (_, y, _) in pairs:
        if kind == "value":
            rows = (z - y).double().square().sum(-1)
        elif kind == "direction":
            rows = (z - y).double().square().sum(-1) / 2  # both of length 1: 1 - cosine
        elif kind == "labels":
            z, y = z.double(), y.double()
            there = z.sigmoid() * (logsigmoid(z) - logsigmoid(y))
            not_there = (-z).sigmoid() * (logsigmoid(-z) - logsigmoid(-y))
            rows = (there + not_there).sum(-1)
        else:
            z, y = z.double().log_softmax(-1), y.double().log_softmax(-1)
            rows = (z.exp() * (z - y)).sum(-1)
        size = len(teacher[names[0]])
        value = torch.zeros(size, dtype=torch.float64, device=rows.device).index_add(
            0, examples, rows
        )
        if kind == "token":
            value = value / torch.bincount(examples, minlength=size).clamp(min=1)
        totals.append(value)
    return sum(totals[1:], totals[0])


def outputs_divergence(
    teacher: Mapping[str, Sequence[np.ndarray]],
    student: Mapping[str, Sequence[np.ndarray]],
    names: Sequence[str],
) -> float:
    """The same mean of raw outputs as engines give them: by name one array a feature, cut to its
    own tokens ([labels], [tokens] or [tokens, labels])."""
    import torch

    total = 0.0
    for i in range(len(teacher[names[0]])):
        one, other = (
            {n: torch.from_numpy(np.asarray(side[n][i], dtype=np.float32))[None] for n in names}
            for side in (teacher, student)
        )
        real = {"attention_mask": torch.ones(1, one[names[0]].shape[1], dtype=torch.int64)}
        total += float(divergence(one, other, real, names))
    return total / max(1, len(teacher[names[0]]))


def mean_divergence(
    model: torch.nn.Module, batches: Iterable[Batch], teacher: Outputs, task: Any
) -> float:
    """Mean over the examples of `batches`, whose dense outputs are `teacher`."""
    import torch

    values = []
    batches = list(batches)
    for (inputs, _), dense, student in zip(
        batches, teacher, collect_outputs(model, batches, task), strict=True
    ):
        inputs = {k: v.to(model_device(model)) for k, v in inputs.items()}
        values.append(divergence(dense, student, inputs, task.output_names))
    return float(torch.cat(values).mean())
