"""Where this command has found or kept results: after an interrupt or an error, whether there is
anything that the next run goes on from."""

from __future__ import annotations

from pathlib import Path

_places: dict[Path, None] = {}  # of stores, in their order


def forget() -> None:
    """A command begins: nothing is kept yet."""
    _places.clear()


def remember(place: Path) -> None:
    """A whole result lies in the store at this place."""
    _places[place] = None


def anything() -> bool:
    """Whether the same command, run again, would find a result."""
    return bool(_places)


def places() -> list[Path]:
    """The stores that have one."""
    return list(_places)
