"""The decision: which units stay at which site. Small, readable JSON.

A *site* is one prunable sublayer, a *unit* a head or a filter. Every site masks the same tensor:
the input of the sublayer's output projection (the attention context before W_O, the activation
before the second FFN linear).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rfx.core.errors import UsageError, in_words
from rfx.core.kind import Kind as Kind
from rfx.core.site import Site as Site
from rfx.core.values import short

if TYPE_CHECKING:  # who judges evidence in CI has no NumPy
    import numpy as np

_MOST = 1 << 30  # of anything that is counted
LITTLE = 0.05  # of the units of every kind: a plan that keeps less is next to nothing
FULL = "fp32"  # the precision that a model is trained and scored in


@dataclass(frozen=True, order=True)
class Choice:
    """What a search decides at a site: how many units stay, and the precision they compute in."""

    count: int
    precision: str = FULL


Counts = dict[str, int]  # site name -> kept units
Choices = Mapping[str, Choice]  # by site name


@dataclass(frozen=True)
class SitePlan:
    """What stays at a site. `precision` is None where the site computes in that of the whole
    engine."""

    name: str
    layer: int
    kind: Kind
    units: int
    width: int
    kept: tuple[int, ...]  # sorted unit indices
    precision: str | None = None
    weights: int = 0  # of a unit, as in `Site`

    @property
    def count(self) -> int:
        return len(self.kept)

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "layer": self.layer,
            "kind": self.kind.value,
            "units": self.units,
            "width": self.width,
            "kept": list(self.kept),
            **({} if self.precision is None else {"precision": self.precision}),
            **({"weights": self.weights} if self.weights else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping) -> SitePlan:
        """Raises UsageError where a part is missing or not what it should be."""
        with _whole_plan():
            _check(data)
        return cls(
            data["name"],
            data["layer"],
            Kind(data["kind"]),
            data["units"],
            data["width"],
            tuple(data["kept"]),
            data.get("precision"),
            data.get("weights", 0),
        )


@dataclass(frozen=True)
class Plan:
    """Kept units per site, in execution order. `provenance` says how it came to be (search, budget,
    prediction)."""

    sites: tuple[SitePlan, ...]
    provenance: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        sites: Sequence[Site],
        kept: Mapping[str, Sequence[int]],
        precisions: Mapping[str, str] | None = None,
        **provenance: object,
    ) -> Plan:
        """A plan of the `kept` units by site; `precisions` by site, where they differ from that of
        the whole engine."""
        return cls(
            tuple(
                SitePlan(
                    s.name,
                    s.layer,
                    s.kind,
                    s.units,
                    s.width,
                    tuple(sorted(int(u) for u in kept[s.name])),
                    (precisions or {}).get(s.name),
                    s.weights,
                )
                for s in sites
            ),
            provenance,
        )

    @classmethod
    def dense(cls, sites: Sequence[Site]) -> Plan:
        return cls.of(sites, {s.name: range(s.units) for s in sites})

    @property
    def counts(self) -> Counts:
        return {s.name: s.count for s in self.sites}

    def choices(self, precision: str) -> dict[str, Choice]:
        """What was decided at each site, by name; `precision` is that of the whole engine."""
        return {s.name: Choice(s.count, s.precision or precision) for s in self.sites}

    def __getitem__(self, name: str) -> SitePlan:
        for site in self.sites:
            if site.name == name:
                return site
        raise KeyError(name)

    @property
    def layers(self) -> list[dict[str, int]]:
        """Per layer `{heads, filters}` kept, as in the checkpoint's `pruned_layers`; the names are
        those of the kinds' units."""
        rows: dict[int, dict[str, int]] = {}
        for s in self.sites:
            rows.setdefault(s.layer, {})[s.kind.plural] = s.count
        return [rows[i] for i in sorted(rows)]

    @property
    def hash(self) -> str:
        body = [
            [s.name, s.units, list(s.kept), *([] if s.precision is None else [s.precision])]
            for s in self.sites
        ]
        return hashlib.sha256(json.dumps(body).encode()).hexdigest()[:16]

    def to_json(self) -> dict:
        return {
            "schema_version": 1,
            "hash": self.hash,
            "sites": [s.to_json() for s in self.sites],
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_json(cls, data: Mapping) -> Plan:
        """Raises UsageError where a part is missing or not what it should be."""
        with _whole_plan():
            said, provenance = data["sites"], data.get("provenance", {})
            if not isinstance(said, (list, tuple)) or not isinstance(provenance, Mapping):
                raise ValueError("sites is no list, or provenance no mapping of keys")
        sites = tuple(SitePlan.from_json(s) for s in said)
        twice = [name for name, count in Counter(s.name for s in sites).items() if count > 1]
        with _whole_plan():
            if twice:
                raise ValueError(f"several sites are called {short(min(twice))}")
        return cls(sites, provenance)


def almost_empty(plan: Plan) -> str:
    """What there is to warn of where a plan keeps nothing or next to nothing; empty where it keeps
    enough. What is left then is the embeddings and the head, whatever the gates say."""
    if not plan.sites:
        return ""
    layers = [sum(row.values()) for row in plan.layers]
    emptied = f"{layers.count(0)} of {len(layers)} layers are emptied"
    if not any(layers):
        return (
            f"The plan keeps nothing: all {len(layers)} layers are emptied. What is left is the "
            "embeddings and the head, so that no token of an input sees another one."
        )
    there = dict.fromkeys(s.kind for s in plan.sites)
    units = {
        kind: (
            sum(s.count for s in plan.sites if s.kind == kind),
            sum(s.units for s in plan.sites if s.kind == kind),
        )
        for kind in there
    }
    if all(kept < LITTLE * of for kept, of in units.values()):
        said = " and ".join(
            f"{kept:,} of {of:,} {kind.plural}" for kind, (kept, of) in units.items()
        )
        return (
            f"The plan keeps next to nothing: {said}; {emptied}. What is left is little more than "
            "the embeddings and the head."
        )
    if units.get(Kind.MHA, (1, 1))[0] == 0:
        return (
            f"The plan keeps no attention: all {units[Kind.MHA][1]} heads go, so that no token of "
            "an input sees another one. A head that reads the first token alone then gives the "
            "same answer to every input."
        )
    return ""


@contextmanager
def _whole_plan() -> Iterator[None]:
    try:
        yield
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            "The plan is not valid.",
            got=in_words(error),
            allowed="a plan as rfx writes it: plan.json, or the plan in evidence.json",
            next_step="make it again: rfx prune-export",
        ) from None


