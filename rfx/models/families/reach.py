"""Which dense modules are the first that the output of a dense module reaches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rfx.models.families.taint import Row, Taint, fed, outputs

if TYPE_CHECKING:
    from torch import nn

Reach = Mapping["nn.Module", Sequence["nn.Module"]]  # dense module -> those that it reaches first


def reach(taint: Taint) -> Reach:
    """By module, in the order of calls. Layers are alike: what has the same place in each of them
    is looked at together, and only where that leaves doubts every module by itself."""
    return _by_groups(taint) or _one_by_one(taint)


def _one_by_one(taint: Taint) -> Reach:
    hits = taint.run([{m: None} for m in taint.order])
    return {
        m: [q for q in taint.order if hits.of(q, i) is not None] for i, m in enumerate(taint.order)
    }


def _by_groups(taint: Taint) -> Reach | None:
    """A row for each group of modules that are alike. Where a group reaches one other group of as
    many modules, each of it reaches its own, which a few rows for all groups together confirm; None
    where they do not. A group that reaches more is of the residual stream: each of its modules is
    said to reach all that the group does, which is enough to know."""
    groups = _alike(taint)
    hits = taint.run([dict.fromkeys(members) for members in groups])
    own = {m: (g, i) for g, members in enumerate(groups) for i, m in enumerate(members)}
    found: dict[nn.Module, Sequence[nn.Module]] = {}
    paired: list[tuple[Sequence[nn.Module], Sequence[nn.Module]]] = []
    for i, members in enumerate(groups):
        readers = [q for q in taint.order if hits.of(q, i) is not None]
        reached = {own[q][0] for q in readers}
        if len(members) > 1 and len(reached) == 1 and len(readers) == len(members):
            paired.append((members, readers))
            found |= {m: [q] for m, q in zip(members, readers, strict=True)}
        elif len(members) > 1 and len(reached) == 1:
            return None  # which of them reaches which is not to be seen
        else:
            found |= dict.fromkeys(members, readers)
    return {m: found[m] for m in taint.order} if _confirmed(taint, paired) else None


def _alike(taint: Taint) -> list[list[nn.Module]]:
    groups: dict[tuple[object, ...], list[nn.Module]] = defaultdict(list)
    for module in taint.order:
        groups[taint.place(module), type(module), outputs(module), fed(module)].append(module)
    return list(groups.values())


def _confirmed(
    taint: Taint, paired: Sequence[tuple[Sequence[nn.Module], Sequence[nn.Module]]]
) -> bool:
    """Row (k, b) poisons the modules whose number has the bit k equal to b: exactly the readers of
    those numbers may be reached."""
    most = max((len(members) for members, _ in paired), default=0)
    pairs = [
        (i, m, q) for members, readers in paired for i, (m, q) in enumerate(zip(members, readers))
    ]
    cases = [(k, b) for k in range((most - 1).bit_length() if most else 0) for b in (0, 1)]
    rows: list[Row] = [{m: None for i, m, _ in pairs if i >> k & 1 == b} for k, b in cases]
    hits = taint.run(rows)
    readers = {q for _, _, q in pairs}
    for row, (k, b) in enumerate(cases):
        expected = {q for i, _, q in pairs if i >> k & 1 == b}
        if expected != {q for q in readers if hits.of(q, row) is not None}:
            return False
    return True
