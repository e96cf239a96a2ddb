"""The Fisher information of the model's own predictive distribution, from one backward pass and without labels.

For an output distribution p over classes with logits z, the Fisher information in z is F = diag(p) - p p^T = S S^T with
S = diag(sqrt p) - p sqrt(p)^T. A vector v = S e with independent random signs e has E[v v^T] = F, so the gradient g of the
scalar v . z with respect to anything has E[g g^T] = the Fisher information of that thing (Kunstner, Hennig and Balles 2019
for what it is; the labels' loss gives the empirical Fisher instead). Two classes need no chance: F has rank one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def output_fields(
    outputs: Any, inputs: Mapping[str, torch.Tensor], names: Sequence[str]
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Every output distribution of a model: (kind, logits [rows, classes], example of each row int64 [rows]).

    A field [batch, classes] is a class an example, kind "class"; with one class it is a regression, kind "value"; [batch,
    tokens] of a name that ends in `start_logits` or `end_logits` is a position, padding left out; [batch, tokens, classes]
    is a class for each real token, kind "token".
    """
    import torch

    for name in names:
        logits = getattr(outputs, name).float()
        examples = torch.arange(len(logits), device=logits.device)
        if logits.dim() == 3:
            real = inputs["attention_mask"].bool()
            yield "token", logits[real], examples[:, None].expand(real.shape)[real]
        elif name.endswith(("start_logits", "end_logits")):
            real = inputs["attention_mask"].bool()
            yield "class", logits.masked_fill(~real, -1e4), examples
        elif logits.shape[-1] == 1:
            yield "value", logits, examples
        else:
            yield "class", logits, examples


def fisher_probe(
    outputs: Any, inputs: Mapping[str, torch.Tensor], names: Sequence[str], generator: torch.Generator,
    temperature: float = 1.0,
) -> torch.Tensor:
    """One scalar an example, [batch], whose gradients g have E[g g^T] = the example's Fisher information: summed over
    the outputs called `names`, averaged over the real tokens. For a regression the output itself (unit Gaussian).

    With a `temperature` T it is that of the distribution softmax(z / T), T^2 times: the second derivative of
    T^2 KL at T, in which examples that the model is sure of still count.
    """
    return _probe(outputs, inputs, names, generator, None, temperature)


def knowledge_probe(
    outputs: Any,
    inputs: Mapping[str, torch.Tensor],
    names: Sequence[str],
    generator: torch.Generator,
    teacher: Mapping[str, torch.Tensor],
    temperature: float,
) -> torch.Tensor:
    """The same for T times the cross-entropy at temperature T with labels that the teacher draws, [batch].

    With p the student's and q the teacher's distribution at T the second moment of its gradient in z is
    (p - q)(p - q)^T + F(q): the gradient of T^2 KL(q || p), and the Fisher information beside it, which does not vanish
    where student and teacher agree. `teacher` has the teacher's outputs by name, shaped like the student's.
    """
    return _probe(outputs, inputs, names, generator, teacher, temperature)


def residual_probe(
    outputs: Any,
    inputs: Mapping[str, torch.Tensor],
    names: Sequence[str],
    generator: torch.Generator,
    teacher: Mapping[str, torch.Tensor],
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(scalar [batch], whose gradient is an example's row; what the teacher's outputs would add to it [batch]).

    The scalar is v . z with v as in `fisher_probe` of the *teacher's* distribution q: E[(v . d)^2] = d^T F(q) d, twice KL(q ||
    q') to second order for logits that differ by d. Of a regression the output itself and its error.
    """
    import torch

    total = goal = None
    size = len(getattr(outputs, names[0]))
    truth = output_fields(SimpleNamespace(**teacher), inputs, names)
    for (kind, logits, examples), (_, wanted, _) in zip(output_fields(outputs, inputs, names), truth, strict=True):
        with torch.no_grad():
            v = torch.ones_like(wanted) if kind == "value" else _root((wanted / temperature).softmax(-1), generator)
            v = _independent(kind, v, examples, size, generator)
            away = logits.new_zeros(size).index_add(0, examples, (v * (wanted - logits)).sum(-1))
        scalar = logits.new_zeros(size).index_add(0, examples, (v * logits).sum(-1))
        total, goal = (scalar, away) if total is None else (total + scalar, goal + away)
    return total, goal


def _probe(outputs, inputs, names, generator, teacher, temperature) -> torch.Tensor:
    import torch

    total = None
    truth = output_fields(SimpleNamespace(**teacher), inputs, names) if teacher is not None else None
    for kind, logits, examples in output_fields(outputs, inputs, names):
        size = len(getattr(outputs, names[0]))
        with torch.no_grad():
            q = next(truth)[1] if truth is not None else logits.detach()
            if kind == "value":
                v = torch.sqrt(1.0 + (logits - q).square())  # E[v^2] of a unit Gaussian around the teacher's value
            else:
                q = (q / temperature).softmax(-1)
                v = _root(q, generator)
                if truth is not None:
                    v = v + ((logits / temperature).softmax(-1) - q) * _signs((len(q), 1), generator, q.device)
                v = temperature * v
            v = _independent(kind, v, examples, size, generator)
        scalar = logits.new_zeros(size).index_add(0, examples, (v * logits).sum(-1))
        total = scalar if total is None else total + scalar
    return total


def _independent(kind, v, examples, size, generator) -> torch.Tensor:
    """v [rows, classes] with a random sign for each token, averaged over an example's, and one for each output, so that the
    products between tokens, and between start and end, vanish in expectation."""
    import torch

    if kind == "token":
        counts = torch.bincount(examples, minlength=size).clamp(min=1)
        v = v * _signs((len(v), 1), generator, v.device) / counts[examples].sqrt()[:, None]
    return v * _signs((1,), generator, v.device)


def _root(p: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """v = S e [rows, classes] with E[v v^T] = diag(p) - p p^T; exact for two classes."""

    if p.shape[-1] == 2:
        return p.prod(-1, keepdim=True).sqrt() * p.new_tensor([1.0, -1.0])
    signed = p.sqrt() * _signs(tuple(p.shape), generator, p.device)
    return signed - p * signed.sum(-1, keepdim=True)


def _signs(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> torch.Tensor:
    import torch

    return (torch.randint(0, 2, shape, generator=generator) * 2 - 1).to(device, torch.float32)
