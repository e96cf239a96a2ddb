"""Sites that cost alike. A latency table has one curve for all of them, and is measured on models
in which all of them keep the same number of units."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rfx.core.kind import Kind
from rfx.core.site import Site
from rfx.core.values import short

CURVE = re.compile(rf"({'|'.join(k.value for k in Kind)})(-\d{{1,6}})?")  # the name of a curve
_MOST = 1 << 30  # of anything that is counted


@dataclass(frozen=True)
class Alike:
    """Sites of one kind and size.

    Args:
        name: of their curve: the kind, and a number where an earlier group is of it too.
        sites: their names.
        partial: those of them that compute one position alone (`rfx.export.one_position`), and so
            cost a part of what the others do.
    """

    name: str
    kind: Kind
    units: int
    width: int
    sites: tuple[str, ...]
    partial: tuple[str, ...] = ()

    @property
    def least(self) -> int:
        """How many units a partial site keeps where its cost is measured. Without any head the last
        layer would read one position of the layer before it too, which is then computed there
        alone: that gain is no part of what a head costs."""
        return 1 if self.kind is Kind.MHA else 0

    def kept(self, site: str, count: int) -> int:
        """How many units one of the sites keeps in a model that is timed with `count` units."""
        return max(count, self.least) if site in self.partial else count

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "kind": self.kind.value,
            "sites": list(self.sites),
            "partial": list(self.partial),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Alike:
        """Raises ValueError for what is no group of sites."""
        sites, partial = (tuple(str(n) for n in data.get(k, ())) for k in ("sites", "partial"))
        made = cls(**{**data, "kind": Kind(data["kind"]), "sites": sites, "partial": partial})
        if not CURVE.fullmatch(str(made.name)) or not made.name.startswith(made.kind.value):
            raise ValueError(f"{short(made.name)} is no name of a curve")
        if not all(type(n) is int and 0 < n <= _MOST for n in (made.units, made.width)):
            raise ValueError(f"{made.name} has no units, or none of a width")
        if not sites or not set(partial) <= set(sites):
            raise ValueError(f"{made.name} has no sites, or partial ones that are not its own")
        return made


def alike(sites: Sequence[Site], partial: Collection[str] = ()) -> tuple[Alike, ...]:
    """The sites of a model in groups that cost alike, in the order of their first ones.

    Args:
        partial: names of those that compute one position alone.
    """
    groups: dict[tuple[object, ...], list[Site]] = {}
    for site in sites:
        groups.setdefault(_cost(site), []).append(site)
    found: list[Alike] = []
    for own in groups.values():
        first, names = own[0], tuple(s.name for s in own)
        earlier = sum(g.kind is first.kind for g in found)
        name = f"{first.kind.value}-{earlier + 1}" if earlier else first.kind.value
        at_one = tuple(n for n in names if n in partial)
        found.append(Alike(name, first.kind, first.units, first.width, names, at_one))
    return tuple(found)


def _cost(site: Site) -> tuple[object, ...]:
    """What sites that cost alike have in common."""
    tables = tuple((t.parameter, t.dim, t.runs) for t in site.slices)
    return site.kind, site.units, site.width, site.weights, len(site.inputs), tables


@dataclass(frozen=True)
class ModelShape:
    """What two models have in common whose latency tables may be exchanged.

    Args:
        name: of the structure: the model's type, and a hash of what it computes.
        hidden: channels of the residual stream.
        layers: of the model.
    """

    name: str
    hidden: int
    layers: int
    alike: tuple[Alike, ...]

    def first(self, kind: Kind) -> Alike | None:
        """The first group of a kind, None where there is none."""
        return next((g for g in self.alike if g.kind is kind), None)

    def of(self, name: str) -> Alike:
        """The group of a curve. Raises KeyError where there is none."""
        return {g.name: g for g in self.alike}[name]

    @property
    def curves(self) -> dict[str, str]:
        """The name of its curve by site, for those that are not on the first of their kind."""
        return {s: g.name for g in self.alike if g.name != g.kind.value for s in g.sites}

    @property
    def partial(self) -> dict[str, tuple[str, ...]]:
        """By curve, the sites that compute one position alone."""
        return {g.name: g.partial for g in self.alike if g.partial}

    def to_json(self) -> dict[str, Any]:
        groups = [g.to_json() for g in self.alike]
        return {"name": self.name, "hidden": self.hidden, "layers": self.layers, "alike": groups}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelShape:
        """Raises ValueError for what is no shape."""
        made = cls(
            str(data["name"]),
            data["hidden"],
            data["layers"],
            tuple(Alike.from_json(g) for g in data["alike"]),
        )
        if not all(type(n) is int and 0 < n <= _MOST for n in (made.hidden, made.layers)):
            raise ValueError("hidden and layers must be whole numbers")
        names = [g.name for g in made.alike]
        if not names or len(set(names)) < len(names):
            raise ValueError("no groups of sites, or two of one name")
        return made


def names(groups: Iterable[Alike]) -> list[str]:
    """The names of all sites."""
    return [name for group in groups for name in group.sites]
