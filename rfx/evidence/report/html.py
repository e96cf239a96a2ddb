"""report.html: one page that needs nothing else, with plots drawn from the evidence."""

from __future__ import annotations

import json
from pathlib import Path

from rfx.evidence.records import Evidence
from rfx.evidence.report import plots
from rfx.evidence.report.facts import (
    GATE_TITLES,
    budget_text,
    headline,
    interval_text,
    layer_rows,
    limit_text,
    model_name,
    value_text,
    verdict,
    workload_text,
)

_TEMPLATE = Path(__file__).with_name("page.html.j2")


def html(evidence: Evidence) -> str:
    """The page. Everything that came from files and users is escaped."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["pretty"] = lambda data: json.dumps(
        data, indent=1, ensure_ascii=False, default=str
    )
    figures = [
        (
            "What was measured",
            plots.intervals(evidence),
            "Points are measured values, bars their 95 % bootstrap intervals.",
        ),
        ("What is left of each layer", plots.kept_units(evidence), "Grey: the dense model."),
        (
            "What a sublayer costs",
            plots.table_curves(evidence),
            "The latency table of this runtime and device, and the counts that the search chose "
            "from it.",
        ),
    ]
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        e=evidence,
        name=model_name(evidence),
        headline=headline(evidence),
        budget=budget_text(evidence),
        workload=workload_text(evidence),
        figures=[f for f in figures if f[1]],
        titles=GATE_TITLES,
        gates=[
            (g, verdict(g), value_text(g), interval_text(g), limit_text(g)) for g in evidence.gates
        ],
        layers=layer_rows(evidence),
    )
