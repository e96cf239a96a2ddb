"""The latency table: what keeping n units of a sublayer costs, measured on one runtime under stated
conditions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rfx.core.plan import Counts, Kind, Site, SitePlan


@dataclass(frozen=True)
class TableKey:
    """Where a table is valid. Tables with another key are never mixed or compared."""

    runtime: str  # e.g. "ort"
    version: str  # e.g. "onnxruntime 1.31.1"
    device: str
    clock: str
    threads: int
    precision: str
    batch: int
    sequence: int
    hidden: int
    heads: int
    head_dim: int
    filters: int
    layout: str  # of the model: its type, and a hash of what it computes
    quantizer: str = ""  # of the files; empty where nothing is, or the runtime's version says it

    @property
    def units(self) -> dict[Kind, int]:
        """Units of a sublayer, by kind; 0 where the blocks have none of it."""
        return {Kind.MHA: self.heads, Kind.FFN: self.filters}

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Its fields; `quantizer` only where it says something, as tables were before it came."""
        fields = asdict(self)
        if not self.quantizer:
            del fields["quantizer"]
        return fields


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds by curve and kept count. Sublayers that cost alike have one curve, named as
    their kind; further curves of a kind have a number beside it, and `curves` says which sites they
    are of.

    `fixed_ms` is everything that cannot be pruned: embeddings, head, residuals, norms, the
    runtime's own overhead.
    `additivity` has the whole-model checks: `[{plan, predicted_ms, measured_ms, error}]`.
    `shares` are of the sites that compute a part of what the others of their kind do: what units
    add there, as a share of what they add elsewhere. So is the last layer where one position of it
    is read (`rfx.export.one_position`).
    """

    key: TableKey
    costs_ms: Mapping[str, Mapping[int, float]]  # curve -> {count: ms}
    fixed_ms: float
    layers: int
    # Half-width of the interval of a cost.
    errors_ms: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    additivity: tuple[Mapping[str, Any], ...] = ()
    measured: Mapping[str, object] = field(default_factory=dict)  # when, rounds, seconds
    shares: Mapping[str, float] = field(default_factory=dict)  # by name of the site
    curves: Mapping[str, str] = field(default_factory=dict)  # by name of the site

    def curve(self, name: str) -> dict[int, float]:
        """Milliseconds by count at a site that computes all of what others of its curve do."""
        return dict(self.costs_ms[name])

    def curve_of(self, site: Site | SitePlan) -> str:
        """The name of a site's curve."""
        return self.curves.get(site.name, site.kind.value)

    def curve_at(self, site: Site | SitePlan) -> dict[int, float]:
        """Milliseconds by count at a site."""
        curve, share = self.curve(self.curve_of(site)), self.shares.get(site.name, 1.0)
        return {n: curve[0] + share * (ms - curve[0]) for n, ms in curve.items()}

    def choices(self, site: Site | SitePlan) -> dict[int, float]:
        """The counts worth choosing at a site: those that no larger count undercuts or equals
        (latency goes in steps of tiles)."""
        kept: dict[int, float] = {}
        for count, ms in sorted(self.curve_at(site).items(), reverse=True):
            if not kept or ms < min(kept.values()):
                kept[count] = ms
        return dict(sorted(kept.items()))

    def predict_ms(self, sites: Sequence[Site | SitePlan], counts: Counts) -> float:
        """Predicted latency of a whole model: the fixed part and the sum over its sites. Counts
        between measured ones are interpolated linearly (a search only chooses measured ones)."""
        import numpy as np

        total = self.fixed_ms
        for s in sites:
            curve = self.curve_at(s)
            xs = sorted(curve)
            total += float(np.interp(counts[s.name], xs, [curve[x] for x in xs]))
        return total

    @property
    def additivity_error(self) -> float | None:
        """Largest relative error of the whole-model checks, or None where there are none."""
        return max((abs(float(row["error"])) for row in self.additivity), default=None)

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict:
        return {
            "schema_version": 1,
            "key": self.key.to_json(),
            "layers": self.layers,
            "fixed_ms": self.fixed_ms,
            "costs_ms": {k: {str(n): v for n, v in c.items()} for k, c in self.costs_ms.items()},
            "errors_ms": {k: {str(n): v for n, v in c.items()} for k, c in self.errors_ms.items()},
            "additivity": [dict(row) for row in self.additivity],
            "measured": dict(self.measured),
            **({"shares": dict(self.shares)} if self.shares else {}),
            **({"curves": dict(self.curves)} if self.curves else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping) -> LatencyTable:
        def curves(part: Mapping) -> dict:
            return {k: {int(n): float(v) for n, v in c.items()} for k, c in part.items()}

        return cls(
            TableKey(**data["key"]),
            curves(data["costs_ms"]),
            float(data["fixed_ms"]),
            int(data["layers"]),
            curves(data.get("errors_ms", {})),
            tuple(data.get("additivity", ())),
            data.get("measured", {}),
            {str(name): float(share) for name, share in data.get("shares", {}).items()},
            {str(name): str(curve) for name, curve in data.get("curves", {}).items()},
        )
