"""Reading evidence.json and sweep.json back, of this version and of earlier ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from rfx.core import migrate
from rfx.core.bounded import as_path, not_whole, parse_json, read_bytes
from rfx.core.errors import UsageError
from rfx.core.recognised import EVIDENCE, OUTPUT, REPORTS, SWEEP, SWEEPS, told_apart
from rfx.evidence.curve import Curve
from rfx.evidence.records import Evidence
from rfx.evidence.sound_curve import require_sound_curve

_T = TypeVar("_T", bound=BaseModel)


WHAT = "evidence.json, or an output folder of rfx prune-export"
MOST_MB = 64  # of a document; that of the largest models has less than one


def read_evidence(path: str | Path) -> Evidence:
    """evidence.json, or the folder that holds it.

    Raises:
        UsageError: no such file, not JSON, not evidence, or of a newer schema.
    """
    return parse_evidence(evidence_bytes(path), str(evidence_file(path)))


def evidence_file(path: str | Path) -> Path:
    """evidence.json itself, where it or its folder is given."""
    return _file(path, "evidence", WHAT)


def evidence_bytes(path: str | Path) -> bytes:
    """The document as it lies there, for whoever checks its signature.

    Raises:
        UsageError: there is no such file, or it is too large.
    """
    file = evidence_file(path)
    with told_apart(path, EVIDENCE, OUTPUT, REPORTS):
        return read_bytes(file, what="evidence", most_mb=MOST_MB, allowed=WHAT)


def parse_evidence(data: bytes, where: str) -> Evidence:
    """The evidence of a document.

    Raises:
        UsageError: not JSON, not evidence, or of a newer schema.
    """
    with told_apart(where, EVIDENCE):
        return _parse(data, where, "evidence", Evidence, migrate.evidence, WHAT)


def read_curve(path: str | Path) -> Curve:
    """sweep.json, or the folder that holds it.

    Raises:
        UsageError: no such file, not JSON, not a sweep, of a newer schema, or in contradiction
            with itself.
    """
    allowed = "sweep.json, or an output folder of rfx sweep"
    file = _file(path, "sweep", allowed)
    with told_apart(path, SWEEP, SWEEPS):
        data = read_bytes(file, what="sweep", most_mb=MOST_MB, allowed=allowed)
        curve = _parse(data, str(file), "sweep", Curve, migrate.curve, allowed)
    require_sound_curve(curve, str(file))
    return curve


def _file(path: str | Path, what: str, allowed: str) -> Path:
    file = as_path(path, what, allowed)
    return file / f"{what}.json" if file.is_dir() else file


def _parse(
    given: bytes,
    file: str,
    what: str,
    kind: type[_T],
    renew: Callable[[Mapping[str, Any], str], dict[str, Any]],
    allowed: str,
) -> _T:
    try:
        text = given.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":  # a character has no end
            cut = f"it is cut off: it ends at byte {len(given)}, within a character"
            raise not_whole(what, file, cut, allowed) from None
        raise UsageError(
            f"The {what} is not valid JSON.",
            got=f"{file}: it is not text in UTF-8",
            allowed=allowed,
            next_step="give the right file",
        ) from None
    data: Any = parse_json(text, what=what, where=file, allowed=allowed, strict=True)
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # no document can be written with it again
        raise UsageError(
            f"The {what} is not valid JSON.",
            got=f"{file}: {error.object[error.start]!a} is half a character",
            allowed=allowed,
            next_step="give the file as rfx wrote it, or make it again",
        ) from None
    if not isinstance(data, dict) or "schema_version" not in data:
        raise UsageError(
            f"This is no {what} of rfx.",
            got=f"{file}: no schema_version",
            allowed=allowed,
            next_step="give the right file",
        )
    try:
        return kind.model_validate(renew(data, file))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"])
        raise UsageError(
            f"The {what} is not valid.",
            got=f"{file}: {place}: {first['msg']} ({error.error_count()} mistakes)",
            allowed=allowed,
            next_step="give the file as rfx wrote it, or make it again",
        ) from None
