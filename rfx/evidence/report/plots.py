"""The plots of report.html, each a list of SVG elements; an empty list where there is nothing to
show."""

from __future__ import annotations

import math
from collections import Counter

from rfx.core.text import one_line
from rfx.evidence.found import TablePart
from rfx.evidence.records import Evidence, Gate
from rfx.evidence.report.facts import (
    interval_text,
    label_of,
    layer_rows,
    unit_names,
    unit_of,
    value_text,
    verdict,
)
from rfx.evidence.report.svg import COLOURS, new_figure, svg

LONGEST = 60  # characters of a name in a plot
WIDTH = 4.6  # inches: as wide as a phone shows a figure without shrinking its text
_OUTCOME = {"pass": "best", "fail": "limit", "inconclusive": "inconclusive", "not judged": "soft"}


def kept_units(evidence: Evidence) -> list[str]:
    """Kept units of each layer over the dense model's, one plot for each kind of unit."""
    rows, found = layer_rows(evidence), []
    for unit in unit_names(evidence):
        some = [(i, *row[unit]) for i, row in rows if unit in row]
        layers = [i for i, _, _ in some]
        most = max((dense for _, _, dense in some), default=0) or 1
        with new_figure(WIDTH, 2.8) as (figure, ax):
            ax.bar(layers, [d for _, _, d in some], color=COLOURS["dense"], width=0.8)
            bars = ax.bar(layers, [k for _, k, _ in some], color=COLOURS["kept"], width=0.8)
            ax.bar_label(bars, fontsize=9 if len(some) <= 12 else 7, padding=1)
            said_unit = one_line(unit, LONGEST)
            ax.set(title=f"{said_unit} kept", xlabel="layer", ylim=(0, 1.12 * most))
            ax.set_xticks(layers if len(layers) <= 12 else layers[::2])
        said = ", ".join(f"layer {i} {k} of {d}" for i, k, d in some)
        found.append(svg(figure, f"kept-{unit}", f"{said_unit} kept in each layer", f"{said}."))
    return found


def site_losses(evidence: Evidence) -> list[str]:
    """What quantizing each site alone costs."""
    part = evidence.quantization
    if part is None or part.by_site is None:
        return []
    rows = [(one_line(r.site, LONGEST), r.divergence) for r in part.by_site.sites]
    rows += [("all the rest", part.by_site.rest)]
    rows = [(name, max(0.0, value)) for name, value in rows if math.isfinite(value)]
    with new_figure(WIDTH, 0.8 + 0.24 * len(rows)) as (figure, ax):
        places = range(len(rows))
        ax.barh(places, [value for _, value in rows], color=COLOURS["kept"], height=0.7)
        ax.set_yticks(places, [name for name, _ in rows])
        ax.invert_yaxis()
        ax.set(title="divergence from the model in fp32", xlim=(0, None))
    said = ", ".join(f"{name} {value:.2g}" for name, value in rows)
    return [svg(figure, "by-site", "Divergence by quantizing each site alone", f"{said}.")]


def _sites(table: TablePart, curve: str) -> str:
    """Which sublayers a curve is of, where the kind has several."""
    own = [site for site, name in table.curves.items() if name == curve]
    if not own:
        return ""
    return one_line(f" ({own[0]}{f' and {len(own) - 1} more' if own[1:] else ''})", LONGEST)


