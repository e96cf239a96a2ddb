"""What is installed, which runtimes can run here, and why the others cannot."""

from __future__ import annotations

from typing import Any

from rfx.core import environment as here
from rfx.core.errors import UserError
from rfx.core.registry import plugins
from rfx.core.version import __version__
from rfx.export.find import quantizer_class
from rfx.runtimes.find import RuntimeStatus, quantizers_of_runtimes, runtimes_report


def environment() -> dict[str, Any]:
    """JSON-ready facts: `rfx` (version), `environment` (machine and packages), `runtimes` (name,
    ok, reason, next_step, verified_on_hardware), `quantizers` (name, precisions, targets, ok,
    reason, next_step) and `plugins` (packages that add parts to rfx).

    Examples:
        >>> [r["name"] for r in rfx.environment()["runtimes"] if r["ok"]]
        ['ort']
    """
    return {
        "rfx": __version__,
        "environment": here.environment(),
        "runtimes": [_status(row) for row in runtimes_report()],
        "quantizers": quantizers_report(),
        "plugins": [p.to_json() for p in plugins()],
    }


def quantizers_report() -> list[dict[str, Any]]:
    """What makes the quantized files of each runtime, and whether it can be used here."""
    rows = []
    for name, targets in quantizers_of_runtimes().items():
        facts = {"name": name, "precisions": [], "targets": targets, "ok": True}
        facts |= {"reason": "", "next_step": ""}
        try:
            made = quantizer_class(name)
            facts["precisions"] = list(made.precisions)
            made.require()
        except UserError as error:
            why = f"{error.what} {error.got or ''}".strip()
            facts |= {"ok": False, "reason": why, "next_step": error.next_step or ""}
        rows.append(facts)
    return rows


def _status(row: RuntimeStatus) -> dict[str, Any]:
    facts = row._asdict()
    return {**facts, "verified_on_hardware": facts.pop("verified")}
