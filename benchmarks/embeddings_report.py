"""The table of an embedding model, from the results of benchmarks/embeddings.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.results_file import place_of, read_results

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "embeddings.json"
PAGE = ROOT / "docs" / "pages" / "how-to" / "embeddings.md"
START, END = "<!-- embeddings-table -->", "<!-- /embeddings-table -->"
COLUMNS = (
    "model",
    "share of the dense fp32 latency",
    "Spearman, points lost",
    "nDCG@10, points lost",
    "mean cosine to dense",
    "file, MB",
)
HEAD = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"


def text(results: Mapping[str, Any]) -> str:
    """The table, with what was measured above it."""
    rows = results["rows"]
    first = rows[0]
    said = (
        f"{results['model']}, calibrated on {results['examples']} texts of STS-B's training part "
        f"and judged on its development part (Spearman {100 * first['dense_spearman']:.2f}; as a "
        f"search, nDCG@10 {100 * first['dense_ndcg']:.2f} on {first['queries']} queries), batch 1, "
        f"128 tokens, one thread, {results['runtime']} on {results['device']}. In brackets are "
        "95 % intervals."
    )
    lines = [said, "", HEAD, _dense()]
    if rival := next((r["rival"] for r in rows if r.get("rival")), None):
        lines.append(
            f"| dense INT8, the rival | {rival['ratio']:.3f} | {rival['drop']:.2f} | | "
            f"{1 - rival['cosine_distance']:.3f} | |"
        )
    return "\n".join([*lines, *map(_line, rows)])


def _dense() -> str:
    return "| dense fp32 | 1 | 0 | 0 | 1 | |"


def _line(row: Mapping[str, Any]) -> str:
    at = f"`--{row['kind']} {row['budget']:g}`"
    at += "" if row["precision"] == "fp32" else f", {row['precision'].upper()}"
    low, high = row["ratio_interval"]
    return (
        f"| pruned, {at} | {row['ratio']:.3f} ({low:.3f} to {high:.3f}) | "
        f"{_points(row, 'drop', 'drop_interval')} | {_points(row, 'ndcg_drop', 'ndcg_interval')} | "
        f"{1 - row['cosine_distance']:.3f} | {row['bytes'] / 1e6:.1f} |"
    )


def _points(row: Mapping[str, Any], key: str, interval: str) -> str:
    low, high = row[interval]
    return f"{row[key]:.2f} ({low:.2f} to {high:.2f})"


def write_table() -> None:
    """Put the table into its page, where there are results."""
    if not place_of(RESULTS).exists():
        return
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    made = f"{before}{START}\n\n{text(read_results(RESULTS))}\n\n{END}{after}"
    PAGE.write_text(made, encoding="utf-8")