def table_curves(evidence: Evidence) -> list[str]:
    """Cost by kept count as measured, with the counts that were chosen, one plot for each curve."""
    table = evidence.table
    if table is None:
        return []
    from matplotlib.ticker import MaxNLocator

    found = []
    for name, curve in table.costs_ms.items():
        kind = name.partition("-")[0]
        named, counts = unit_of(kind), sorted(curve)
        chosen = Counter(
            len(site["kept"])
            for site in evidence.plan["sites"]
            if table.curves.get(site["name"], site["kind"]) == name
        )
        unit, label = one_line(named, LONGEST), one_line(label_of(kind), LONGEST)
        marked = [(n, times) for n, times in sorted(chosen.items()) if n in curve]
        with new_figure(WIDTH, 2.9) as (figure, ax):
            ax.plot(
                counts,
                [curve[n] for n in counts],
                ".-",
                color=COLOURS["curve"],
                markersize=3,
                linewidth=1,
                label="measured",
            )
            ax.scatter(
                [n for n, _ in marked],
                [curve[n] for n, _ in marked],
                s=[30 + 22 * (times - 1) for _, times in marked],
                color=COLOURS["kept"],
                zorder=3,
                label="chosen",
            )
            ax.set(
                title=f"one {label} sublayer{_sites(table, name)}",
                xlabel=f"{unit} kept",
                ylabel="ms",
            )
            ax.set_ylim(bottom=0)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.legend(frameon=False, fontsize=9, loc="upper left")
        ends = f"{curve[counts[0]]:.4g} ms with {counts[0]} {unit} to {curve[counts[-1]]:.4g} ms "
        said = ", ".join(f"{n} in {times} layers" for n, times in marked) or "none on the curve"
        found.append(
            svg(
                figure,
                f"curve-{name}",
                f"latency of one {label} sublayer by kept {unit}",
                f"From {ends}with {counts[-1]}. Chosen: {said}.",
            )
        )
    return found


def intervals(evidence: Evidence) -> list[str]:
    """Latency ratio and accuracy drop with their intervals and limits."""
    gates = {g.name: g for g in evidence.gates}
    found = []
    if evidence.latency is not None and "latency" in gates:
        part = evidence.latency
        found.append(
            _interval(gates["latency"], part.ratio, part.interval, "latency, share of dense", 1.0)
        )
    if evidence.accuracy is not None and "accuracy" in gates:
        drop = evidence.accuracy
        title = f"drop of {one_line(drop.metric, LONGEST)}, points"
        found.append(_interval(gates["accuracy"], drop.drop, drop.interval, title, 0.0))
    return [x for x in found if x]


def _interval(
    gate: Gate, value: float, interval: tuple[float, float], title: str, dense: float
) -> str:
    """One value on its axis; empty for what is not finite, which has no place on one."""
    if not all(map(math.isfinite, (value, *interval))):
        return ""
    (low, high), colour = interval, COLOURS[_OUTCOME[verdict(gate)]]
    marks = [(dense, "dense")]
    if gate.limit is not None and gate.limit != dense:
        marks.append((gate.limit, f"limit {gate.limit:g}"))
    xs = [low, high, value, *(x for x, _ in marks)]
    with new_figure(WIDTH, 1.8) as (figure, ax):
        ax.plot([low, high], [0, 0], color=colour, linewidth=5, alpha=0.5, solid_capstyle="butt")
        ax.plot([value], [0], "o", color=colour, markersize=8)
        ax.annotate(
            f"{value_text(gate)}: {verdict(gate)}",
            (value, 0),
            textcoords="offset points",
            xytext=(0, 10),
            ha="left" if value - min(xs) < max(xs) - value else "right",
            fontsize=9,
            bbox={"facecolor": COLOURS["page"], "edgecolor": "none", "pad": 1},
        )
        for x, text in marks:
            mark = COLOURS["limit" if text.startswith("limit") else "curve"]
            ax.axvline(x, ymin=0.2, color=mark, linestyle="--", linewidth=1)
            ax.annotate(text, (x, -0.95), fontsize=9, ha="center", annotation_clip=False)
        pad = 0.15 * (max(xs) - min(xs) or 1.0)
        ax.set(title=title, yticks=[], ylim=(-1.1, 1.1), xlim=(min(xs) - pad, max(xs) + pad))
        ax.spines["left"].set_visible(False)
    limit = "without a limit" if gate.limit is None else f"limit {gate.limit:g}"
    said = (
        f"{value_text(gate)}, interval {interval_text(gate) or 'exact'}, {limit}: {verdict(gate)}."
    )
    return svg(figure, f"interval-{gate.name}", title, said)
