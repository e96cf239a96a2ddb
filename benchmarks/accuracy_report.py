"""Tables and a plot of benchmarks.accuracy: what every recipe keeps at every share of the FLOPs.

python -m benchmarks.accuracy_report benchmarks/results/accuracy.json --tables
docs/pages/explanation/accuracy-tables.md --plot docs/pages/images/accuracy.svg
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import defaultdict
from pathlib import Path

from rfx.core.files import atomic_write_text

COLOURS = {
    "rfx": "#2563eb",
    "kprune": "#15803d",
    "kwon": "#b45309",
    "kwon-reference": "#d97706",
    "magnitude": "#6b7280",
    "random": "#c4c9d1",
}


# What each ablation exchanges (benchmarks.accuracy.ABLATIONS), the default first.
PARTS = {
    "rfx": "the default",
    "rfx-none": "no reconstruction",
    "rfx-scales": "one scale a unit (mask tuning) in place of the reconstruction",
    "rfx-projection": "weights reconstructed, biases as they were",
    "rfx-temperature-1": "output metric at temperature 1 in place of 2",
    "rfx-measured": "damage measured at four counts a sublayer (`points: 4`)",
    "rfx-iterated": "three rounds of scoring and reconstruction",
    "rfx-sequential": "scored again before every sublayer",
    "rfx+polish": "and a last step over all scales on the output (`polish: true`)",
    "kwon+affine": "selection of `kwon`, reconstruction of `rfx`",
    "kwon": "selection and mask tuning of `kwon`",
}
# What the authors' code of `kwon-reference` (commit 806ac5a) gave on minilm-rotten with 1,024
# examples drawn with seeds 0 and 1:
# (accuracy, KL to the dense model) after tuning by share of the FLOPs; that checkpoint's accuracy
# is AUTHORS_DENSE. At 0.5 and 0.4 its
# tuning left its range at seed 1, at 0.3 at seed 1 too, and was dropped: these are the figures
# after rearrangement.
AUTHORS = {
    0.7: ((0.823, 0.0328), (0.825, 0.0335)),
    0.6: ((0.823, 0.0803), (0.822, 0.0799)),
    0.5: ((0.821, 0.1564), (0.814, 0.1712)),
    0.4: ((0.813, 0.1878), (0.801, 0.2248)),
    0.3: ((0.759, 0.2701), (0.770, 0.2598)),
}
AUTHORS_DENSE = 0.8281
# Its accuracy after the search and after the rearrangement, seed 0.
AUTHORS_STAGES = {0.5: (0.813, 0.821), 0.4: (0.793, 0.809), 0.3: (0.763, 0.768)}


def read(file: Path):
    """{(pair, recipe, share, examples): {seed: cell}} of the FLOPs part, and the same of the
    latency part."""
    flops, latency = defaultdict(dict), defaultdict(dict)
    for key, cell in json.loads(file.read_text(encoding="utf-8"))["cells"].items():
        pair, recipe, seed, share, examples = key.split("|")
        if share.startswith("latency"):
            latency[pair, recipe, float(share.split()[1]), int(examples)][int(seed)] = cell
        else:
            flops[pair, recipe, float(share), int(examples)][int(seed)] = cell
    return flops, latency


def mean(cells, name: str) -> float:
    values = [c[name] for c in cells.values() if c.get(name) is not None]
    return sum(values) / len(values) if values else math.nan


def spread(cells, name: str, digits: int) -> str:
    """The mean, and with several seeds their standard deviation."""
    values = [c[name] for c in cells.values() if c.get(name) is not None]
    deviation = f"±{statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return number(mean(cells, name), digits) + deviation


def usual(flops) -> dict[str, int]:
    """The number of calibration examples that most cells of a pair have."""
    counts: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for (pair, _, _, examples), cells in flops.items():
        counts[pair][examples] += len(cells)  # by seed
    return {pair: max(c, key=c.get) for pair, c in counts.items()}


def number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def tables(file: Path) -> str:
    flops, latency = read(file)
    dense = json.loads(file.read_text(encoding="utf-8"))["dense"]
    examples = usual(flops)
    out = []
    evaluated = {
        pair: n for pair, n in examples.items() if not pair.endswith("-val")
    }  # choices were made on the others
    for pair, n in evaluated.items():
        shares = sorted({k[2] for k in flops if k[0] == pair and k[3] == n}, reverse=True)
        recipes = [r for r in _order({k[1] for k in flops if k[0] == pair and k[3] == n})]
        d = dense[pair]
        judged = f" on {d['judged']:,} examples" if "judged" in d else ""
        out += [
            f"### {pair}",
            "",
            f"Dense {d['name']} {d['metric']:.4f}{judged}; {n} calibration examples. Each cell: "
            f"{d['name']} · "
            f"{'squared difference from the dense model' if d['agreement'] is None else 'KL to the dense model · agreement with it'}, means over the seeds (of the metric with the standard deviation); where a cell has fewer of them, how many.",
            "",
            "| recipe | seeds | " + " | ".join(f"{s:g} of the FLOPs" for s in shares) + " |",
            "|---|---|" + "---|" * len(shares),
        ]
        for recipe in recipes:
            row, seeds = [], max(len(flops.get((pair, recipe, share, n), {})) for share in shares)
            for share in shares:
                cells = flops.get((pair, recipe, share, n), {})
                parts = [
                    spread(cells, "metric", 4),
                    number(mean(cells, "divergence"), 4),
                    number(mean(cells, "agreement"), 3),
                ]
                fewer = f" ({len(cells)})" if 0 < len(cells) < seeds else ""
                row.append(" · ".join(p for p in parts if p) + fewer)
            out.append(f"| `{recipe}` | {seeds} | " + " | ".join(row) + " |")
        out.append("")
    out += ratios(
        flops, {pair: n for pair, n in evaluated.items() if not pair.endswith("-more")}
    )  # those are another's model
    out += noise(json.loads(file.read_text(encoding="utf-8")).get("intervals", {}), evaluated)
    for pair in examples.keys() - evaluated.keys():
        out += worth(flops, pair, examples[pair], dense[pair])
    out += samples(flops)
    if (
        abs(dense.get("minilm-rotten", {}).get("metric", 0.0) - AUTHORS_DENSE) < 1e-4
    ):  # another checkpoint cannot be compared
        out += authors(flops)
    out += costs(flops, examples)
    if latency:
        out += [
            "### At equal measured latency (ONNX Runtime on a CPU, one thread)",
            "",
            "Whole sweeps: the counts come from a latency table, the ratio is measured on the "
            "finished models. Divergence and agreement are of the engines' outputs.",
            "",
            "| pair | target | recipe | measured, 95 % | metric | divergence | agreement |",
            "|---|---|---|---|---|---|---|",
        ]
        known = _order({k[1] for k in latency})
        for (pair, recipe, target, _), cells in sorted(
            latency.items(), key=lambda i: (i[0][0], -i[0][2], known.index(i[0][1]))
        ):
            c = next(iter(cells.values()))
            measured = (
                f"{c['ratio']:.3f}, {c['interval'][0]:.3f} to {c['interval'][1]:.3f}"
                if "ratio" in c
                else c.get("note", "")
            )
            figures = (
                number(mean(cells, name), digits)
                for name, digits in (("metric", 4), ("divergence", 4), ("agreement", 3))
            )
            out.append(f"| {pair} | {target:g} | `{recipe}` | {measured} | {' | '.join(figures)} |")
        out.append("")
    return "\n".join(out)


def ratios(flops, examples) -> list[str]:
    """Geometric means over the pairs of rfx's divergence against the others', by share."""
    shares = sorted({k[2] for k in flops}, reverse=True)
    out = [
        "### Divergence of `rfx` against the others', geometric mean over the pairs and seeds",
        "",
        "In brackets of how many pairs and seeds.",
        "",
        "| against | " + " | ".join(f"{s:g}" for s in shares) + " |",
        "|---|" + "---|" * len(shares),
    ]
    losses = [
        "### Metric of `rfx` less the others', points",
        "",
        "The least over the pairs, each a mean over the seeds that both have (with the standard "
        "deviation over them).",
        "",
        "| against | " + " | ".join(f"{s:g}" for s in shares) + " |",
        "|---|" + "---|" * len(shares),
    ]
    for other in ("kwon-reference", "kwon", "kprune"):
        row, least = [], []
        for share in shares:
            logs, gains = [], []
            for pair, n in examples.items():
                ours, theirs = (
                    flops.get((pair, "rfx", share, n), {}),
                    flops.get((pair, other, share, n), {}),
                )
                both = ours.keys() & theirs.keys()
                logs += [
                    math.log(ours[seed]["divergence"] / theirs[seed]["divergence"]) for seed in both
                ]
                if both:
                    apart = [100 * (ours[seed]["metric"] - theirs[seed]["metric"]) for seed in both]
                    gains.append(
                        (
                            statistics.mean(apart),
                            statistics.stdev(apart) if len(apart) > 1 else None,
                            pair,
                        )
                    )
            row.append(f"1/{math.exp(-sum(logs) / len(logs)):.1f} ({len(logs)})" if logs else "")
            worst, deviation, pair = min(gains, key=lambda g: g[0]) if gains else (0.0, None, "")
            least.append(
                f"{worst:+.2f}{'' if deviation is None else f'±{deviation:.2f}'} ({pair})"
                if gains
                else ""
            )
        out.append(f"| `{other}` | " + " | ".join(row) + " |")
        losses.append(f"| `{other}` | " + " | ".join(least) + " |")
    return [*out, "", *losses, ""]


def noise(intervals, examples) -> list[str]:
    """What the choice of judged examples leaves open of the metric's differences."""
    rows: dict[tuple[str, str], dict[float, str]] = defaultdict(dict)
    for key, known in intervals.items():
        pair, recipe, share, n = key.split("|")
        if examples.get(pair) == int(n):
            low, high = known["interval"]
            deviation = (
                f"±{statistics.stdev(known['by_seed']):.2f}"
                if len(known["by_seed"]) > 1
                else " (one seed)"
            )
            rows[pair, recipe][float(share)] = (
                f"{known['difference']:+.2f}{deviation} ({low:+.2f} to {high:+.2f})"
            )
    shares = sorted({share for row in rows.values() for share in row}, reverse=True)
    head = [
        "### What the judged examples leave open of it",
        "",
        "Metric of `rfx` less the others', points: mean and standard deviation over the seeds, "
        "and in brackets what 95 % of other draws of as "
        "many examples give (paired bootstrap of that mean). Of the cells whose predictions were "
        "kept.",
        "",
        "| pair | against | " + " | ".join(f"{s:g} of the FLOPs" for s in shares) + " |",
        "|---|---|" + "---|" * len(shares),
    ]
    order = _order({recipe for _, recipe in rows})
    places = sorted(rows, key=lambda r: (list(examples).index(r[0]), order.index(r[1])))
    body = [
        f"| {pair} | `{recipe}` | "
        + " | ".join(rows[pair, recipe].get(s, "") for s in shares)
        + " |"
        for pair, recipe in places
    ]
    return [*head, *body, ""] if body else []


