"""A latency table as one JSON file that can be shared: written whole, read with every mistake
named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from rfx.core import migrate
from rfx.core.bounded import read_json
from rfx.core.errors import UsageError
from rfx.core.files import atomic_write_text, require_file_place
from rfx.core.kind import Kind
from rfx.core.recognised import TABLE, told_apart
from rfx.core.values import kind_of, short
from rfx.cost.alike import CURVE
from rfx.cost.table import LatencyTable, TableKey

_ALLOWED = "a JSON file of `rfx profile --out`"
_MOST = 1 << 30  # units, tokens, examples
_MOST_MS = 1e12  # thirty years


def write_table(table: LatencyTable, path: str | Path) -> None:
    """Write a table, whole or not at all, as `rfx profile --out` does.

    Raises:
        UsageError: `path` cannot be written.

    Examples:
        >>> rfx.write_table(rfx.profile(recipe), "table.json")
    """
    require_table_place(path)
    atomic_write_text(path, json.dumps(table.to_json(), indent=1) + "\n")


def require_table_place(path: str | Path) -> None:
    """Before minutes of measuring: can a table be written at `path`, and is nothing there but an
    earlier table?

    Raises:
        UsageError: it cannot, or a file of another kind is there.
    """
    require_file_place(path, ours=_is_table, kind="a latency table")


def _is_table(file: Path) -> bool:
    data = read_json(file, what="latency table")
    return isinstance(data, dict) and {"schema_version", "key", "costs_ms"} <= set(data)


def read_table(path: str | Path) -> LatencyTable:
    """Read and check a table.

    Raises:
        UsageError: no such file, not JSON, not a table, or numbers that cannot be latencies.

    Examples:
        >>> rfx.read_table("table.json").key.runtime
        'ort'
    """
    with told_apart(path, TABLE):
        data = read_json(path, what="latency table", allowed=_ALLOWED)
        return parse_table(data, str(path))


def parse_table(data: Any, where: str) -> LatencyTable:
    """A table from its JSON form.

    Raises:
        UsageError: as `read_table`.
    """
    if not isinstance(data, dict) or "schema_version" not in data:
        got = "no schema_version" if isinstance(data, dict) else kind_of(data)
        raise _corrupt(where, got)
    data = migrate.table(data, where)
    key = data.get("key")
    said = {f.name: f.type for f in fields(TableKey)}
    if isinstance(key, dict):
        key = {"quantizer": "", **key}  # which only a table of quantized models has
    if not isinstance(key, dict) or set(key) != set(said):
        raise _corrupt(where, f"its key needs exactly: {', '.join(sorted(said))}")
    for name, kind in said.items():
        value = key[name]
        if not (isinstance(value, str) if kind == "str" else _whole(value)):
            wanted = "a text" if kind == "str" else f"a whole number, 0 to {_MOST}"
            raise _corrupt(where, f"key.{name} = {short(value)}, where {wanted} must be")
    try:
        table = LatencyTable.from_json(_numbers(data))
    except KeyError as error:
        raise _corrupt(where, f"{short(error.args[0], bare=True)} is missing") from None
    except _WrongError as error:
        raise _corrupt(where, str(error)) from None
    kinds = [kind.value for kind, units in table.key.units.items() if units]
    if not kinds or not set(kinds) <= set(table.costs_ms):
        raise _corrupt(where, f"costs_ms needs {' and '.join(kinds) or 'a curve'}")
    for name, curve in table.costs_ms.items():
        matched = CURVE.fullmatch(name)
        if not matched or matched[1] not in kinds:
            raise _corrupt(where, f"{short(name)} is the curve of no kind of site")
        units = max(curve, default=0) if matched[2] else table.key.units[Kind(name)]
        bad = [n for n in curve if n > units]
        if bad:
            raise _corrupt(where, f"{name}: counts {bad[:5]} are outside 0..{units}")
        if not units or 0 not in curve or units not in curve:
            raise _corrupt(
                where,
                f"{name}: the empty and the full sublayer (0 and {units}) must be there",
            )
        if curve[units] == 0:
            raise _corrupt(where, f"{name}: the full sublayer of {units} takes no time")
    if not set(table.curves.values()) <= set(table.costs_ms):
        raise _corrupt(where, "curves has sites of a curve that is not in costs_ms")
    return table


class _WrongError(Exception):
    """A part of a table that is not what it should be; the text says which."""


def _numbers(data: Mapping[str, Any]) -> dict[str, Any]:
    """The document with its numbers checked, so that arithmetic with them cannot fail."""
    new = dict(data)
    if not _whole(new["layers"]) or new["layers"] < 1:
        raise _WrongError(f"layers = {short(new['layers'])}, where 1 or more must be")
    new["fixed_ms"] = _ms(new["fixed_ms"], "fixed_ms")
    for part in ("costs_ms", "errors_ms"):
        curves = new["costs_ms"] if part == "costs_ms" else new.get(part, {})
        if not isinstance(curves, dict) or not all(isinstance(c, dict) for c in curves.values()):
            raise _WrongError(f"{part} = {short(curves)}, where counts and milliseconds must be")
        new[part] = {
            kind: {_count(n, f"{part}.{kind}"): _ms(v, f"{part}.{kind}") for n, v in c.items()}
            for kind, c in curves.items()
        }
    new["shares"] = _shares(new.get("shares", {}))
    curves = new.get("curves", {})
    if not isinstance(curves, dict) or not all(isinstance(c, str) for c in curves.values()):
        raise _WrongError(f"curves = {short(curves)}, where the curve of each site must be")
    checks, measured = new.get("additivity", []), new.get("measured", {})
    if not isinstance(checks, list) or not all(
        isinstance(c, dict) and _finite(c.get("error")) for c in checks
    ):
        raise _WrongError("additivity needs a list of checks, each with its error as a number")
    if not isinstance(measured, dict):
        raise _WrongError(f"measured = {short(measured)}, where a mapping of keys must be")
    return new


def _shares(given: object) -> dict[str, float]:
    """What sites that compute a part of what the others do cost, by name."""
    if not isinstance(given, dict) or not all(_finite(v) and 0 < v <= 1 for v in given.values()):
        raise _WrongError(f"shares = {short(given)}, where names and shares of at most 1 must be")
    return {name: float(share) for name, share in given.items()}


def _count(text: object, where: str) -> int:
    """A kept count, which JSON has as a text."""
    if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 9:
        return int(text)
    raise _WrongError(f"{where}: {short(text)} is no count of kept units")


def _ms(value: object, where: str) -> float:
    if not _finite(value) or not 0 <= value <= _MOST_MS:  # type: ignore[operator]
        raise _WrongError(f"{where}: {short(value)} is no latency in milliseconds")
    return float(value)  # type: ignore[arg-type]


def _finite(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) <= _MOST_MS  # type: ignore[arg-type]  # NaN is not


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST


def _corrupt(where: str | Path, why: str) -> UsageError:
    return UsageError(
        "This is not a valid latency table.",
        got=f"{where}: {why}",
        allowed=_ALLOWED,
        next_step="measure it again: rfx profile MODEL --out table.json",
    )
