"""The Fisher information of the model's own predictive distribution, from one backward pass and
without labels.

For an output distribution p over classes with logits z, the Fisher information in z is F = diag(p)
- p p^T = S S^T with S = diag(sqrt p) - p sqrt(p)^T. A vector v = S e with independent random signs
e has E[v v^T] = F, so the gradient g of the scalar v . z with respect to anything has E[g g^T] =
the Fisher information of that thing (Kunstner, Hennig and Balles 2019 for what it is; the labels'
loss gives the empirical Fisher instead). Two classes need no chance: F has rank one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


def output_fields(
    outputs: Any, inputs: Mapping[str, torch.Tensor], names: Sequence[str]
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Every output distribution of a model: (kind, logits [rows, classes], example of each row
    int64 [rows]).

    A field [batch, classes] is a class an example, kind "class"; with one class it is a regression,
    kind "value". Where its name says that it is over labels (`rfx.core.output.OutputName`), each of
    them is there or not, kind "labels"; where it says that it is a direction, kind "direction", the
    vector is given at length 1. [batch, tokens] of a name that ends in `start_logits` or
    `end_logits` is a position, padding left out; [batch, tokens, classes] is a class for each real
    token, kind "token".
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
        elif getattr(name, "over", None) in ("labels", "value"):
            yield name.over, logits, examples  # type: ignore[attr-defined]
        elif getattr(name, "over", None) == "direction":
            yield "direction", torch.nn.functional.normalize(logits, dim=-1), examples
        elif logits.shape[-1] == 1 and getattr(name, "over", None) != "class":
            yield "value", logits, examples
        else:
            yield "class", logits, examples


class Signs:
    """Random signs of one pass that depend on the seed and the example alone, not on the batch it
    came in or its padding.

    Args:
        first: number of the pass's first example.
    """

    def __init__(self, seed: int, first: int = 0):
        self._seed, self._first = int(seed), int(first)

    def rows(self, examples: torch.Tensor, width: int, *stream: int) -> torch.Tensor:
        """+1 or -1, float32 [rows, width], on the device of `examples`: int64 [rows], to which
        example of the pass each row belongs, rows of one example one after the other. Every
        `stream` is independent of the others."""
        import torch

        numbers, counts = torch.unique_consecutive(examples.cpu(), return_counts=True)
        drawn = [
            np.random.default_rng([self._seed, self._first + int(number), *stream]).integers(
                0, 2, int(count) * width, dtype=np.int8
            )
            for number, count in zip(numbers, counts, strict=True)
        ]
        bits = np.concatenate(drawn) if drawn else np.empty(0, np.int8)
        return torch.from_numpy(bits * 2 - 1).view(-1, width).to(examples.device, torch.float32)


def fisher_probe(
    outputs: Any,
    inputs: Mapping[str, torch.Tensor],
    names: Sequence[str],
    signs: Signs,
    temperature: float = 1.0,
) -> torch.Tensor:
    """One scalar an example, [batch], whose gradients g have E[g g^T] = the example's Fisher
    information: summed over the outputs called `names`, averaged over the real tokens. For a
    regression the output itself (unit Gaussian).

    With a `temperature` T it is T^2 times that of the distribution softmax(z / T) in z / T, in
    which examples that the model is sure of still count.
    """
    return _probe(outputs, inputs, names, signs, None, temperature)


def knowledge_probe(
    outputs: Any,
    inputs: Mapping[str, torch.Tensor],
    names: Sequence[str],
    signs: Signs,
    teacher: Mapping[str, torch.Tensor],
    temperature: float,
) -> torch.Tensor:
    """The same for T^2 times the cross-entropy at temperature T with labels that the teacher draws,
    [batch].

    With p the student's and q the teacher's distribution at T the second moment of its gradient in
    z is T^2 ((p - q)(p - q)^T + F(q)): T (p - q) is the gradient of T^2 KL(q || p), and the Fisher
    information beside it does not vanish where student and teacher agree. `teacher` has the
    teacher's outputs by name, shaped like the student's.
    """
    return _probe(outputs, inputs, names, signs, teacher, temperature)


def residual_probe(
    outputs: Any,
    inputs: Mapping[str, torch.Tensor],
    names: Sequence[str],
    signs: Signs,
    teacher: Mapping[str, torch.Tensor],
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(scalar [batch], whose gradient is an example's row; what the teacher's outputs would add to
    it [batch]).

    The scalar is v . z with v as in `fisher_probe` of the *teacher's* distribution q: E[(v . d)^2]
    = d^T F(q) d, twice KL(q || q') to second order for logits that differ by d. Of a regression the
    output itself and its error.
    """
    size = len(getattr(outputs, names[0]))
    totals: list[torch.Tensor] = []
    goals: list[torch.Tensor] = []
    for field, kind, logits, wanted, examples in _beside(outputs, inputs, names, teacher):
        if kind == "value":
            v = _one_by_one(wanted.new_ones(wanted.shape), examples, signs, field)
        elif kind == "direction":
            v = signs.rows(examples, wanted.shape[-1], field, 0)
        else:
            v = _root(kind, _chances(kind, wanted / temperature), examples, signs, field)
        v = _independent(kind, v, examples, size, signs, field)
        totals.append(_by_example(v * logits, examples, size))
        goals.append(_by_example(v * (wanted - logits.detach()), examples, size))
    return sum(totals[1:], totals[0]), sum(goals[1:], goals[0])


