"""Compensations: how the kept units make up for the others. A new one is a class registered in
`COMPENSATORS`."""

from __future__ import annotations

from rfx.core.errors import UsageError
from rfx.methods.compensate.base import Compensated, Compensator, NoCompensation
from rfx.methods.compensate.projection import Affine, Projection
from rfx.methods.compensate.scales import Scales

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
