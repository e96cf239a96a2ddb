"""Whether what evidence says of the size of the files can be what rfx wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from rfx.core.sizes import parse_size
from rfx.core.values import short
from rfx.evidence.gates import of_another_file, size_gate
from rfx.evidence.limits import verdict
from rfx.evidence.records import Evidence
from rfx.evidence.size import SizePart


def size_contradictions(e: Evidence) -> Iterator[str]:
    """Everything that cannot be so, each in words."""
    part, gate = e.size, next((g for g in e.gates if g.name == "size"), None)
    budget = e.recipe.get("budget")
    asked = budget.get("size") if isinstance(budget, Mapping) else None
    limit: int | None = None
    if asked is not None:
        try:
            limit = parse_size(asked)
        except ValueError:
            yield f"recipe.budget.size is {short(asked)}, and no size"
            return
    # The search and the turns of its loop say too what was asked for.
    searched = part is not None and bool(part.rounds)
    searched |= e.search is not None and e.search.budget_unit == "bytes"
    if searched and limit is None:
        yield "the plan was searched for under a size, and the recipe says none"
    if (searched or limit is not None) and (part is None or gate is None):
        yield f"a size was asked for, and there is no {'part' if part is None else 'gate'} of it"
    if part is None:
        if gate is not None:
            yield "of the size there is a gate and no part"
        return
    yield from _part(e, part)
    if part.limit != limit:
        yield f"the size is limited to {part.limit} bytes, the recipe says {limit}"
    if gate is None:
        return
    own = size_gate(part)
    if own is None:
        yield "the gate size has no limit to judge by"
        return
    if (gate.value, gate.limit, gate.interval) != (own.value, own.limit, own.interval):
        yield "the gate size has other numbers than what was measured"
    yield from verdict(gate, {own.outcome})


def _part(e: Evidence, part: SizePart) -> Iterator[str]:
    if part.bytes < 1 or part.dense_bytes < 1:
        yield f"the files have {part.bytes} bytes, those of the dense model {part.dense_bytes}"
    if sum(part.files.values()) != part.bytes or min(part.files.values(), default=0) < 1:
        yield f"the files together have {sum(part.files.values())} bytes, and not {part.bytes}"
    if e.quantization is not None and e.quantization.bytes != part.bytes:
        yield (
            f"the quantized file has {e.quantization.bytes} bytes, and what is served {part.bytes}"
        )
    listed = {PurePosixPath(name).name for name in e.files}
    if unlisted := [name for name in part.files if listed and name not in listed]:
        yield f"the size is of {short(unlisted[0])}, which the evidence does not list"
    if not of_another_file(e.gates) and not any(name.endswith(".onnx") for name in part.files):
        yield f"the size is of {short(', '.join(part.files), bare=True)}, and of no ONNX file"
