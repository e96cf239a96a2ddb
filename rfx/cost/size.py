"""Bytes of the finished ONNX file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rfx.core.plan import FULL, Choice, Choices, Kind, Site
from rfx.core.registry import register
from rfx.cost.base import AnySite, FileCost
from rfx.export.size import GRAPH, FileBytes, SiteBytes, file_bytes

if TYPE_CHECKING:
    import onnx

FILTER_GRID = 8  # counts of filters that may be chosen are multiples of it, or all


@register("cost", "size")
@dataclass(frozen=True)
class SizeCost(FileCost):
    """Bytes of the ONNX file at the precision of the dense model's file that it was read off.

    Args:
        sites: bytes of each site, by name.
        parts: bytes of what cannot be pruned, by what it is: embeddings, other weights, the graph.
        at: the precision.
    """

    sites: Mapping[str, SiteBytes]
    parts: Mapping[str, float]
    at: str = FULL

    unit: ClassVar[str] = "bytes"

    @classmethod
    def of_files(
        cls,
        graphs: Sequence[onnx.ModelProto],
        sites: Sequence[Site],
        *,
        precision: str,
        more: float = 0.0,
    ) -> SizeCost:
        """See `FileCost.of_files`.

        Raises:
            UnsupportedModelError: the files do not name the weights of a site.
        """
        found: FileBytes = file_bytes(graphs, sites)
        parts = {**found.fixed, GRAPH: found.fixed.get(GRAPH, 0.0) + more}
        return cls(found.sites, parts, precision)

    @property
    def precision(self) -> str:
        return self.at

    @property
    def fixed(self) -> float:
        return float(sum(self.parts.values()))

    def curve(self, site: AnySite) -> dict[Choice, float]:
        step = FILTER_GRID if site.kind is Kind.FFN else 1
        counts = sorted({*range(0, site.units + 1, step), site.units})
        return {Choice(n, self.at): self._bytes(site.name, n) for n in counts}

    def predict(self, sites: Sequence[AnySite], choices: Choices) -> float:
        return self.fixed + sum(self._bytes(s.name, choices[s.name].count) for s in sites)

    def _bytes(self, name: str, count: int) -> float:
        own = self.sites[name]
        return own.once + count * own.unit if count else 0.0
