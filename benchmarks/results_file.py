"""Results as JSON files, of which the large ones are compressed.

A file whose name ends in `.gz` is compressed. Where `NAME.json` does not exist but `NAME.json.gz`
does, the latter is meant, so that both names say the same file.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rfx.core.files import atomic_write_bytes

SUFFIX = ".gz"


def place_of(file: Path) -> Path:
    """The file itself, or its compressed form where only that exists."""
    compressed = file.with_name(file.name + SUFFIX)
    return compressed if not file.exists() and compressed.is_file() else file


def plain_name(file: Path) -> str:
    """The name of the JSON file, whether it is compressed or not."""
    return file.name.removesuffix(SUFFIX)


def read_results(file: Path) -> dict[str, Any]:
    """What a results file holds.

    Raises:
        OSError: neither the file nor its compressed form exists.
        ValueError: it is no JSON.
    """
    place = place_of(file)
    data = place.read_bytes()
    found: dict[str, Any] = json.loads(gzip.decompress(data) if place.suffix == SUFFIX else data)
    return found


def write_results(file: Path, results: dict[str, Any]) -> None:
    """Write them whole or not at all. The same results give the same bytes: the time of writing is
    left out of the compressed form."""
    place = place_of(file)
    data = (json.dumps(results, indent=1) + "\n").encode()
    if place.suffix == SUFFIX:
        data = gzip.compress(data, compresslevel=9, mtime=0)
    atomic_write_bytes(place, data)


def write_part(file: Path, part: str, found: Any, of: Iterable[str] | None = None) -> None:
    """Write one part of the results of several programs; the other parts stay as they are. `made`
    says of each part on which day and which machine it was counted.

    Args:
        of: what was counted of the part, where the rest of `found` was counted before.
    """
    from rfx.core.environment import environment

    here = environment()
    facts = {
        "day": datetime.now(UTC).date().isoformat(),
        **{key: here[key] for key in ("system", "cpu", "python")},
    }
    results = read_results(file) if place_of(file).exists() else {}
    names = [part] if of is None else [f"{part}/{name}" for name in of]
    made = {**results.get("made", {}), **dict.fromkeys(names, facts)}
    results.pop("environment", None)  # of whichever part was the last
    file.parent.mkdir(parents=True, exist_ok=True)
    write_results(file, {**results, part: found, "made": made})