def _check(data: Mapping[str, Any]) -> None:
    """Raises KeyError, ValueError or TypeError for what is no plan of a site."""
    name, kept, precision = data["name"], data["kept"], data.get("precision")
    if not isinstance(name, str) or not isinstance(precision, (str, type(None))):
        raise ValueError(f"a site called {short(name)} at the precision {short(precision)}")
    for key, least in (("layer", 0), ("units", 1), ("width", 1), ("weights", 0)):
        value = data.get(key, 0) if key == "weights" else data[key]
        if type(value) is not int or not least <= value <= _MOST:
            raise ValueError(f"{short(name)}: {key} = {short(value)}, where a count must be")
    if data["kind"] not in [kind.value for kind in Kind]:
        raise ValueError(f"{short(name)}: {short(data['kind'])} is no kind of site")
    within = isinstance(kept, (list, tuple)) and all(type(u) is int for u in kept)
    if (
        not within
        or list(kept) != sorted(set(kept))
        or not all(0 <= u < data["units"] for u in kept)
    ):
        raise ValueError(
            f"{short(name)}: kept = {short(kept)}, where numbers below {data['units']} must be, "
            "each once and in their order"
        )


@dataclass(frozen=True)
class Update:
    """The tensors of compensation, by site name.

    `scales` float64 [units]: the real-valued mask, 0 where pruned (Kwon et al. 2022, section 4.3).
    `weights` [d, kept channels] and `biases` [d] replace those of the output projection (scales are
    then ignored).
    """

    scales: Mapping[str, np.ndarray] = field(default_factory=dict)
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    biases: Mapping[str, np.ndarray] = field(default_factory=dict)

    def to_arrays(self) -> dict[str, np.ndarray]:
        import numpy as np

        parts = {"scales": self.scales, "weights": self.weights, "biases": self.biases}
        return {
            f"{part}/{name}": np.ascontiguousarray(a)
            for part, arrays in parts.items()
            for name, a in arrays.items()
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Update:
        parts: dict[str, dict[str, np.ndarray]] = {"scales": {}, "weights": {}, "biases": {}}
        for key, array in arrays.items():
            part, name = key.split("/", 1)
            parts[part][name] = array
        return cls(**parts)
