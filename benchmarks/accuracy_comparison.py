"""Tables of benchmarks.accuracy that compare the recipes: pair by pair, `rfx` against the others,
what the judged examples leave open, and at equal latency."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from benchmarks.accuracy_grid import Grid, mean, number, of_pair, ordered, spread


def recipes_of(pair: str, n: int, flops: Grid, dense: Mapping[str, Any]) -> list[str]:
    """What every recipe keeps of one pair, at every share of the FLOPs.

    Args:
        n: the number of calibration examples.
        dense: what `judge` says of the pair's dense model, with the metric's name.
    """
    recipes, shares = of_pair(flops, pair, n)
    judged = f" on {dense['judged']:,} examples" if "judged" in dense else ""
    apart = (
        "squared difference from the dense model"
        if dense["agreement"] is None
        else "KL to the dense model · agreement with it"
    )
    out = [
        f"### {pair}",
        "",
        f"Dense {dense['name']} {dense['metric']:.4f}{judged}; {n} calibration examples. Each "
        f"cell: {dense['name']} · {apart}, means over the seeds (of the metric with the standard "
        "deviation); where a cell has fewer of them, how many.",
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
    return [*out, ""]


def at_latency(latency: Grid) -> list[str]:
    """What every recipe keeps at equal measured latency."""
    if not latency:
        return []
    out = [
        "### At equal measured latency (ONNX Runtime on a CPU, one thread)",
        "",
        "Whole sweeps: the counts come from a latency table, the ratio is measured on the "
        "finished models. Divergence and agreement are of the engines' outputs.",
        "",
        "| pair | target | recipe | measured, 95 % | metric | divergence | agreement |",
        "|---|---|---|---|---|---|---|",
    ]
    known = ordered(k[1] for k in latency)
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
    return [*out, ""]


def ratios(flops: Grid, examples: Mapping[str, int]) -> list[str]:
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


def noise(intervals: Mapping[str, dict[str, Any]], examples: Mapping[str, int]) -> list[str]:
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
    order = ordered(recipe for _, recipe in rows)
    places = sorted(rows, key=lambda r: (list(examples).index(r[0]), order.index(r[1])))
    body = [
        f"| {pair} | `{recipe}` | "
        + " | ".join(rows[pair, recipe].get(s, "") for s in shares)
        + " |"
        for pair, recipe in places
    ]
    return [*head, *body, ""] if body else []