def _probe(
    outputs: Any,
    inputs: Mapping[str, torch.Tensor],
    names: Sequence[str],
    signs: Signs,
    teacher: Mapping[str, torch.Tensor] | None,
    temperature: float,
) -> torch.Tensor:
    import torch

    size = len(getattr(outputs, names[0]))
    totals: list[torch.Tensor] = []
    for field, kind, logits, wanted, examples in _beside(outputs, inputs, names, teacher):
        z = logits.detach()
        if kind == "value":
            # E[v^2] of a unit Gaussian around the teacher's value.
            v = torch.sqrt(1.0 + (z - wanted).square())
            v = _one_by_one(v, examples, signs, field)
        elif kind == "direction":
            v = signs.rows(examples, z.shape[-1], field, 0)
            if teacher is not None:
                v = v + (z - wanted) * signs.rows(examples, 1, field, 1)
        else:
            q = _chances(kind, wanted / temperature)
            v = _root(kind, q, examples, signs, field)
            if teacher is not None:
                moved = _chances(kind, z / temperature) - q
                v = v + moved * signs.rows(examples, 1, field, 1)
            v = temperature * v
        v = _independent(kind, v, examples, size, signs, field)
        totals.append(_by_example(v * logits, examples, size))
    return sum(totals[1:], totals[0])


def _beside(
    outputs: Any,
    inputs: Mapping[str, torch.Tensor],
    names: Sequence[str],
    teacher: Mapping[str, torch.Tensor] | None,
) -> Iterator[tuple[int, str, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(number, kind, logits, the teacher's, example of each row) of every output distribution; a
    model without a teacher is its own. The teacher's have no gradient."""
    other = outputs if teacher is None else SimpleNamespace(**teacher)
    pairs = zip(
        output_fields(outputs, inputs, names), output_fields(other, inputs, names), strict=True
    )
    for field, ((kind, logits, examples), (_, wanted, _)) in enumerate(pairs):
        yield field, kind, logits, wanted.detach(), examples


def _by_example(values: torch.Tensor, examples: torch.Tensor, size: int) -> torch.Tensor:
    """Sums of [rows, classes] over the rows of each example, [size]."""
    return values.new_zeros(size).index_add(0, examples, values.sum(-1))


def _independent(
    kind: str, v: torch.Tensor, examples: torch.Tensor, size: int, signs: Signs, field: int
) -> torch.Tensor:
    """v [rows, classes] with a random sign for each token, averaged over an example's, and one for
    each output and example, so that the products between tokens, between start and end, and between
    examples vanish in expectation."""
    import torch

    if kind == "token":
        counts = torch.bincount(examples, minlength=size).clamp(min=1)
        v = v * signs.rows(examples, 1, field, 2) / counts[examples].sqrt()[:, None]
    return v * signs.rows(torch.arange(size, device=v.device), 1, field, 3)[examples]


def _one_by_one(v: torch.Tensor, examples: torch.Tensor, signs: Signs, field: int) -> torch.Tensor:
    """Numbers [rows, values] of a regression with a sign of its own for each of several values, so
    that they do not count as one sum."""
    return v if v.shape[-1] == 1 else v * signs.rows(examples, v.shape[-1], field, 0)


def _chances(kind: str, logits: torch.Tensor) -> torch.Tensor:
    """Probabilities [rows, classes], of one among them or of each by itself."""
    return logits.sigmoid() if kind == "labels" else logits.softmax(-1)


def _root(
    kind: str, p: torch.Tensor, examples: torch.Tensor, signs: Signs, field: int
) -> torch.Tensor:
    """v = S e [rows, classes] with E[v v^T] = diag(p) - p p^T; exact for two classes. Of labels
    that are independent of one another it is diag(p (1 - p))."""
    if kind == "labels":
        return (p * (1 - p)).sqrt() * signs.rows(examples, p.shape[-1], field, 0)
    if p.shape[-1] == 2:
        return p.prod(-1, keepdim=True).sqrt() * p.new_tensor([1.0, -1.0])
    signed = p.sqrt() * signs.rows(examples, p.shape[-1], field, 0)
    return signed - p * signed.sum(-1, keepdim=True)
