"""Schedules: in what order scoring, search and compensation take turns. A new one is a class
registered in `SCHEDULES`."""

from __future__ import annotations

from rfx.core.errors import UsageError
from rfx.methods.schedule.base import Ground, Outcome, Schedule
from rfx.methods.schedule.iterated import Iterated
from rfx.methods.schedule.oneshot import OneShot
from rfx.methods.schedule.sequential import Sequential

SCHEDULES: dict[str, type[Schedule]] = {s.name: s for s in (OneShot, Sequential, Iterated)}


def schedule(name: str) -> type[Schedule]:
    """The schedule class called `name`."""
    if name not in SCHEDULES:
        raise UsageError(
            "There is no such schedule.",
            got=name,
            allowed=", ".join(SCHEDULES),
            next_step="correct method.schedule",
        )
    return SCHEDULES[name]


__all__ = ["SCHEDULES", "Ground", "Outcome", "Schedule", "schedule"]
