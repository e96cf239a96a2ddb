"""A latency table as one JSON file that can be shared: written whole, read with every mistake
named."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

from rfx.core import migrate
from rfx.core.errors import UsageError
from rfx.core.files import atomic_write_text
from rfx.cost.table import LatencyTable, TableKey


def write_table(table: LatencyTable, path: str | Path) -> None:
    """Write a table, whole or not at all, as `rfx profile --out` does.

    Raises:
        UsageError: `path` cannot be written.

    Examples:
        >>> rfx.write_table(rfx.profile(recipe), "table.json")
    """
    atomic_write_text(path, json.dumps(table.to_json(), indent=1) + "\n")


def read_table(path: str | Path) -> LatencyTable:
    """Read and check a table.

    Raises:
        UsageError: no such file, not JSON, not a table, or numbers that cannot be latencies.

    Examples:
        >>> rfx.read_table("table.json").key.runtime
        'ort'
    """
    file = Path(path)
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            "The latency table cannot be read.",
            got=f"{file}: {error.strerror}",
            allowed="a JSON file of `rfx profile --out`",
        ) from None
    except ValueError as error:
        raise _corrupt(file, f"not JSON ({error})") from None
    return parse_table(data, str(file))


def parse_table(data: Any, where: str) -> LatencyTable:
    """A table from its JSON form.

    Raises:
        UsageError: as `read_table`.
    """
    if not isinstance(data, dict) or "schema_version" not in data:
        got = "no schema_version" if isinstance(data, dict) else type(data).__name__
        raise _corrupt(where, got)
    data = migrate.table(data, where)
    names = {f.name for f in fields(TableKey)}
    key = data.get("key")
    if not isinstance(key, dict) or set(key) != names:
        raise _corrupt(where, f"its key needs exactly: {', '.join(sorted(names))}")
    try:
        table = LatencyTable.from_json(data)
    except KeyError as error:
        raise _corrupt(where, f"{error.args[0]} is missing") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise _corrupt(
            where,
            f"a number or a list of counts and milliseconds is not what it should be ({error})",
        ) from None
    kinds = {kind: units for kind, units in table.key.units.items() if units}
    if set(table.costs_ms) != {kind.value for kind in kinds}:
        raise _corrupt(where, f"costs_ms needs {' and '.join(kind.value for kind in kinds)}")
    for kind, units in kinds.items():
        curve = table.curve(kind)
        bad = [
            n
            for n, ms in curve.items()
            if not 0 <= n <= units or not (math.isfinite(ms) and ms >= 0)
        ]
        if bad:
            raise _corrupt(
                where,
                f"{kind.value}: counts {bad[:5]} are outside 0..{units} or have no valid latency",
            )
        if 0 not in curve or units not in curve:
            raise _corrupt(
                where,
                f"{kind.value}: the empty and the full sublayer (0 and {units}) must be there",
            )
    if not math.isfinite(table.fixed_ms) or table.fixed_ms < 0 or table.layers < 1:
        raise _corrupt(where, f"fixed_ms {table.fixed_ms}, layers {table.layers}")
    return table


def _corrupt(where: str | Path, why: str) -> UsageError:
    return UsageError(
        "This is not a valid latency table.",
        got=f"{where}: {why}",
        allowed="a JSON file of `rfx profile --out`",
        next_step="measure it again: rfx profile MODEL --out table.json",
    )
