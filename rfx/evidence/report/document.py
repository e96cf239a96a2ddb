"""evidence.json: the evidence itself."""

from __future__ import annotations

from rfx.core.registry import register
from rfx.core.text import in_json
from rfx.evidence.records import Evidence
from rfx.evidence.report.base import Report


@register("report", "json")
class Document(Report):
    """The whole evidence as one JSON document; numbers that are not finite are null."""

    file = "evidence.json"

    def render(self, evidence: Evidence) -> str:
        return in_json(evidence.model_dump_json(indent=1)) + "\n"
