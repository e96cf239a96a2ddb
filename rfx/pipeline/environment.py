"""What is installed, which runtimes can run here, and why the others cannot."""

from __future__ import annotations

from typing import Any

from rfx.core import environment as here
from rfx.core.registry import plugins
from rfx.core.version import __version__
from rfx.runtimes.find import RuntimeStatus, runtimes_report


def environment() -> dict[str, Any]:
    """JSON-ready facts: `rfx` (version), `environment` (machine and packages), `runtimes` (name,
    ok, reason, next_step, verified_on_hardware) and `plugins` (packages that add parts to rfx).

    Examples:
        >>> [r["name"] for r in rfx.environment()["runtimes"] if r["ok"]]
        ['ort']
    """
    return {
        "rfx": __version__,
        "environment": here.environment(),
        "runtimes": [_status(row) for row in runtimes_report()],
        "plugins": [p.to_json() for p in plugins()],
    }


def _status(row: RuntimeStatus) -> dict[str, Any]:
    facts = row._asdict()
    return {**facts, "verified_on_hardware": facts.pop("verified")}
