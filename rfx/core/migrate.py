"""Documents that an earlier rfx wrote, brought to the form that this one reads.

One function for each kind of document, dict -> dict. Each takes the current form (and gives it back
as it is) or any earlier one, never changes what it is given, and judges nothing but the version:
the reader of the document checks the rest, and names what is wrong with it. `where` is the name of
the file, for messages.

Raises, all of them:
    UsageError: a version that this rfx does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rfx.core.errors import UsageError
from rfx.core.values import short
from rfx.core.workload import SEQUENCE, Workload

RECIPE, EVIDENCE, CURVE, TABLE, PLAN, SHAPES, ENGINE_FACTS, CHECKPOINT = 2, 2, 2, 1, 1, 3, 2, 1
ARTEFACT = 1

Document = dict[str, Any]


def recipe(data: Mapping[str, Any], where: str = "") -> Document:
    """A recipe. Version 1 called the workload `conditions`, and had the limits `max_drop` and
    `min_speedup` at the top. A document without `schema_version` may have either form."""
    new = _checked(data, "recipe", RECIPE, where)
    if new.get("schema_version", 1) == 1:
        if "conditions" in new and "workload" not in new:
            new["workload"] = new.pop("conditions")
        limits = {k: new.pop(k) for k in ("max_drop", "min_speedup") if k in new}
        if limits:
            given = new.get("limits")
            new["limits"] = {**limits, **given} if isinstance(given, Mapping) else limits
        if "schema_version" in new:
            new["schema_version"] = RECIPE
    return new


def evidence(data: Mapping[str, Any], where: str = "") -> Document:
    """evidence.json. Version 1 said under `latency.conditions` what was timed, with the sequence
    length beside the batch; its recipe is of version 1. Early writers of version 2, too, let
    accuracy without a limit pass: it was not judged."""
    new = _checked(data, "evidence", EVIDENCE, where)
    if isinstance(new.get("gates"), list):
        new["gates"] = [_gate(g) if isinstance(g, Mapping) else g for g in new["gates"]]
    _renew(new, "recipe", recipe)
    _renew(new, "plan", plan)
    if new.get("schema_version") == 1:
        _renew(new, "latency", _latency)
        new["schema_version"] = EVIDENCE
    return new


def curve(data: Mapping[str, Any], where: str = "") -> Document:
    """sweep.json: its recipe and the latency of each point changed as those of an evidence."""
    new = _checked(data, "sweep", CURVE, where)
    _renew(new, "recipe", recipe)
    if new.get("schema_version") == 1:
        if isinstance(new.get("points"), list):
            new["points"] = [_point(p) if isinstance(p, Mapping) else p for p in new["points"]]
        new["schema_version"] = CURVE
    return new


def table(data: Mapping[str, Any], where: str = "") -> Document:
    """A latency table; there is one version."""
    return _checked(data, "latency table", TABLE, where)


def plan(data: Mapping[str, Any], where: str = "") -> Document:
    """plan.json; there is one version."""
    return _checked(data, "plan", PLAN, where)


def shapes(data: Mapping[str, Any], where: str = "") -> Document:
    """The bundle for a board. Until version 2 its graphs were of blocks that rfx made, not of the
    model itself: what is measured with them is no table of this version.

    Raises:
        UsageError: such a bundle too.
    """
    new = _checked(data, "bundle of shapes", SHAPES, where)
    if new.get("schema_version") in (1, 2):
        raise UsageError(
            "The bundle of shapes was written by an earlier rfx, which measured other graphs.",
            got=f"{where}: " * bool(where) + f"schema_version {new['schema_version']}",
            allowed=f"schema_version {SHAPES}",
            next_step="make it again where the model is: rfx shapes MODEL --out shapes.json",
        )
    return new


def engine_facts(data: Mapping[str, Any], where: str = "") -> Document:
    """The facts beside an engine file. Version 1 called the engine a plan."""
    new = _checked(data, "engine's facts", ENGINE_FACTS, where)
    if new.get("schema_version", 1) == 1:
        for old, name in (("plan_sha256", "engine_sha256"), ("plan_bytes", "engine_bytes")):
            if old in new:
                new[name] = new.pop(old)
        if "schema_version" in new:
            new["schema_version"] = ENGINE_FACTS
    return new


def artefact(data: Mapping[str, Any], where: str = "") -> Document:
    """artefact.json, the index of several graphs; there is one version."""
    return _checked(data, "index of graphs", ARTEFACT, where)


def checkpoint(data: Mapping[str, Any], where: str = "") -> Document:
    """The entry `rfx` of a small checkpoint's config.json; there is one version."""
    return _checked(data, "checkpoint", CHECKPOINT, where)


def _checked(data: Mapping[str, Any], what: str, newest: int, where: str) -> Document:
    """A copy of `data` whose version is known, or not given."""
    version = data.get("schema_version")
    if version is None:
        return dict(data)
    known = isinstance(version, int) and not isinstance(version, bool) and version >= 1
    if known and version <= newest:
        return dict(data)
    raise UsageError(
        f"The {what} was written by a newer rfx."
        if known
        else f"The {what} has a version that no rfx writes.",
        got=f"{where}: " * bool(where) + f"schema_version {short(version)}",
        allowed=f"schema_version {'1' if newest == 1 else f'1 to {newest}'}",
        next_step="read it with the version of rfx that wrote it, or make it again with this one",
    )


def _renew(data: Document, name: str, change: Any) -> None:
    """Change one part of a document, where it is there and is what it should be."""
    if isinstance(data.get(name), Mapping):
        data[name] = change(data[name])


def _gate(data: Mapping[str, Any]) -> Document:
    new = dict(data)
    if new.get("name") == "accuracy" and new.get("outcome") == "pass" and new.get("limit") is None:
        new["outcome"] = "not-judged"
    return new


def _latency(data: Mapping[str, Any]) -> Document:
    new = dict(data)
    old = new.get("conditions")
    if isinstance(old, Mapping) and "workload" not in new:
        del new["conditions"]
        new["workload"] = _workload(old)
    return new


def _workload(conditions: Mapping[str, Any]) -> Document:
    """What was timed. Beside the workload it says on what: runtime, version, device."""
    rest = dict(conditions)
    axes = {SEQUENCE: rest.pop(SEQUENCE)} if SEQUENCE in rest else {}
    names = ("batch", "threads", "precision")
    own = {name: rest.pop(name) for name in names if name in rest}
    default = Workload(axes=axes).to_json()
    return {name: own.get(name, value) for name, value in default.items()} | rest


def _point(data: Mapping[str, Any]) -> Document:
    new = dict(data)
    _renew(new, "latency", _latency)
    return new
