"""The Pareto plot of a sweep: cost against the metric, with the intervals of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rfx.evidence.curve import Curve, Point, recommend
from rfx.evidence.records import AccuracyPart
from rfx.evidence.report.svg import COLOURS, new_figure, standalone_svg, svg
from rfx.evidence.words import points

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def cost_name(curve: Curve) -> str:
    """What the costs of a sweep's points are."""
    if any(p.latency for p in curve.points):
        return "measured latency, share of dense"
    if curve.budget == "latency":
        return "predicted latency, share of dense"
    return f"{'FLOPs' if curve.budget == 'flops' else curve.budget}, share of dense"


def plot(curve: Curve, *, standalone: bool = False) -> str:
    """The plot as an SVG element for a page, or as a file of its own; the recommended point is
    circled."""
    best, _ = recommend(curve.rows, curve.max_drop)
    some = [
        (cost, p, p.accuracy)
        for p in curve.points
        if p.accuracy is not None and (cost := p.cost) is not None
    ]
    with new_figure(6.0, 4.2) as (figure, ax):
        for cost, point, accuracy in some:
            _draw(ax, cost, point, accuracy)
        if some:
            _frame(ax, curve, 100 * some[0][2].dense)
            ax.set_ylabel(f"{some[0][2].metric}, points")
        ax.set_xlabel(cost_name(curve))
        ax.set_title("what each target keeps" + ("; circled: recommended" if best else ""))
    said = "; ".join(f"at {r.cost:.3f} {points(r.drop)}" for r in curve.rows) or "no point"
    chosen = f" Recommended: {curve.budget} {best.target:g}." if best else ""
    made = standalone_svg if standalone else svg
    return made(figure, "curve", f"metric by {cost_name(curve)}", f"{said}.{chosen}")


def _draw(ax: Axes, cost: float, point: Point, accuracy: AccuracyPart) -> None:
    """A point with its intervals. That of the metric is the drop's, drawn around the dense model's
    value, which is taken as it is."""
    low, high = accuracy.interval
    y, dense = 100 * accuracy.pruned, 100 * accuracy.dense
    spread = None
    if point.latency is not None:
        left, right = point.latency.interval
        spread = [[max(0.0, cost - left)], [max(0.0, right - cost)]]
    ax.errorbar(
        [cost],
        [y],
        xerr=spread,
        yerr=[[max(0.0, y - (dense - high))], [max(0.0, dense - low - y)]],
        fmt="o",
        color=COLOURS["kept"],
        ecolor=COLOURS["spread"],
        elinewidth=2,
        markersize=5,
        zorder=3,
    )


def _frame(ax: Axes, curve: Curve, dense: float) -> None:
    """The dense model, the limit, the front of the points that are not dominated, and a circle
    around the recommended one."""
    front = sorted([(r.cost, dense - r.drop) for r in curve.rows if not r.dominated])
    front.append((1.0, dense))
    ax.plot([x for x, _ in front], [y for _, y in front], color=COLOURS["curve"], linewidth=1)
    lines = [(dense, "dense", COLOURS["curve"], 5)]
    if curve.max_drop is not None:
        limit = dense - curve.max_drop
        lines.append((limit, f"max drop {curve.max_drop:g}", COLOURS["limit"], -12))
    for y, text, colour, shift in lines:
        ax.axhline(y, color=colour, linestyle="--", linewidth=1)
        ax.annotate(
            text,
            (1.0, y),
            textcoords="offset points",
            xytext=(0, shift),
            ha="right",
            fontsize=9,
            color=colour,
        )
    best, _ = recommend(curve.rows, curve.max_drop)
    if best is not None:
        ax.scatter(
            [best.cost],
            [dense - best.drop],
            s=170,
            facecolors="none",
            edgecolors=COLOURS["best"],
            linewidths=2,
            zorder=4,
        )
