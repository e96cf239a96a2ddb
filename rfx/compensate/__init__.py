"""Compensations: how the kept units make up for the others. A new one is a class registered in
`COMPENSATORS`."""

from __future__ import annotations

from rfx.compensate.base import Compensated, Compensator, NoCompensation
from rfx.compensate.projection import Affine, Projection
from rfx.compensate.scales import Scales
from rfx.errors import UsageError

COMPENSATORS: dict[str, type[Compensator]] = {
    c.name: c for c in (Scales, Projection, Affine, NoCompensation)
}


def compensator(name: str) -> type[Compensator]:
    """The compensator class called `name`."""
    if name not in COMPENSATORS:
        raise UsageError(
            "There is no such compensation.",
            got=name,
            allowed=", ".join(COMPENSATORS),
            next_step="correct method.compensate",
        )
    return COMPENSATORS[name]


__all__ = ["COMPENSATORS", "Compensated", "Compensator", "compensator"]