def worth(flops, pair: str, n: int, dense) -> list[str]:
    """What each part of the default is worth, on data that takes part in choices."""
    shares = sorted({k[2] for k in flops if k[0] == pair and k[3] == n}, reverse=True)
    there = {k[1] for k in flops if k[0] == pair and k[3] == n}
    out = [
        f"### What each part is worth: {pair}",
        "",
        f"One part exchanged, the rest as it is; {n:,} calibration examples, one sample. Each "
        "cell: divergence from the dense model · agreement with it · "
        f"{dense['name']} (dense {dense['metric']:.4f}). A tenth of the divergence is within what "
        "another sample moves.",
        "",
        "| recipe | what is exchanged | "
        + " | ".join(f"{s:g} of the FLOPs" for s in shares)
        + " |",
        "|---|---|" + "---|" * len(shares),
    ]
    for recipe in [r for r in PARTS if r in there]:
        row = []
        for share in shares:
            cells = flops.get((pair, recipe, share, n), {})
            row.append(
                " · ".join(
                    p
                    for p in (
                        number(mean(cells, "divergence"), 4),
                        number(mean(cells, "agreement"), 3),
                        number(mean(cells, "metric"), 4),
                    )
                    if p
                )
            )
        out.append(f"| `{recipe}` | {PARTS[recipe]} | " + " | ".join(row) + " |")
    return [*out, ""]


