"""What GitHub Actions is told: an annotation for every gate that did not pass."""

from __future__ import annotations

from rfx.evidence.records import Evidence
from rfx.evidence.report.escape import command, command_property
from rfx.evidence.report.facts import interval_text, limit_text, value_text, verdict

_LEVELS = {"fail": "error", "inconclusive": "warning", "not-judged": "notice"}


def commands(evidence: Evidence) -> list[str]:
    """One workflow command, in one line, for each gate that did not pass."""
    lines = []
    for gate in evidence.gates:
        if gate.outcome == "pass":
            continue
        title = command_property(f"rfx gate {gate.name}: {verdict(gate)}")
        said = (value_text(gate), interval_text(gate), limit_text(gate), gate.detail)
        text = command(" ".join(s for s in said if s))
        lines.append(f"::{_LEVELS[gate.outcome]} title={title}::{text}")
    return lines
