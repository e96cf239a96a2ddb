"""The table of model families, from the results of benchmarks/families.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.results_file import place_of, read_results

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "families.json"
PAGE = ROOT / "docs" / "pages" / "explanation" / "sites.md"
START, END = "<!-- families-table -->", "<!-- /families-table -->"
COLUMNS = (
    "family",
    "sites: attention, feed-forward",
    "share of the multiplications",
    "masked against shrunk",
    "against ONNX Runtime",
    "OpenVINO",
    "TensorRT-RTX",
    "half of the units: latency",
)
HEAD = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"


def table(results: Mapping[str, Any]) -> str:
    """One row for each family."""
    return "\n".join([HEAD, *(_row(n, r) for n, r in results["families"].items())])


def _row(name: str, row: Mapping[str, Any]) -> str:
    cells = [
        name,
        f"{row['heads']}, {row['filters']}",
        f"{row['share']:.0%}",
        _difference(row["error"]),
    ]
    if "export" in row:
        cells += ["cannot be exported", "", "", ""]
    else:
        cells += [_difference(row["ort"]), _difference(row["openvino"])]
        cells.append("builds" if row["trt-rtx"] is True else "does not build")
        if "ratio" in row:
            low, high = row["interval"]
            cells.append(f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})")
        else:
            cells.append("")
    return "| " + " | ".join(cells) + " |"


def _difference(found: float | str) -> str:
    if not isinstance(found, float):
        return "does not run"
    return f"{found:.0e}" if found else "0"


def write_table() -> None:
    """Put the table into its page, where there are results."""
    if not place_of(RESULTS).is_file():
        return
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    made = table(read_results(RESULTS))
    PAGE.write_text(f"{before}{START}\n\n{made}\n\n{END}{after}", encoding="utf-8")
