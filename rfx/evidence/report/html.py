"""report.html: one page that needs nothing else, with plots drawn from the evidence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rfx.core.registry import register
from rfx.core.text import printable
from rfx.evidence.records import Evidence
from rfx.evidence.report.advice import next_step
from rfx.evidence.report.base import Report
from rfx.evidence.report.facts import (
    budget_text,
    compensation_text,
    gate_title,
    headline,
    interval_text,
    layer_rows,
    limit_text,
    model_name,
    outcome_text,
    round_texts,
    search_text,
    table_text,
    unit_names,
    value_text,
    verdict,
    workload_text,
)
from rfx.evidence.report.rival import rival_texts
from rfx.evidence.vocabulary import vocabulary_texts
from rfx.evidence.words import score

NEEDS = ("matplotlib", "jinja2")
INSTALL = 'pip install "rfx-exporter[plots]"'
_HERE = Path(__file__).parent


@register("report", "html")
class Page(Report):
    """The evidence as a page for people, with plots. It works offline and in dark mode."""

    file = "report.html"
    needs = NEEDS
    install = INSTALL

    def render(self, evidence: Evidence) -> str:
        return _page(evidence)


def fill(template: str, **values: Any) -> str:
    """One of the templates beside this module, filled in. Everything that came from files and users
    is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["pretty"] = lambda data: json.dumps(
        data, indent=1, ensure_ascii=False, default=str
    )
    style = (_HERE / "style.css").read_text(encoding="utf-8").strip()
    return environment.get_template(template).render(style=style, **values).lstrip()


def _shown(value: Any) -> Any:
    """Text of others without control characters; what is HTML already stays."""
    return value if hasattr(value, "__html__") or not isinstance(value, str) else printable(value)


def _page(e: Evidence) -> str:
    from rfx.evidence.report import plots

    figures = [
        (
            "What was measured",
            plots.intervals(e),
            "Points are measured values, bars their 95 % bootstrap intervals.",
        ),
        (
            "What is left of each layer",
            plots.kept_units(e),
            "Full bars are what is kept, with its number; the pale bars behind are the dense "
            "model.",
        ),
        (
            "What a sublayer costs",
            plots.table_curves(e),
            "The line is the latency table of this runtime and device. Circles are the numbers of "
            "units that the search chose; a larger one stands for several layers.",
        ),
        (
            "What quantizing costs by site",
            plots.site_losses(e),
            "Each site was put into integers alone, with all others in fp32; all the rest are "
            "embedding tables, the pooler and the head.",
        ),
    ]
    return fill(
        "page.html.j2",
        e=e,
        name=model_name(e),
        headline=headline(e),
        outcome=outcome_text(e),
        score=score,
        budget=budget_text(e),
        workload=workload_text(e),
        next=next_step(e),
        figures=[f for f in figures if f[1]],
        gates=_gates(e),
        times=_times(e),
        search=search_text(e),
        table_said=table_text(e),
        rounds=round_texts(e),
        checks=_checks(e),
        units=[(name, "n") for name in unit_names(e)],
        layers=_layers(e),
        compensation=compensation_text(e),
        beside=[*vocabulary_texts(e.vocabulary), *rival_texts(e)],
        tuning=_tuning(e),
        by_site=_by_site(e),
        stages=[
            [
                s.name,
                f"{s.seconds:.1f}",
                "" if s.peak_mb is None else f"{s.peak_mb:.0f}",
                "from the cache" if s.cached else "",
            ]
            for s in e.stages
        ],
        model=[[key, _plain(value)] for key, value in e.model.items()],
        origins=bool(e.recipe.get("origin")),
        recipe=_recipe(e.recipe),
    )


def _gates(e: Evidence) -> list[list[Any]]:
    from markupsafe import Markup, escape

    rows = []
    for g in e.gates:
        said, title = verdict(g), gate_title(g)
        name = Markup("{}<br><span class='soft'>{}</span>").format(printable(g.name), title)
        badge = Markup("<span class='verdict {}'>{}</span>").format(said.replace(" ", "-"), said)
        cells = (value_text(g), interval_text(g), limit_text(g), g.detail)
        rows.append([name if title else escape(printable(g.name)), badge, *cells])
    return rows


def _times(e: Evidence) -> list[list[str]]:
    if e.latency is None:
        return []
    dense, pruned = e.latency.dense, e.latency.pruned
    names = {
        "p50": "median",
        "p90": "90 % are below",
        "p95": "95 % are below",
        "p99": "99 % are below",
        "mean": "mean",
    }
    rows = [
        [title, f"{getattr(dense, name):.3f}", f"{getattr(pruned, name):.3f}"]
        for name, title in names.items()
    ]
    return [*rows, ["inferences timed", str(dense.samples), str(pruned.samples)]]


def _checks(e: Evidence) -> list[list[str]]:
    if e.table is None:
        return []
    return [
        [
            str(i),
            f"{row['predicted_ms']:.3f}",
            f"{row['measured_ms']:.3f}",
            f"{100 * row['error']:+.1f} %",
        ]
        for i, row in enumerate(e.table.additivity, 1)
    ]


def _layers(e: Evidence) -> list[list[str]]:
    units = unit_names(e)
    return [
        [str(i), *(f"{row[u][0]} / {row[u][1]}" if u in row else "" for u in units)]
        for i, row in layer_rows(e)
    ]


def _tuning(e: Evidence) -> list[list[str]]:
    def number(x: float) -> str:
        return f"{x:.4g}" if x == x else ""  # NaN where nothing was fitted

    return [
        [
            t.site,
            "yes" if t.accepted else "no",
            number(t.held_out_before),
            number(t.held_out_after),
            t.reason,
        ]
        for t in e.tuning
    ]


def _by_site(e: Evidence) -> list[list[str]]:
    part = e.quantization
    if part is None or part.by_site is None:
        return []
    found = part.by_site
    rows = [(row.site, row.divergence) for row in found.sites]
    rows += [("all the rest", found.rest), ("all together", found.together)]
    return [[name, f"{value:.2g}"] for name, value in rows]


def _recipe(recipe: Mapping[str, Any]) -> list[list[str]]:
    """One row a key: its dotted name, its value, and where that came from, if that is recorded."""
    origin = recipe.get("origin") or {}
    rows = []

    def walk(part: Mapping[str, Any], path: str) -> None:
        for key, value in part.items():
            name = f"{path}{key}"
            if isinstance(value, Mapping) and value:
                walk(value, f"{name}.")
            else:
                came = str(origin.get(name, "")) if isinstance(origin, Mapping) else ""
                rows.append([name, _plain(value), *([came] if origin else [])])

    walk({k: v for k, v in recipe.items() if k != "origin"}, "")
    return rows


def _plain(value: Any) -> str:
    if value is None or value == {} or value == []:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
