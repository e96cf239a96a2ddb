"""The tables of INT8 in README and in the guide, from the results of benchmarks.int8."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.results_file import place_of, read_results

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "int8.json"
README = ROOT / "README.md"
GUIDE = ROOT / "docs" / "pages" / "how-to" / "quantization.md"
START, END = "<!-- int8-table -->", "<!-- /int8-table -->"
COLUMNS = (
    "model",
    "share of the dense fp32 latency",
    "of dense INT8",
    "KL",
    "same answer",
    "{metric}, %",
    "points lost",
    "file, MB",
)
FIRST = "quickstart"  # the model that README shows, where it was measured


def write_tables(results: Path = RESULTS) -> None:
    """Write them into both pages, as the results have it; where there are none, nothing stands
    between the marks."""
    found = read_results(results) if place_of(results).exists() else {"models": {}}
    for page, made in ((README, short(found)), (GUIDE, full(found))):
        page.write_text(with_table(page.read_text(encoding="utf-8"), made), encoding="utf-8")


def with_table(text: str, made: str) -> str:
    """A page with what was made between its marks.

    Raises:
        ValueError: it has no marks.
    """
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"A page has no {START} ... {END}.")
    within = f"\n\n{made.strip()}\n\n" if made else "\n"
    return f"{before}{START}{within}{END}{after}"


def short(results: Mapping[str, Any]) -> str:
    """One model at the first condition: the dense model, the rival, the fastest that was pruned in
    fp32, and what was pruned in INT8."""
    models = results["models"]
    if not models:
        return ""
    name = FIRST if FIRST in models else next(iter(models))
    condition = next(iter(models[name].values()))
    plain = [row for row in condition["rows"] if row["kind"] == "fp32"]
    fastest = min(plain, key=lambda row: row["ratio"], default=None)
    rows = [row for row in condition["rows"] if row["kind"] != "fp32" or row is fastest]
    return "\n".join(_table(condition, rows))


def full(results: Mapping[str, Any]) -> str:
    """Every model at every condition."""
    if not results["models"]:
        return ""
    lines = [f"All numbers: [{RESULTS.name}](../../../benchmarks/results/{RESULTS.name})."]
    for name, conditions in results["models"].items():
        for condition in conditions.values():
            lines += _section(name, condition)
    return "\n".join(lines)


def _section(name: str, condition: Mapping[str, Any]) -> Iterator[str]:
    yield from (
        "",
        f"**{name}**, batch {condition['batch']}, {condition['tokens']} tokens, "
        f"{condition['threads']} thread{'s' * (condition['threads'] != 1)}, "
        f"{condition['version']} on {condition['device']}; {condition['examples']} examples to "
        f"calibrate on, {condition['evaluated']} to judge by; dense fp32 takes "
        f"{condition['dense']['ms']:.1f} ms:",
        "",
    )
    yield from _table(condition, [*condition["rows"], *_nearest(condition)])
    yield ""
    yield (
        "- A share of dense INT8 is of the rival as it was timed in the rounds of that row; its "
        "own row has it alone. The two differ by a few per cent on a shared machine."
    )
    errors = [100 * r["table_error"] for r in condition["rows"] if r.get("table_error") is not None]
    if errors:
        yield f"- The latency tables were off by at most {max(errors):.1f} % on whole models."
    for beside in condition["sequential"]:
        ratio = beside["divergence_ratio"]
        if ratio is None and beside["rows"]:
            yield (
                f"- At {beside['share']:g} of the latency of dense INT8 no two plans of the fp32 "
                "table lie on both sides of the latency of the INT8 table's plan, so that their KL "
                "cannot be compared at one latency."
            )
        elif ratio is not None:
            yield (
                f"- At {beside['share']:g} of the latency of dense INT8 the plan of the INT8 table "
                f"has {ratio:.2f} of the KL of one that was searched on the fp32 table and "
                "quantized afterwards, at the same measured latency."
            )
    yield ""


def _nearest(condition: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Beside each INT8 plan the plan of the fp32 table that comes nearest to its latency."""
    groups = [beside["rows"] for beside in condition["sequential"] if beside["rows"]]
    return [min(rows, key=lambda row: abs(row["to_plan"] - 1)) for rows in groups]


def _table(condition: Mapping[str, Any], rows: list[Mapping[str, Any]]) -> Iterator[str]:
    dense = condition["dense"]
    columns = [column.format(metric=condition["metric"]) for column in COLUMNS]
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    to_rival = 1 / next(r for r in rows if r["kind"] == "dense int8")["ratio"]
    yield (
        f"| dense fp32 | 1 | {to_rival:.2f} | 0 | 100% | {100 * dense['metric']:.2f} | 0 | "
        f"{dense['bytes'] / 1e6:.1f} |"
    )
    for row in rows:
        low, high = row["interval"]
        lost, gained = (f"{x:.2f}" for x in row["drop_interval"])
        bold = "**" if row["kind"] == "int8" else ""
        own = "1" if row["kind"] == "dense int8" else f"{bold}{row['to_rival']:.2f}{bold}"
        agreement, divergence = row["agreement"], row["divergence"]
        yield (
            f"| {_name(row)} | {row['ratio']:.3f} ({low:.3f} to {high:.3f}) | {own} | "
            f"{'' if divergence is None else f'{divergence:.4f}'} | "
            f"{'' if agreement is None else f'{agreement:.1%}'} | {100 * row['metric']:.2f} | "
            f"{row['drop']:.2f} ({lost} to {gained}) | {row['bytes'] / 1e6:.1f} |"
        )


def _name(row: Mapping[str, Any]) -> str:
    """What a row is, in words."""
    asked = f"`--latency {row['asked']:.3g}`" if "asked" in row else ""
    return {
        "dense int8": "dense INT8, the rival",
        "fp32": f"pruned, fp32, {asked}",
        "int8": f"**pruned, INT8**, {asked}",
        "sequential": "searched for fp32, quantized afterwards",
    }[str(row["kind"])]
