"""Reading evidence.json and sweep.json back, of this version and of earlier ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from rfx.core import migrate
from rfx.core.errors import UsageError
from rfx.evidence.curve import Curve
from rfx.evidence.records import Evidence

_T = TypeVar("_T", bound=BaseModel)


def read_evidence(path: str | Path) -> Evidence:
    """evidence.json, or the folder that holds it.

    Raises:
        UsageError: no such file, not JSON, not evidence, or of a newer schema.
    """
    allowed = "evidence.json, or an output folder of rfx prune-export"
    return _read(path, "evidence", Evidence, migrate.evidence, allowed)


def read_curve(path: str | Path) -> Curve:
    """sweep.json, or the folder that holds it.

    Raises:
        UsageError: no such file, not JSON, not a sweep, or of a newer schema.
    """
    return _read(
        path, "sweep", Curve, migrate.curve, "sweep.json, or an output folder of rfx sweep"
    )


def _read(
    path: str | Path,
    what: str,
    kind: type[_T],
    renew: Callable[[Mapping[str, Any], str], dict[str, Any]],
    allowed: str,
) -> _T:
    file = Path(path)
    file = file / f"{what}.json" if file.is_dir() else file
    try:
        data: Any = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"There is no {what} to read.", got=f"{file}: {error.strerror}", allowed=allowed
        ) from None
    except ValueError as error:
        raise UsageError(
            f"The {what} is not valid JSON.", got=f"{file}: {error}", allowed=allowed
        ) from None
    if not isinstance(data, dict) or "schema_version" not in data:
        raise UsageError(
            f"This is no {what} of rfx.", got=f"{file}: no schema_version", allowed=allowed
        )
    try:
        return kind.model_validate(renew(data, str(file)))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"])
        raise UsageError(
            f"The {what} is not valid.",
            got=f"{file}: {place}: {first['msg']} ({error.error_count()} mistakes)",
            allowed=allowed,
        ) from None
