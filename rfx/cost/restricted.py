"""A cost under which some choices cannot be taken: sublayers that keep all of their units, or that
go as a whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from rfx.core.plan import Choice, Choices
from rfx.cost.base import AnySite, Cost


@dataclass(frozen=True)
class Restriction:
    """What a search may not choose.

    Args:
        frozen: patterns of the names of sites that keep all units: a name (`layer.0.mha`), the
            beginning of one (`layer.0`), its end (`mha`), or with `*`, `?` and `[...]`.
        whole: every other site keeps all of its units or none.
    """

    frozen: tuple[str, ...] = ()
    whole: bool = False

    def __bool__(self) -> bool:
        return bool(self.frozen or self.whole)

    def freezes(self, name: str) -> bool:
        return any(matches(name, pattern) for pattern in self.frozen)

    def of(self, cost: Cost) -> Cost:
        """The cost with fewer choices; itself where nothing is restricted."""
        return Restricted(cost, self) if self else cost


NOTHING = Restriction()


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern is of a site of this name."""
    return any(fnmatchcase(name, p) for p in (pattern, f"{pattern}.*", f"*.{pattern}"))


class Restricted(Cost):
    """Another cost, with the choices that a restriction leaves."""

    def __init__(self, cost: Cost, by: Restriction) -> None:
        self._cost, self._by = cost, by

    @property
    def unit(self) -> str:  # type: ignore[override]
        return self._cost.unit

    @property
    def precision(self) -> str:
        return self._cost.precision

    @property
    def fixed(self) -> float:
        return self._cost.fixed

    def curve(self, site: AnySite) -> dict[Choice, float]:
        whole = self._cost.curve(site)
        if self._by.freezes(site.name):
            return {c: cost for c, cost in whole.items() if c.count == site.units}
        if self._by.whole:
            return {c: cost for c, cost in whole.items() if c.count in (0, site.units)}
        return whole

    def predict(self, sites: Sequence[AnySite], choices: Choices) -> float:
        return self._cost.predict(sites, choices)

    def coarse(self) -> Cost:
        return Restricted(self._cost.coarse(), self._by)
