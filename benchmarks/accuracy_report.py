"""Tables and a plot of benchmarks.accuracy: what every recipe keeps at every share of the FLOPs.

    python -m benchmarks.accuracy_report benchmarks/results/accuracy.json --tables docs/accuracy-tables.md --plot docs/accuracy.svg
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path

from rfx.store import atomic_write_text

COLOURS = {"rfx": "#2563eb", "kprune": "#15803d", "kwon": "#b45309", "kwon-reference": "#d97706", "magnitude": "#6b7280", "random": "#c4c9d1"}


def read(file: Path):
    """{(pair, recipe, share, examples): [cells over seeds]} of the FLOPs part, and the same of the latency part."""
    flops, latency = defaultdict(list), defaultdict(list)
    for key, cell in json.loads(file.read_text(encoding="utf-8"))["cells"].items():
        pair, recipe, _, share, examples = key.split("|")
        if share.startswith("latency"):
            latency[pair, recipe, float(share.split()[1]), int(examples)].append(cell)
        else:
            flops[pair, recipe, float(share), int(examples)].append(cell)
    return flops, latency


def mean(cells, name: str) -> float:
    values = [c[name] for c in cells if c.get(name) is not None]
    return sum(values) / len(values) if values else math.nan


def usual(flops) -> dict[str, int]:
    """The number of calibration examples that most cells of a pair have."""
    counts: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for (pair, _, _, examples), cells in flops.items():
        counts[pair][examples] += len(cells)
    return {pair: max(c, key=c.get) for pair, c in counts.items()}


def number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def tables(file: Path) -> str:
    flops, latency = read(file)
    dense = json.loads(file.read_text(encoding="utf-8"))["dense"]
    examples = usual(flops)
    out = []
    for pair, n in examples.items():
        shares = sorted({k[2] for k in flops if k[0] == pair and k[3] == n}, reverse=True)
        recipes = [r for r in _order({k[1] for k in flops if k[0] == pair and k[3] == n})]
        d = dense[pair]
        out += [f"### {pair}", "", f"Dense {d['name']} {d['metric']:.4f}; {n} calibration examples. Each cell: {d['name']} · KL to the dense "
                f"model{' (squared error)' if d['agreement'] is None else ' · agreement with it'}, means over the seeds.", "",
                "| recipe | seeds | " + " | ".join(f"{s:g} of the FLOPs" for s in shares) + " |", "|---|---|" + "---|" * len(shares)]  # fmt: skip
        for recipe in recipes:
            row, seeds = [], 0
            for share in shares:
                cells = flops.get((pair, recipe, share, n), [])
                seeds = max(seeds, len(cells))
                parts = [number(mean(cells, "metric"), 4), number(mean(cells, "divergence"), 4), number(mean(cells, "agreement"), 3)]
                row.append(" · ".join(p for p in parts if p))
            out.append(f"| `{recipe}` | {seeds} | " + " | ".join(row) + " |")
        out.append("")
    out += ratios(flops, examples)
    if latency:
        out += ["### At equal measured latency (ONNX Runtime on a CPU, one thread)", "", "| pair | recipe | target | measured | metric |",
                "|---|---|---|---|---|"]  # fmt: skip
        for (pair, recipe, target, _), cells in sorted(latency.items()):
            c = cells[0]
            measured = f"{c['ratio']:.3f}" if "ratio" in c else c.get("note", "")
            out.append(f"| {pair} | `{recipe}` | {target:g} | {measured} | {number(c.get('metric', math.nan), 4)} |")
        out.append("")
    return "\n".join(out)


def ratios(flops, examples) -> list[str]:
    """Geometric means over the pairs of rfx's divergence against the others', by share."""
    shares = sorted({k[2] for k in flops}, reverse=True)
    out = ["### Divergence of `rfx` against the others', geometric mean over the pairs and seeds", "",
           "| against | " + " | ".join(f"{s:g}" for s in shares) + " |", "|---|" + "---|" * len(shares)]  # fmt: skip
    for other in ("kwon-reference", "kwon", "kprune"):
        row = []
        for share in shares:
            logs = []
            for pair, n in examples.items():
                ours, theirs = flops.get((pair, "rfx", share, n)), flops.get((pair, other, share, n))
                if ours and theirs:
                    logs.append(math.log(mean(ours, "divergence") / mean(theirs, "divergence")))
            row.append(f"1/{math.exp(-sum(logs) / len(logs)):.1f}" if logs else "")
        out.append(f"| `{other}` | " + " | ".join(row) + " |")
    return [*out, ""]


def _order(recipes) -> list[str]:
    known = ["rfx", "kprune", "kwon", "kwon-reference", "magnitude", "random"]
    return [r for r in known if r in recipes] + sorted(r for r in recipes if r not in known)


def plot(file: Path) -> str:
    """Divergence against the share of the FLOPs kept, one panel a pair."""
    import io

    import matplotlib
    from matplotlib.figure import Figure

    flops, _ = read(file)
    examples = usual(flops)
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "axes.spines.top": False,
                                "axes.spines.right": False, "svg.hashsalt": "accuracy"}):  # fmt: skip
        figure = Figure(figsize=(3.1 * len(examples), 3.1), layout="constrained")
        axes = figure.subplots(1, len(examples), squeeze=False)[0]
        for ax, (pair, n) in zip(axes, examples.items()):
            for recipe in _order({k[1] for k in flops if k[0] == pair and k[3] == n}):
                if recipe not in COLOURS:
                    continue
                points = sorted((k[2], mean(c, "divergence")) for k, c in flops.items() if k[0] == pair and k[1] == recipe and k[3] == n)
                ax.plot([x for x, _ in points], [y for _, y in points], ".-", color=COLOURS[recipe], label=recipe, linewidth=1.4)
            ax.set(title=pair, xlabel="FLOPs kept", yscale="log")
        axes[0].set_ylabel("divergence from the dense model")
        axes[0].legend(frameon=False, fontsize=8)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()[out.getvalue().index("<svg") :]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy_report", description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--plot", type=Path, required=True)
    args = parser.parse_args()
    note = f"<!-- made by python -m benchmarks.accuracy_report from {args.results.name} -->\n\n"
    atomic_write_text(args.tables, note + tables(args.results))
    atomic_write_text(args.plot, plot(args.results) + "\n")


if __name__ == "__main__":
    main()