def samples(flops) -> list[str]:
    """What fewer calibration examples cost, where a pair was run with several numbers of them."""
    rows = []
    for pair in dict.fromkeys(k[0] for k in flops):
        sizes = sorted({k[3] for k in flops if k[0] == pair})
        for recipe in _order({k[1] for k in flops if k[0] == pair}) if len(sizes) > 1 else ():
            for share in sorted({k[2] for k in flops if k[:2] == (pair, recipe)}, reverse=True):
                found = {
                    n: flops[pair, recipe, share, n]
                    for n in sizes
                    if (pair, recipe, share, n) in flops
                }
                if len(found) > 1:
                    cells = [
                        f"{n:,}: {number(mean(c, 'divergence'), 4)} ({len(c)})"
                        for n, c in found.items()
                    ]
                    rows.append(
                        f"| {pair} | `{recipe}` | {share:g} | {' · '.join(cells)} | "
                        f"{_kept_advantage(flops, pair, share, found) if recipe == 'rfx' else ''} |"
                    )
    head = [
        "### Fewer calibration examples",
        "",
        "Divergence by their number; in brackets how many seeds. The advantage is what `rfx` "
        "takes off the divergence that "
        "`kwon` has with the most examples, as a share of what it takes off with as many.",
        "",
        "| pair | recipe | FLOPs | divergence | advantage kept by the fewest |",
        "|---|---|---|---|---|",
    ]
    return [*head, *rows, ""] if rows else []


