"""Plots of the report as inline SVG, drawn by matplotlib without a display."""

from __future__ import annotations

import io
import re
from collections import Counter
from contextlib import contextmanager

from rfx.evidence.records import Evidence
from rfx.evidence.report.facts import layer_rows, verdict

_KEPT, _DENSE, _LIMIT = "#2563eb", "#d4d8df", "#b91c1c"
_OUTCOME = {"pass": "#15803d", "fail": "#b91c1c", "inconclusive": "#b45309", "no limit": "#5b6472"}
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
}


def _figure(width: float, height: float, columns: int):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _svg(figure, salt: str) -> str:
    """The figure as an `<svg>` element; `salt` keeps the ids of several figures on one page
    apart."""
    import matplotlib

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}):
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{salt}-", text)


@contextmanager
def new_figure(width: float, height: float):
    """(figure, axes) in the reports' style, inches."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(width, height, 1)
        yield figure, axes[0]


def figure_svg(figure, salt: str) -> str:
    """The figure as an `<svg>` element with ids of its own."""
    return _svg(figure, salt)


def _styled(draw):
    """Style must hold while a figure is drawn as well as while it is saved."""

    def drawn(evidence: Evidence):
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            figure = draw(evidence)
        return None if figure is None else _svg(figure, draw.__name__)

    return drawn


@_styled
def kept_units(evidence: Evidence):
    """Kept heads and filters of each layer, over the dense model's."""
    rows = layer_rows(evidence)
    figure, axes = _figure(9.6, 2.8, 2)
    layers = [r[0] for r in rows]
    for ax, title, kept, dense in ((axes[0], "heads kept", 1, 2), (axes[1], "filters kept", 3, 4)):
        ax.bar(layers, [r[dense] for r in rows], color=_DENSE, width=0.8)
        bars = ax.bar(layers, [r[kept] for r in rows], color=_KEPT, width=0.8)
        ax.bar_label(bars, fontsize=8 if len(rows) <= 12 else 6, padding=1)
        ax.set(title=title, xlabel="layer", ylim=(0, max(r[dense] for r in rows) * 1.12))
        ax.set_xticks(layers if len(layers) <= 12 else layers[::2])
    return figure


@_styled
def table_curves(evidence: Evidence):
    """Cost by kept count as measured, with the counts that were chosen; None under a FLOPs
    budget."""
    if evidence.table is None:
        return None
    figure, axes = _figure(9.6, 3.0, 2)
    chosen = {
        "mha": Counter(r[1] for r in layer_rows(evidence)),
        "ffn": Counter(r[3] for r in layer_rows(evidence)),
    }
    for ax, kind, unit in ((axes[0], "mha", "heads"), (axes[1], "ffn", "filters")):
        curve = evidence.table.costs_ms[kind]
        counts = sorted(curve)
        ax.plot(
            counts,
            [curve[n] for n in counts],
            ".-",
            color="#6b7280",
            markersize=3,
            linewidth=1,
            label="measured",
        )
        points = [(n, times) for n, times in chosen[kind].items() if n in curve]
        ax.scatter(
            [n for n, _ in points],
            [curve[n] for n, _ in points],
            s=[30 + 22 * (t - 1) for _, t in points],
            color=_KEPT,
            zorder=3,
            label="chosen (larger: several layers)",
        )
        ax.set(
            title=f"one {'attention' if kind == 'mha' else 'FFN'} sublayer",
            xlabel=f"{unit} kept",
            ylabel="ms",
        )
        ax.set_ylim(bottom=0)
    axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    return figure


@_styled
def intervals(evidence: Evidence):
    """Latency ratio and accuracy drop with their intervals and limits; None where neither was
    measured."""
    gates = {g.name: g for g in evidence.gates}
    parts = []
    if evidence.latency is not None and "latency" in gates:
        parts.append(
            (
                gates["latency"],
                evidence.latency.ratio,
                evidence.latency.interval,
                "latency, share of dense",
            )
        )
    if evidence.accuracy is not None and "accuracy" in gates:
        title = f"drop of {evidence.accuracy.metric}, points"
        parts.append((gates["accuracy"], evidence.accuracy.drop, evidence.accuracy.interval, title))
    parts = [p for p in parts if p[1] == p[1]]  # a NaN has no place on an axis
    if not parts:
        return None
    figure, axes = _figure(9.6, 1.7, len(parts))
    for ax, (gate, value, (low, high), title) in zip(axes, parts, strict=True):
        colour = _OUTCOME[verdict(gate)]
        ax.plot([low, high], [0, 0], color=colour, linewidth=5, alpha=0.4, solid_capstyle="butt")
        ax.plot([value], [0], "o", color=colour, markersize=8)
        ax.annotate(
            f"{value:.3f}",
            (value, 0),
            textcoords="offset points",
            xytext=(0, 10),
            ha="center",
            fontsize=9,
        )
        marks = [(0.0, "dense")] if gate.name == "accuracy" else [(1.0, "dense")]
        if gate.limit is not None and gate.limit != marks[0][0]:
            marks.append((gate.limit, f"limit {gate.limit:g}"))
        for x, text in marks:
            ax.axvline(
                x,
                color=_LIMIT if text.startswith("limit") else "#6b7280",
                linestyle="--",
                linewidth=1,
            )
            ax.annotate(
                text,
                (x, -0.85),
                fontsize=8,
                ha="center",
                annotation_clip=False,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )
        xs = [low, high, value, *(x for x, _ in marks)]
        pad = 0.12 * (max(xs) - min(xs) or 1.0)
        ax.set(title=title, yticks=[], ylim=(-1.1, 1.1), xlim=(min(xs) - pad, max(xs) + pad))
        ax.spines["left"].set_visible(False)
    return figure
