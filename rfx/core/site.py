"""A *site*: one place of a model where units can leave, and what has to be cut with them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from rfx.core.kind import Kind
from rfx.core.values import short

_MOST = 1 << 30  # of anything that is counted
STAYS = -1  # in place of a unit: an index that belongs to none, and is kept
ROWS = "rows"  # in place of a parameter: the outputs of a dense module, with its bias

# Indices that belong to units: `count` units from `first` on, `each` indices for every one of them.
Run = tuple[int, int, int]


@dataclass(frozen=True)
class Slice:
    """A dimension of a parameter whose indices belong to the units of a site.

    Args:
        module: path of the module.
        parameter: its name there, or `ROWS`.
        dim: the dimension; 0 for `ROWS`.
        runs: what unit each index belongs to, as runs of (first unit or `STAYS`, units, indices for
            each of them).
    """

    module: str
    parameter: str
    dim: int
    runs: tuple[Run, ...]

    @classmethod
    def of(cls, module: str, parameter: str, dim: int, unit_of: Sequence[int]) -> Slice:
        """From the unit of every index."""
        return cls(module, parameter, dim, tuple(_runs(unit_of)))

    @property
    def unit_of(self) -> list[int]:
        """The unit of every index, or `STAYS`."""
        found: list[int] = []
        for first, count, each in self.runs:
            units = [STAYS] if first == STAYS else range(first, first + count)
            found += [u for u in units for _ in range(each)]
        return found

    def kept(self, units: Collection[int]) -> list[int]:
        """The indices that stay with some units, in their order."""
        stays = {STAYS, *units}
        return [i for i, unit in enumerate(self.unit_of) if unit in stays]

    def size(self, units: int) -> int:
        """How many indices stay with so many units."""
        fixed = sum(each for first, _, each in self.runs if first == STAYS)
        total = sum(count * each for first, count, each in self.runs if first != STAYS)
        most = max((first + count for first, count, _ in self.runs if first != STAYS), default=1)
        return fixed + total // most * units

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "runs": [list(run) for run in self.runs]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Slice:
        """Raises ValueError for what is no slice."""
        made = cls(**{**data, "runs": tuple(tuple(run) for run in data["runs"])})
        numbers = [made.dim, *(n for run in made.runs for n in run)]
        if not all(type(n) is int and STAYS <= n <= _MOST for n in numbers):
            raise ValueError(f"the slice of {short(made.module)} has no whole numbers")
        if made.dim < 0 or any(len(run) != 3 or min(run[1:]) < 1 for run in made.runs):
            raise ValueError(f"the slice of {short(made.module)} is none")
        return made


def _runs(unit_of: Sequence[int]) -> list[Run]:
    blocks = [(unit, len(list(group))) for unit, group in groupby(unit_of)]
    found: list[Run] = []
    for unit, each in blocks:
        if unit != STAYS and found:
            first, count, known = found[-1]
            if first != STAYS and unit == first + count and each == known:
                found[-1] = (first, count + 1, each)
                continue
        found.append((unit, 1, each))
    return found


@dataclass(frozen=True)
class Constant:
    """A number that a module keeps for itself and computes with: so much for `each` unit."""

    module: str
    attribute: str
    each: int

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Constant:
        """Raises ValueError for what is no number of a module."""
        made = cls(**data)
        if type(made.each) is not int or not 1 <= made.each <= _MOST:
            raise ValueError(f"{short(made.attribute)} of {short(made.module)} is no number")
        return made


@dataclass(frozen=True)
class Site:
    """One prunable sublayer of a model.

    Args:
        inputs: paths of the dense modules whose outputs are sliced (query, key and value; the first
            linear of an FFN, or its gate and up projection).
        output: path of the output projection, whose input has `units * width` channels, which are
            sliced.
        block: a module that gives what the output projection gives, or what it is fed. It is
            replaced where no unit is left; empty where there is none.
        layer_path: the layer that it is in; empty where the model has no chain of layers.
        norm: the first norm that runs after the output projection: its input is the residual
            stream.
        returns: what the forward of `block` gives: 0 a tensor, n a tuple of n whose first entry is
            the tensor.
        slices: what else is cut than an equal part of each of `inputs` for each unit.
        constants: what modules have to be told.
        weights: of a unit, in dense modules: its multiply-accumulates for one token, beside those
            of the attention itself. 0 in checkpoints of version 0.1, which have one linear of
            query, key and value each, or one before the output projection.
    """

    name: str
    layer: int
    kind: Kind
    units: int
    width: int
    inputs: tuple[str, ...]
    output: str
    block: str
    layer_path: str
    norm: str
    returns: int = 2
    slices: tuple[Slice, ...] = ()
    constants: tuple[Constant, ...] = ()
    weights: int = 0

    @property
    def channels(self) -> int:
        return self.units * self.width

    def channels_of(self, kept: Sequence[int]) -> list[int]:
        """The channels of some units, in their order."""
        return [u * self.width + c for u in kept for c in range(self.width)]

    def rows(self, path: str) -> Slice:
        """The outputs of one of `inputs`."""
        for own in self.slices:
            if own.module == path and own.parameter == ROWS:
                return own
        return Slice(path, ROWS, 0, ((0, self.units, self.width),))

    @property
    def tables(self) -> tuple[Slice, ...]:
        """The parameters beside dense modules that are sliced."""
        return tuple(s for s in self.slices if s.parameter != ROWS)

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "kind": self.kind.value,
            "inputs": list(self.inputs),
            "slices": [s.to_json() for s in self.slices],
            "constants": [asdict(c) for c in self.constants],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Site:
        return cls(
            **{
                **data,
                "kind": Kind(data["kind"]),
                "inputs": tuple(data["inputs"]),
                "slices": tuple(Slice.from_json(s) for s in data.get("slices", ())),
                "constants": tuple(Constant.from_json(c) for c in data.get("constants", ())),
            }
        )
