"""JUnit XML: one test case a gate."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from rfx.core.bounded import MB, read_bytes
from rfx.core.errors import UsageError
from rfx.core.registry import register
from rfx.evidence.records import Evidence
from rfx.evidence.report.base import Report
from rfx.evidence.report.escape import xml
from rfx.evidence.report.facts import (
    headline,
    interval_text,
    limit_text,
    model_name,
    outcome_text,
    value_text,
    verdict,
)
from rfx.evidence.vocabulary import vocabulary_texts

_MOST_MB = 16  # of a file that is looked at: rfx writes some kilobytes


@register("report", "junit")
class JUnit(Report):
    """A failed gate is a failure; one that is inconclusive or was not judged is skipped, with its
    reason."""

    file = "junit.xml"

    def render(self, evidence: Evidence) -> str:
        return _junit(evidence)


def _junit(evidence: Evidence) -> str:
    said = [verdict(g) for g in evidence.gates]
    skipped = sum(v in ("inconclusive", "not judged") for v in said)
    name = xml(model_name(evidence))
    suites = ET.Element("testsuites")
    suite = ET.SubElement(
        suites,
        "testsuite",
        {
            "name": f"rfx {name}",
            "tests": str(len(evidence.gates)),
            "failures": str(said.count("fail")),
            "errors": "0",
            "skipped": str(skipped),
            "timestamp": xml(evidence.created),
            "time": f"{sum(s.seconds for s in evidence.stages):.3f}",
        },
    )
    for gate in evidence.gates:
        case = ET.SubElement(
            suite, "testcase", {"classname": f"rfx.{name}", "name": xml(gate.name), "time": "0"}
        )
        facts = [
            value_text(gate),
            f"interval {interval_text(gate)}" if gate.interval else "",
            limit_text(gate),
        ]
        text = xml("; ".join([f for f in facts if f] + [gate.detail]))
        if gate.outcome == "fail":
            ET.SubElement(case, "failure", {"message": text, "type": xml(gate.name)}).text = text
        elif verdict(gate) != "pass":
            ET.SubElement(case, "skipped", {"message": f"{verdict(gate)}: {text}"})
        else:
            ET.SubElement(case, "system-out").text = text
    whole = [f"{outcome_text(evidence)}: {headline(evidence)}"]
    whole += vocabulary_texts(evidence.vocabulary)
    ET.SubElement(suite, "system-out").text = xml(". ".join(text.rstrip(".") for text in whole))
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def require_own(file: Path) -> None:
    """Raises UsageError where something stands at `file` that rfx did not write: it would be
    lost."""
    try:
        size = file.stat().st_size if file.is_file() else 0
    except OSError:  # a name that no file can have, which writing it will say
        return
    if not size:
        return
    # No file of rfx's own is so large: it is not read, and not to be read by a larger bound.
    large = size > _MOST_MB * MB
    if large or not _is_own(read_bytes(file, what="JUnit XML that is there", most_mb=_MOST_MB)):
        raise UsageError(
            "This file is no JUnit XML of rfx: it is not replaced.",
            got=str(file),
            allowed="a new file, or one that rfx has written with --junit",
            next_step="give another path for --junit, or remove the file",
        )


def _is_own(data: bytes) -> bool:
    # rfx writes no declarations of its own; those of others may unfold to any size.
    if b"<!" in data:
        return False
    try:
        root = ET.fromstring(data)
    except (ET.ParseError, ValueError, LookupError):
        return False
    suite = root.find("testsuite") if root.tag == "testsuites" else root
    return (
        suite is not None
        and suite.tag == "testsuite"
        and suite.get("name", "").startswith("rfx ")
        and all(str(c.get("classname", "")).startswith("rfx.") for c in suite.iter("testcase"))
    )
