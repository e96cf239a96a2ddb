"""Which indices belong to which units: the orders that are usual, and what outputs that were looked
at one by one say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Units = tuple[int, ...]  # the unit of every index


def partition(hits: Iterable[torch.Tensor], channels: int) -> list[int]:
    """The unit of every channel, numbered in their order: channels that one output reaches are of
    one unit, in the finest such partition.

    Args:
        hits: bool [outputs, channels].
    """
    import torch

    parent = list(range(channels))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for reached in hits:
        for row in torch.unique(reached, dim=0):
            first, *others = torch.nonzero(row).flatten().tolist() or [0]
            for other in others:
                parent[root(other)] = root(first)
    roots = [root(i) for i in range(channels)]
    number = {r: k for k, r in enumerate(dict.fromkeys(roots))}
    return [number[r] for r in roots]


def usual(length: int, units: int, width: int) -> Iterator[Units]:
    """How indices usually belong to units: one unit after another; in two or three such parts (gate
    and up; query, key and value); or in three parts of which the first is larger (queries that
    share keys and values)."""
    if not units or length % units:
        return
    each = length // units
    yield tuple(i // each for i in range(length))
    for parts in (2, 3):
        if each % parts == 0:
            one = each // parts
            yield tuple(u for _ in range(parts) for u in range(units) for _ in range(one))
    shared, odd = divmod(each - width, 2)  # of a key and a value
    if 0 < shared < width and not odd:
        yield tuple(
            u for size in (width, shared, shared) for u in range(units) for _ in range(size)
        )