def _kept_advantage(flops, pair: str, share: float, found) -> str:
    fewest, most = min(found), max(found)
    theirs = flops.get((pair, "kwon", share, most))
    if not theirs:
        return ""
    seeds = (
        found[fewest].keys() & found[most].keys() & theirs.keys()
    )  # of these alone, so that like is compared with like
    few, many, kwon = (
        mean({s: c[s] for s in seeds}, "divergence") for c in (found[fewest], found[most], theirs)
    )
    return f"{(kwon - few) / (kwon - many):.0%}" if seeds and kwon > many else ""


def authors(flops) -> list[str]:
    """`kwon-reference` beside what the authors' code gave on the same checkpoint."""
    rows = []
    for share, given in AUTHORS.items():
        for seed, (accuracy, kl) in enumerate(given):
            ours = {
                stage: flops.get(("minilm-rotten", name, share, 1024), {}).get(seed)
                for stage, name in (
                    ("search", "kwon-reference-search"),
                    ("rearranged", "kwon-reference-rearranged"),
                    ("tuned", "kwon-reference"),
                )
            }
            if ours["tuned"] is None:
                continue
            known = AUTHORS_STAGES.get(share) if seed == 0 else None
            stages = []
            for i, stage in enumerate(("search", "rearranged")):
                found = number(ours[stage]["metric"], 3) if ours[stage] else ""
                stages.append(f"{found} / {known[i]:.3f}" if known and found else found)
            tuned = ours["tuned"]
            rows.append(
                f"| {share:g} | {seed} | {' | '.join(stages)} | {tuned['metric']:.3f} / "
                f"{accuracy:.3f} | {tuned['divergence']:.4f} / {kl:.4f} |"
            )
    head = [
        "### `kwon-reference` beside the authors' code",
        "",
        "minilm-rotten, 1,024 examples of the same draw. Each cell: ours / theirs.",
        "",
        "| FLOPs | seed | accuracy, search | rearranged | tuned | KL, tuned |",
        "|---|---|---|---|---|---|",
    ]
    return [*head, *rows, ""] if rows else []


