"""The summary a person reads in the terminal, as rich has it; the command line prints it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rfx.core.text import one_line, printable
from rfx.evidence.records import Evidence
from rfx.evidence.report.advice import next_step
from rfx.evidence.report.facts import (
    budget_text,
    compensation_text,
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

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_STYLE = {"pass": "green", "fail": "red", "inconclusive": "yellow", "not judged": ""}


def gates_table(evidence: Evidence) -> Table:
    """One row a gate."""
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(f"gates: {outcome_text(evidence)}", style=f"bold {_STYLE[evidence.outcome]}"),
        title_justify="left",
    )
    for column in ("gate", "outcome", "measured", "95 % interval", "limit"):
        table.add_column(column, no_wrap=column in ("gate", "outcome"))
    for g in evidence.gates:
        table.add_row(
            Text(one_line(g.name)),
            Text(verdict(g), style=_STYLE[verdict(g)]),
            *(Text(one_line(c)) for c in (value_text(g), interval_text(g), limit_text(g))),
        )
    return table


def verdict_line(evidence: Evidence) -> str:
    """The verdict and every gate that failed or is inconclusive, in one line: all that is said
    where no report is asked for."""
    said = []
    for g in evidence.gates:
        if g.outcome not in ("fail", "inconclusive"):
            continue
        interval, limit = interval_text(g), limit_text(g)
        parts = (value_text(g), f"95 % interval {interval}" if interval else "", limit)
        numbers = ", ".join(one_line(part) for part in parts if part)
        if g.value is None and g.detail:  # no number says why
            numbers = one_line(g.detail)
        word = "failed" if g.outcome == "fail" else "is inconclusive"
        said.append(f"{one_line(g.name)} {word}" + (f" ({numbers})" if numbers else ""))
    return printable(f"gates: {evidence.outcome}: {'; '.join(said)}")


def gates(evidence: Evidence, given: Path | None = None) -> list[Table | Text]:
    """The gates, what there is to say of each, and what to do next.

    Args:
        given: the file that was judged, or the folder of its evidence.json.
    """
    from rich.text import Text

    folder = given if given is None or given.is_dir() else given.parent
    return [*_gates(evidence), Text(printable(next_step(evidence, folder, given)))]


def _gates(evidence: Evidence) -> list[Table | Text]:
    from rich.text import Text

    return [
        gates_table(evidence),
        *(
            Text(
                printable(f"  {g.name}: {g.detail}"),
                style=_STYLE[verdict(g)] * (g.outcome != "pass"),
            )
            for g in evidence.gates
        ),
    ]


def layers_table(evidence: Evidence) -> Table:
    """One row a layer, one column a kind of unit: how many are kept of how many."""
    from rich.table import Table

    units = unit_names(evidence)
    table = Table(title="kept units", title_justify="left")
    for column in ("layer", *map(one_line, units)):
        table.add_column(column, justify="right")
    for i, row in layer_rows(evidence):
        table.add_row(str(i), *(f"{row[u][0]} / {row[u][1]}" if u in row else "" for u in units))
    return table


def summary(evidence: Evidence, out: Path | None = None) -> list[Table | Text]:
    """The result: headline, layers, how it was found, gates, what was written, what to do next.

    Args:
        out: the output folder; None: nothing was written.
    """
    from rich.text import Text

    lines: list[Table | Text] = []

    def say(text: str, style: str = "") -> None:
        lines.append(Text(printable(text), style=style))

    say(f"{model_name(evidence)}: {headline(evidence)}", "bold")
    say(f"budget: {budget_text(evidence)}")
    say(f"measured with {workload_text(evidence)}")
    lines.append(layers_table(evidence))
    for text in (
        " ".join(search_text(evidence)),
        table_text(evidence),
        *round_texts(evidence),
        " ".join(compensation_text(evidence)),
        *vocabulary_texts(evidence.vocabulary),
        *rival_texts(evidence),
    ):
        if text:
            say(text)
    lines += _gates(evidence)
    for warning in evidence.warnings:
        say(f"warning: {warning}", "yellow")
    if out is not None:
        say(f"written to {out}: {written(out)}")
    say(next_step(evidence, out))
    return lines


def written(out: Path) -> str:
    """The files of an output folder that a person opens, those that are there."""
    names = {
        "model.onnx": "model.onnx",
        "model.fp32.onnx": "model.fp32.onnx",
        "model": "model/",
        "triton": "triton/",
        "report.html": "report.html",
        "evidence.json": "evidence.json",
        "junit.xml": "junit.xml",
        "README.md": "README.md (model card)",
    }
    return ", ".join(text for name, text in names.items() if (out / name).exists())
