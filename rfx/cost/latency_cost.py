"""A measured latency table as the cost of a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rfx.core.plan import Choice, Choices
from rfx.cost.base import AnySite, Cost
from rfx.cost.table import LatencyTable


@dataclass(frozen=True)
class LatencyCost(Cost):
    """Milliseconds on the runtime, and at the precision, that the table was measured with."""

    table: LatencyTable

    unit: ClassVar[str] = "ms"

    @property
    def precision(self) -> str:
        return self.table.key.precision

    @property
    def fixed(self) -> float:
        return float(self.table.fixed_ms)

    def curve(self, site: AnySite) -> dict[Choice, float]:
        """The counts measured for the site's kind, without those that a larger count undercuts at
        the site."""
        return {
            Choice(n, self.precision): ms
            for n, ms in self.table.choices(site).items()
            if n <= site.units
        }

    def predict(self, sites: Sequence[AnySite], choices: Choices) -> float:
        return self.table.predict_ms(sites, {name: c.count for name, c in choices.items()})
