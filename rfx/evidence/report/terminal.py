"""The summary a person reads in the terminal, as rich has it; the command line prints it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rfx.evidence.records import Evidence
from rfx.evidence.report.facts import (
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

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_STYLE = {"pass": "green", "fail": "red", "inconclusive": "yellow", "no limit": ""}


def gates_table(evidence: Evidence) -> Table:
    """One row a gate."""
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(f"gates: {evidence.outcome}", style=f"bold {_STYLE[evidence.outcome]}"),
        title_justify="left",
    )
    for column in ("gate", "outcome", "measured", "95 % interval", "limit"):
        table.add_column(column, no_wrap=True)
    for g in evidence.gates:
        table.add_row(
            g.name,
            Text(verdict(g), style=_STYLE[verdict(g)]),
            value_text(g),
            interval_text(g),
            limit_text(g),
        )
    return table


def gates(evidence: Evidence) -> list[Table | Text]:
    """The gates and what there is to say of each."""
    from rich.text import Text

    return [
        gates_table(evidence),
        *(
            Text(f"  {g.name}: {g.detail}", style="" if g.outcome == "pass" else _STYLE[g.outcome])
            for g in evidence.gates
        ),
    ]


def summary(evidence: Evidence, out: Path | None = None) -> list[Table | Text]:
    """The result: headline, layers, gates, what was written."""
    from rich.table import Table
    from rich.text import Text

    lines: list[Table | Text] = []

    def say(text: str, style: str = "") -> None:
        lines.append(Text(text, style=style))

    say(f"{model_name(evidence)}: {headline(evidence)}", "bold")
    say(f"budget: {budget_text(evidence)}")
    say(f"measured with {workload_text(evidence)}")
    table = Table(title="kept units", title_justify="left")
    for column in ("layer", "heads", "filters"):
        table.add_column(column, justify="right")
    for i, heads, all_heads, filters, all_filters in layer_rows(evidence):
        table.add_row(str(i), f"{heads} / {all_heads}", f"{filters} / {all_filters}")
    lines.append(table)
    s = evidence.search
    if s.value_kept is not None and s.optimality_gap is not None and s.price is not None:
        unit = "ms" if s.budget_unit == "ms" else "MAC"
        say(
            f"search: {s.method}, {s.value_kept:.2%} of the importance kept, at most "
            f"{s.optimality_gap:.1e} from the optimum, "
            f"one {unit} more would buy {s.price:.3g}"
        )
    if evidence.table is not None and evidence.table.additivity_error is not None:
        say(f"latency table: whole models predicted within {evidence.table.additivity_error:.1%}")
    for i, r in enumerate(evidence.search.rounds, 1):
        say(f"closed loop, round {i}: ratio {r.measured_ratio:.3f} ({r.note})")
    lines += gates(evidence)
    for warning in evidence.warnings:
        say(f"warning: {warning}", "yellow")
    if out is not None:
        model = "model.onnx, model/, triton/, " if (out / "model.onnx").is_file() else ""
        say(
            f"written to {out}: {model}report.html, evidence.json, junit.xml, README.md (model "
            "card)"
        )
    return lines
