"""README's plot and table from the results of benchmarks.quickstart, and in the plot those of
benchmarks.int8, where they are given.

python -m benchmarks.plot benchmarks/results/quickstart.json docs/pages/images/quickstart.svg
    [--int8 benchmarks/results/int8.json]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.results_file import read_results

CONDITION = ("quickstart", "1x128")  # of the results of INT8: that of the other points
INT8_COLOURS = {"dense int8": "#b45309", "int8": "#15803d"}
INT8_NAMES = {"dense int8": "dense, INT8", "int8": "pruned, INT8"}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("svg", type=Path)
    parser.add_argument("--int8", type=Path, help="results of benchmarks.int8")
    args = parser.parse_args(argv)
    import matplotlib
    from matplotlib.figure import Figure

    runs = sorted(
        json.loads(args.results.read_text(encoding="utf-8"))["runs"], key=lambda r: -r["target"]
    )
    style = {
        "svg.fonttype": "path",
        "svg.hashsalt": "rfx",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7.2, 3.2), layout="constrained")
        ax = figure.subplots()
        dense = 100 * runs[0]["accuracy"]["dense"]
        for r in runs:
            a, latency = r["accuracy"], r["latency"]
            low, high = (dense - d for d in a["interval"])
            ax.plot(
                [latency["ratio"]] * 2,
                [low, high],
                color="#2563eb",
                alpha=0.35,
                linewidth=5,
                solid_capstyle="butt",
            )
            ax.plot([latency["ratio"]], [100 * a["pruned"]], "o", color="#2563eb", markersize=7)
            ax.axvline(r["target"], color="#b91c1c", linestyle=":", linewidth=1)
            ax.annotate(
                f"target {r['target']:g}",
                (r["target"], 0.02),
                xycoords=("data", "axes fraction"),
                rotation=90,
                fontsize=8,
                ha="left",
                va="bottom",
                color="#b91c1c",
            )
        ax.plot([1.0], [dense], "s", color="#1f2430", markersize=7)
        ax.annotate(
            "dense",
            (1.0, dense),
            textcoords="offset points",
            xytext=(-8, -14),
            fontsize=9,
            ha="right",
        )
        quantized = _int8(args.int8)
        for row in quantized:
            colour = INT8_COLOURS[row["kind"]]
            low, high = (100 * row["dense_metric"] - d for d in row["drop_interval"])
            ax.plot(
                [row["ratio"]] * 2,
                [low, high],
                color=colour,
                alpha=0.35,
                linewidth=5,
                solid_capstyle="butt",
            )
            ax.plot([row["ratio"]], [100 * row["metric"]], "D", color=colour, markersize=6)
            ax.annotate(
                INT8_NAMES[row["kind"]],
                (row["ratio"], 100 * row["metric"]),
                textcoords="offset points",
                xytext=(6, 6),
                fontsize=8,
                color=colour,
            )
        ratios = [r["latency"]["ratio"] for r in runs] + [row["ratio"] for row in quantized]
        ax.set(
            xlabel="measured latency, share of dense (ONNX Runtime, one thread)",
            ylabel="accuracy, %",
            xlim=(min(ratios) - 0.05, 1.03),
        )
        ax.grid(axis="y", color="#e3e6eb", linewidth=0.8)
        figure.savefig(args.svg, metadata={"Date": None})
    rows = [
        "| target | measured latency, share of dense | speedup | accuracy (dense "
        f"{dense:.2f}) | drop, points | parameters | FLOPs |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in runs:
        a, latency = r["accuracy"], r["latency"]
        rows.append(
            f"| {r['target']:g} | {latency['ratio']:.3f} ({latency['interval'][0]:.3f} to "
            f"{latency['interval'][1]:.3f}) "
            f"| {1 / latency['ratio']:.2f}x | {100 * a['pruned']:.2f} | {a['drop']:.2f} "
            f"({a['interval'][0]:.2f} to {a['interval'][1]:.2f}) "
            f"| {r['params_ratio']:.0%} | {r['flops_ratio']:.0%} |"
        )
    sys.stdout.write("\n".join(rows) + "\n")


def _int8(file: Path | None) -> list[dict[str, Any]]:
    """The rows of the quickstart that are in INT8."""
    if file is None:
        return []
    model, condition = CONDITION
    rows = read_results(file)["models"][model][condition]["rows"]
    return [row for row in rows if row["kind"] in INT8_COLOURS]


if __name__ == "__main__":
    main()
