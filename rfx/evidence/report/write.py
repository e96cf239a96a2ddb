"""Reports, each rendered from an `Evidence` alone: terminal, HTML page, JUnit XML, Markdown, model
card."""

from __future__ import annotations

from pathlib import Path

from rfx.core.errors import UsageError
from rfx.core.store import atomic_write_text
from rfx.evidence.records import Evidence
from rfx.evidence.report.terminal import gates, summary

FORMATS = ("json", "html", "junit", "markdown", "card")
FILES = {
    "evidence.json": "json",
    "report.html": "html",
    "junit.xml": "junit",
    "summary.md": "markdown",
    "README.md": "card",
}

__all__ = ["FILES", "FORMATS", "gates", "render", "summary", "write_reports"]


def render(evidence: Evidence, form: str) -> str:
    """The text of one report: "json", "html", "junit", "markdown" or "card".

    Raises:
        UsageError: another name.
    """
    if form == "json":
        return evidence.model_dump_json(indent=1) + "\n"
    if form == "html":
        from rfx.evidence.report.html import html

        return html(evidence)
    if form == "junit":
        from rfx.evidence.report.junit import junit

        return junit(evidence)
    if form in ("markdown", "card"):
        from rfx.evidence.report import markdown

        return markdown.card(evidence) if form == "card" else markdown.summary(evidence)
    raise UsageError("There is no report of this form.", got=form, allowed=", ".join(FORMATS))


def write_reports(evidence: Evidence, folder: str | Path) -> list[Path]:
    """Write evidence.json, report.html, junit.xml, summary.md and README.md (the model card) into
    `folder`."""
    written = []
    for name, form in FILES.items():
        atomic_write_text(Path(folder) / name, render(evidence, form))
        written.append(Path(folder) / name)
    return written
