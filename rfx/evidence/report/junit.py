"""JUnit XML: one test case a gate."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from rfx.core.registry import register
from rfx.evidence.records import Evidence
from rfx.evidence.report.base import Report
from rfx.evidence.report.facts import (
    headline,
    interval_text,
    limit_text,
    model_name,
    value_text,
    verdict,
)

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@register("report", "junit")
class JUnit(Report):
    """A failed gate is a failure; one that is inconclusive or has no limit is skipped, with its
    reason."""

    file = "junit.xml"

    def render(self, evidence: Evidence) -> str:
        return _junit(evidence)


def _junit(evidence: Evidence) -> str:
    said = [verdict(g) for g in evidence.gates]
    skipped = sum(v in ("inconclusive", "no limit") for v in said)
    name = _clean(model_name(evidence))
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
            "timestamp": evidence.created,
            "time": f"{sum(s.seconds for s in evidence.stages):.3f}",
        },
    )
    for gate in evidence.gates:
        case = ET.SubElement(
            suite, "testcase", {"classname": f"rfx.{name}", "name": gate.name, "time": "0"}
        )
        facts = [
            value_text(gate),
            f"interval {interval_text(gate)}" if gate.interval else "",
            limit_text(gate),
        ]
        text = _clean("; ".join([f for f in facts if f] + [gate.detail]))
        if gate.outcome == "fail":
            ET.SubElement(case, "failure", {"message": text, "type": gate.name}).text = text
        elif verdict(gate) != "pass":
            ET.SubElement(case, "skipped", {"message": f"{verdict(gate)}: {text}"})
        else:
            ET.SubElement(case, "system-out").text = text
    ET.SubElement(suite, "system-out").text = _clean(headline(evidence))
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _clean(text: str) -> str:
    return _NOT_XML.sub("?", text)