def costs(flops, examples) -> list[str]:
    """Seconds of the stages and peak memory, means over all cells that computed the stage."""
    out = [
        "### Seconds and memory",
        "",
        "Means over the shares and seeds; stages taken from the store are left out. On cores that "
        "other work had a share "
        "of: to compare the stages with one another, not for the clock (see cost-minilm.json). "
        "Memory: the least and the most over the cells that "
        "computed all of their stages (and recorded it), most in a process that had run others "
        "before; cost-minilm.json is one run alone.",
        "",
        "| pair | recipe | seconds by stage | peak memory beyond what was resident before, MB |",
        "|---|---|---|---|",
    ]
    rows = len(out)
    for pair, n in examples.items():
        for recipe in _order({k[1] for k in flops if k[0] == pair and k[3] == n}):
            cells = [
                c
                for k, by_seed in flops.items()
                if k[0] == pair and k[1] == recipe and k[3] == n
                for c in by_seed.values()
            ]
            stages: dict[str, list[float]] = defaultdict(list)
            for cell in cells:
                for name, (seconds, cached) in cell["stages"].items():
                    if seconds is not None and not cached:
                        stages[name].append(seconds)
            peaks = [
                c["beyond_mb"]
                for c in cells
                if "beyond_mb" in c and not any(cached for _, cached in c["stages"].values())
            ]
            text = ", ".join(f"{name} {sum(v) / len(v):.1f}" for name, v in stages.items())
            if text:
                out.append(
                    f"| {pair} | `{recipe}` | {text} | "
                    f"{' to '.join(dict.fromkeys(f'{p:,.0f}' for p in (min(peaks), max(peaks)))) if peaks else ''} |"
                )
    return [*out, ""] if len(out) > rows else []


def _order(recipes) -> list[str]:
    known = [
        "rfx",
        "kprune",
        "kwon",
        "kwon-reference",
        "kwon-reference-rearranged",
        "kwon-reference-search",
        "magnitude",
        "random",
    ]
    return [r for r in known if r in recipes] + sorted(r for r in recipes if r not in known)


def plot(file: Path) -> str:
    """Divergence against the share of the FLOPs kept, one panel a pair."""
    import io

    import matplotlib
    from matplotlib.figure import Figure

    flops, _ = read(file)
    examples = {pair: n for pair, n in usual(flops).items() if not pair.endswith(("-val", "-more"))}
    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.hashsalt": "accuracy",
        }
    ):
        figure = Figure(figsize=(3.1 * len(examples), 3.3), layout="constrained")
        axes = figure.subplots(1, len(examples), squeeze=False)[0]
        for ax, (pair, n) in zip(axes, examples.items()):
            for recipe in _order({k[1] for k in flops if k[0] == pair and k[3] == n}):
                if recipe not in COLOURS:
                    continue
                points = sorted(
                    (k[2], mean(c, "divergence"))
                    for k, c in flops.items()
                    if k[0] == pair and k[1] == recipe and k[3] == n
                )
                ax.plot(
                    [x for x, _ in points],
                    [y for _, y in points],
                    ".-",
                    color=COLOURS[recipe],
                    label=recipe,
                    linewidth=1.4,
                )
            ax.set(title=pair, xlabel="FLOPs kept", yscale="log")
        axes[0].set_ylabel("divergence from the dense model")
        figure.legend(
            *axes[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=len(COLOURS),
            frameon=False,
            fontsize=8,
        )
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()[out.getvalue().index("<svg") :]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy_report", description=__doc__.split("\n")[0]
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--plot", type=Path, required=True)
    args = parser.parse_args()
    note = f"<!-- made by python -m benchmarks.accuracy_report from {args.results.name} -->\n\n"
    atomic_write_text(args.tables, note + tables(args.results))
    atomic_write_text(args.plot, plot(args.results) + "\n")


if __name__ == "__main__":
    main()
