"""Tables and a plot of benchmarks.accuracy: what every recipe keeps at every share of the FLOPs.

    python -m benchmarks.accuracy_report benchmarks/results/accuracy.json.gz --tables FILE.md
    --plot FILE.svg

The same results give the same bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import accuracy_plot
from benchmarks.accuracy_comparison import at_latency, noise, ratios, recipes_of
from benchmarks.accuracy_grid import grids, usual
from benchmarks.accuracy_sections import AUTHORS_DENSE, authors, costs, samples, worth
from benchmarks.results_file import plain_name, read_results
from rfx.core.files import atomic_write_text


def tables(file: Path) -> str:
    """All tables of a results file, as Markdown."""
    results = read_results(file)
    flops, latency = grids(results)
    dense, examples = results["dense"], usual(flops)
    # Choices were made on the data of the others.
    evaluated = {pair: n for pair, n in examples.items() if not pair.endswith("-val")}
    out: list[str] = []
    for pair, n in evaluated.items():
        out += recipes_of(pair, n, flops, dense[pair])
    # The pairs whose names end in "-more" are other data of a model that is there already.
    out += ratios(flops, {pair: n for pair, n in evaluated.items() if not pair.endswith("-more")})
    out += noise(results.get("intervals", {}), evaluated)
    for pair in (p for p in examples if p not in evaluated):
        out += worth(flops, pair, examples[pair], dense[pair])
    out += samples(flops)
    # The authors' figures are of one checkpoint; another cannot be compared with them.
    if abs(dense.get("minilm-rotten", {}).get("metric", 0.0) - AUTHORS_DENSE) < 1e-4:
        out += authors(flops)
    out += costs(flops, examples)
    out += at_latency(latency)
    return "\n".join(out)


def plot(file: Path) -> str:
    """The plot of a results file, as SVG."""
    return accuracy_plot.plot(grids(read_results(file))[0])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy_report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", type=Path, help="what benchmarks.accuracy wrote")
    parser.add_argument("--tables", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--plot", type=Path, required=True, help="SVG file to write")
    args = parser.parse_args(argv)
    made = f"made by python -m benchmarks.accuracy_report from {plain_name(args.results)}"
    atomic_write_text(args.tables, f"<!-- {made} -->\n\n" + tables(args.results))
    atomic_write_text(args.plot, plot(args.results) + "\n")


if __name__ == "__main__":
    main()
