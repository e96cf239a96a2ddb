"""Finds the sites of any model by what it computes: no list of families, no names of modules.

A *projection* is a dense module whose input channels are made inside of a block alone: whatever
makes them (its *producers*) is read by it and by nothing else. The channels fall into *units*, the
smallest sets that can leave: heads, groups of heads that share keys, filters. All of that is seen
by putting NaNs into the outputs of modules (`rfx.models.families.taint`).

What is found here is only a guess: `rfx.models.prove` masks, slices and compares before it is
believed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rfx.core.site import STAYS
from rfx.models.families.reach import reach
from rfx.models.families.taint import Hits, Row, Taint, fed, outputs, weights
from rfx.models.families.units import Units, partition, usual

if TYPE_CHECKING:
    import torch
    from torch import nn

LARGEST_TABLE = 1 << 22  # numbers of a parameter that may have a place for each unit

RESIDUAL = "what it reads is the residual stream, which other layers read too"
AROUND = "its channels also travel around it"
ELSEWHERE = "a part of the channels that it reads comes from elsewhere"
MIXED = "something mixes all channels before it, as a norm does"
UNEVEN = "its units are not equally wide, or do not lie one after another"
UNREAD = "which numbers of its input are of which example cannot be told"


@dataclass(frozen=True)
class Producer:
    """A dense module that makes channels of a projection's input, and the unit of each of its
    outputs (or `STAYS`)."""

    path: str
    unit_of: Units


@dataclass(frozen=True)
class Table:
    """A parameter beside dense modules that has an index for each unit, or for each of its
    channels: a bias, a table of relative positions. `unit_of` is along `dim`."""

    path: str  # of the module
    parameter: str
    dim: int
    unit_of: Units


@dataclass(frozen=True)
class Found:
    """A projection with what makes its input: `units` of `width` channels each, in their order."""

    output: str
    units: int
    width: int
    producers: tuple[Producer, ...]
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Refused:
    """A dense module that is fed by dense modules, and is no projection of a site."""

    path: str
    reason: str


@dataclass(frozen=True)
class Findings:
    """What the probe saw.

    Args:
        macs: see `products`.
        positions: at how many places of the example each of them is computed; 0 of what hangs on no
            example, as a projected table of relative positions.
        examples_first: whether the first axis of the input of each of them is that of the examples.
        rows: how many examples were run for it.
    """

    sites: tuple[Found, ...]
    refused: tuple[Refused, ...]
    macs: Mapping[str, int]
    positions: Mapping[str, int]
    examples_first: Mapping[str, bool]
    rows: int


def probe(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Findings:
    """The sites of a model, in the order in which they are computed.

    Args:
        model: in eval mode, with eager attention.
        inputs: one example, tensors [1, ...], without padding.
    """
    return _Probe(Taint(model, inputs)).find()


def products(taint: Taint) -> dict[str, int]:
    """Multiplications and additions of every dense module for the example, by path, in the order of
    calls."""
    return {taint.names[m]: taint.positions[m] * weights(m) for m in taint.order}


@dataclass
class _Candidate:
    """A projection that is looked at."""

    module: nn.Module
    makers: list[nn.Module]
    units: int = 0
    width: int = 0

    @property
    def unit(self) -> torch.Tensor:
        """The unit of every channel."""
        import torch

        return torch.arange(self.units * self.width) // self.width

    def reached(self, hits: Hits, row: int) -> set[int]:
        """The units that NaNs reached."""
        import torch

        hit = hits.of(self.module, row)
        return set() if hit is None else set((torch.nonzero(hit).flatten() // self.width).tolist())


class _Probe:
    def __init__(self, taint: Taint) -> None:
        self.taint = taint
        self.why: dict[nn.Module, str] = {}  # by module that was refused
        # By place in a layer, what was looked at output by output.
        self.searched: dict[str, tuple[_Candidate, dict[nn.Module, Units] | None]] = {}

    def find(self) -> Findings:
        taint = self.taint
        candidates = self._shaped(self._inner(self._candidates()))
        made = self._made(candidates)
        tables = self._tables([c for c in candidates if c.module in made])
        names = taint.names
        found = tuple(
            Found(
                names[c.module],
                c.units,
                c.width,
                tuple(Producer(names[m], of) for m, of in made[c.module].items()),
                tuple(tables.get(c.module, ())),
            )
            for c in candidates
            if c.module in made
        )
        taken = {p for site in found for p in (site.output, *(m.path for m in site.producers))}
        refused = tuple(
            Refused(names[m], self.why[m])
            for m in taint.order
            if m in self.why and names[m] not in taken
        )
        positions = {names[m]: taint.positions[m] if taint.reads(m) else 0 for m in taint.order}
        first = {names[m]: taint.examples_first(m) for m in taint.order}
        return Findings(found, refused, products(taint), positions, first, taint.rows)

    def _candidates(self) -> list[_Candidate]:
        """Modules whose input is made by dense modules that no other one reads."""
        taint, found = self.taint, []
        reached = reach(taint)
        into: dict[nn.Module, list[nn.Module]] = defaultdict(list)
        for producer, readers in reached.items():
            for reader in readers:
                into[reader].append(producer)
        for module in taint.order:
            makers = into[module]
            if any(set(reached[m]) != {module} for m in makers):
                self.why[module] = RESIDUAL
            elif makers and not taint.reads(module):
                self.why[module] = UNREAD
            elif makers:
                found.append(_Candidate(module, makers))
        return found

    def _inner(self, candidates: list[_Candidate]) -> list[_Candidate]:
        """Those whose channels do not travel around them too: poisoned whole, and clean at the
        projection alone, they must not show in the output. In one row for all of them; where that
        fails, one by one."""

        def leaks(some: list[_Candidate]) -> bool:
            row: Row = {m: None for c in some for m in c.makers}
            output = self.taint.run([row], [{c.module for c in some}]).output
            return output is None or bool(output[0])

        if not candidates or not leaks(candidates):
            return candidates
        around = {c.module for c in candidates if leaks([c])}
        self.why |= dict.fromkeys(around, AROUND)
        return [c for c in candidates if c.module not in around]

    def _shaped(self, candidates: list[_Candidate]) -> list[_Candidate]:
        """Units and width of each projection's input, by what the first output of every producer
        reaches: the first unit, whole, where the order is a usual one."""
        import torch

        first = torch.tensor([0])
        row: Row = {m: first for c in candidates for m in c.makers}
        hits = self.taint.run([row]) if candidates else Hits()
        left = []
        for c in candidates:
            hit, channels = hits.of(c.module, 0), fed(c.module)
            c.width = 0 if hit is None else int(hit.sum())
            if c.width == channels:
                self.why[c.module] = MIXED
                continue
            if hit is not None and channels % c.width == 0 and bool(hit[: c.width].all()):
                c.units = channels // c.width
            left.append(c)  # without units it is looked at output by output
        return left

    def _made(self, candidates: list[_Candidate]) -> dict[nn.Module, dict[nn.Module, Units]]:
        """By projection, the unit of each output of its producers. What is usual is guessed, and
        seen to be right or not in a few rows for all projections together; what no guess fits is
        looked at output by output."""
        found: dict[nn.Module, dict[nn.Module, Units]] = {}
        left = {
            c.module: (c, [list(usual(outputs(m), c.units, c.width)) for m in c.makers])
            for c in candidates
        }
        while left:
            tried = {}
            for module, (c, guesses) in list(left.items()):
                if all(guesses):
                    tried[module] = (c, {m: g[0] for m, g in zip(c.makers, guesses, strict=True)})
                    # The next time the next guess, where there is one.
                    left[module] = (c, [g[1:] if len(g) > 1 else g for g in guesses])
                    if all(len(g) == 1 for g in guesses):
                        del left[module]
                else:
                    del left[module]
            for module in self._confirmed(list(tried.values())):
                found[module] = tried[module][1]
                left.pop(module, None)
        for c in candidates:
            if c.module not in found:
                searched = self._searched(c)
                if searched is not None:
                    found[c.module] = searched
        return found

    def _confirmed(
        self, guesses: list[tuple[_Candidate, dict[nn.Module, Units]]]
    ) -> list[nn.Module]:
        """The projections whose guesses are right. In row (k, b) all outputs are poisoned whose
        unit has the bit k equal to b: exactly those units may be reached, whole, which over all
        rows says that an output reaches its own unit and no other."""
        import torch

        most = max((c.units for c, _ in guesses), default=1)
        cases = [(k, b) for k in range(max(1, (most - 1).bit_length())) for b in (0, 1)]
        rows: list[Row] = []
        for k, b in cases:
            row: dict[nn.Module, torch.Tensor | None] = {}
            for _, made in guesses:
                for m, of in made.items():
                    unit = torch.tensor(of)
                    row[m] = torch.nonzero((unit >> k & 1 == b) & (unit >= 0)).flatten()
            rows.append(row)
        hits = self.taint.run(rows) if guesses else Hits()
        right = []
        for c, _ in guesses:
            none = torch.zeros(c.units * c.width, dtype=torch.bool)
            seen = [hits.of(c.module, i) for i in range(len(cases))]
            if all(
                torch.equal(none if hit is None else hit, c.unit >> k & 1 == b)
                for hit, (k, b) in zip(seen, cases, strict=True)
            ):
                right.append(c.module)
        return right

    def _searched(self, c: _Candidate) -> dict[nn.Module, Units] | None:
        """The units by every single output of the producers; None, and a reason, where they cannot
        be told. What has the same place in another layer is taken to be like that one."""
        place = self.taint.place(c.module)
        if place in self.searched:
            like, found = self.searched[place]
            if found is None:
                self.why[c.module] = self.why[like.module]
                return None
            c.units, c.width = like.units, like.width
            guess = dict(zip(c.makers, found.values(), strict=False))
            alike = [len(of) for of in found.values()] == [outputs(m) for m in c.makers]
            if alike and self._confirmed([(c, guess)]):
                return guess
        found = self._one_by_one(c)
        self.searched[place] = (c, found)
        return found

    def _one_by_one(self, c: _Candidate) -> dict[nn.Module, Units] | None:
        """Channels that one output reaches are of one unit: the finest such partition."""
        import torch

        channels = fed(c.module)
        hit = {}  # by producer, bool [outputs, channels]
        for module in c.makers:
            rows: list[Row] = [{module: torch.tensor([j])} for j in range(outputs(module))]
            seen = self.taint.run(rows).inputs.get(c.module)
            hit[module] = (
                torch.zeros(len(rows), channels, dtype=torch.bool) if seen is None else seen
            )
        if not bool(torch.cat(list(hit.values())).any(0).all()):
            self.why[c.module] = ELSEWHERE
            return None
        of = partition(hit.values(), channels)
        c.units = max(of) + 1
        c.width = channels // c.units
        if c.units == 1:
            self.why[c.module] = MIXED
            return None
        if of != [i // c.width for i in range(channels)]:
            self.why[c.module] = UNEVEN
            return None
        return {
            module: tuple(
                of[int(torch.nonzero(row)[0])] if bool(row.any()) else STAYS for row in reached
            )
            for module, reached in hit.items()
        }

    def _tables(self, candidates: list[_Candidate]) -> dict[nn.Module, list[Table]]:
        """Parameters outside of dense modules and norms whose indices belong to units."""
        found: dict[nn.Module, list[Table]] = defaultdict(list)
        known = set(self.taint.order)
        for path, module in self.taint.model.named_modules():
            if module in known or "norm" in type(module).__name__.lower():
                continue
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.dim() == 0 or not parameter.is_floating_point():
                    continue
                if parameter.numel() > LARGEST_TABLE:  # of words, which would be copied for nothing
                    continue
                hits = self.taint.poisoned_parameter(parameter)
                for c in candidates:
                    if hits.of(c.module, 0) is None:
                        continue
                    for dim, of in self._dimensions(parameter, c):
                        found[c.module].append(Table(path, name, dim, of))
                        break
        return found

    def _dimensions(self, parameter: torch.Tensor, c: _Candidate) -> Iterator[tuple[int, Units]]:
        """The dimensions of a parameter along which every index reaches one unit."""
        import torch

        for dim, length in enumerate(parameter.shape):
            for of in usual(length, c.units, c.width):
                unit = torch.tensor(of)
                if all(
                    c.reached(
                        self.taint.poisoned_parameter(
                            parameter, dim, torch.nonzero(unit >> k & 1 == b).flatten()
                        ),
                        0,
                    )
                    == {u for u in range(c.units) if u >> k & 1 == b}
                    for k in range(max(1, (c.units - 1).bit_length()))
                    for b in (0, 1)
                ):
                    yield dim, of
                    break
