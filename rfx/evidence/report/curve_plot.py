"""The Pareto plot of a sweep: cost against the metric, with the intervals of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rfx.core.text import one_line
from rfx.evidence.curve import Curve, recommend
from rfx.evidence.precision import SweepRival
from rfx.evidence.records import AccuracyPart, LatencyPart
from rfx.evidence.report.svg import COLOURS, new_figure, standalone_svg, svg
from rfx.evidence.words import points

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def cost_name(curve: Curve) -> str:
    """What the costs of a sweep's points are."""
    if curve.by_size:
        return "size of the file, share of dense"
    if any(p.latency for p in curve.points):
        return "measured latency, share of dense"
    if curve.budget == "latency":
        return "predicted latency, share of dense"
    return f"{'FLOPs' if curve.budget == 'flops' else one_line(curve.budget, 60)}, share of dense"


def plot(curve: Curve, *, standalone: bool = False) -> str:
    """The plot as an SVG element for a page, or as a file of its own; the recommended point is
    circled."""
    best, _ = recommend(curve.rows, curve.max_drop)
    some = [
        (cost, p, p.accuracy)
        for p in curve.points
        if p.accuracy is not None and (cost := curve.cost_of(p)) is not None
    ]
    rows, rival = curve.rows, curve.rival
    behind = {r.target for r in rows if r.dominated}
    with new_figure(6.0, 4.4) as (figure, ax):
        for cost, point, accuracy in some:
            latency = None if curve.by_size else point.latency
            _draw(ax, cost, latency, accuracy, dominated=point.target in behind)
        if some:
            _frame(ax, curve, 100 * some[0][2].dense)
            ax.set_ylabel(f"{one_line(some[0][2].metric, 60)}, points")
        ax.set_xlabel(cost_name(curve))
        ax.set_title("what each target keeps" + ("; circled: recommended" if best else ""))
    said = (
        "; ".join(
            f"at {r.cost:.3f} {points(r.drop)}" + (", dominated" if r.dominated else "")
            for r in rows
        )
        or "no point"
    )
    if rival is not None and curve.rival_cost is not None:
        said += f"; {rival_name(rival)} at {curve.rival_cost:.3f} {points(rival.drop)}"
    chosen = f" Recommended: {curve.budget} {best.name}." if best else ""
    made = standalone_svg if standalone else svg
    return made(figure, "curve", f"metric by {cost_name(curve)}", f"{said}.{chosen}")


def rival_name(rival: SweepRival) -> str:
    """What the dense model quantized alone is called where there is little room."""
    return f"dense in {one_line(rival.precision, 20)}"


def _draw(
    ax: Axes,
    cost: float,
    latency: LatencyPart | None,
    accuracy: AccuracyPart,
    *,
    dominated: bool,
) -> None:
    """A point with its intervals; one that is dominated is hollow. The cost has an interval where
    it is a latency. The interval of the metric is
    the drop's, drawn around the dense model's value, which is taken as it is."""
    low, high = accuracy.interval
    y, dense = 100 * accuracy.pruned, 100 * accuracy.dense
    spread = None
    if latency is not None:
        left, right = latency.interval
        spread = [[max(0.0, cost - left)], [max(0.0, right - cost)]]
    ax.errorbar(
        [cost],
        [y],
        xerr=spread,
        yerr=[[max(0.0, y - (dense - high))], [max(0.0, dense - low - y)]],
        fmt="o",
        color=COLOURS["kept"],
        markerfacecolor=COLOURS["page" if dominated else "kept"],
        ecolor=COLOURS["spread"],
        elinewidth=2,
        markersize=5,
        zorder=3,
    )


def _frame(ax: Axes, curve: Curve, dense: float) -> None:
    """The dense model, the limit, the rival, the front of what is not dominated, and a circle
    around the recommended point."""
    front = [(cost, dense - drop) for cost, drop in curve.front]
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
    _name_symbols(ax, curve, dense)


def _name_symbols(ax: Axes, curve: Curve, dense: float) -> None:
    """The rival, and beneath the axes what each symbol is, where there is more than one."""
    kept, page = COLOURS["kept"], COLOURS["page"]
    symbols = [("pruned", "o", kept, kept)]
    if any(r.dominated for r in curve.rows):
        symbols.append(("pruned, dominated", "o", kept, page))
    if curve.rival is not None and curve.rival_cost is not None:
        colour = COLOURS["rival"]
        symbols.append((rival_name(curve.rival), "D", colour, colour))
        place = [curve.rival_cost], [dense - curve.rival.drop]
        ax.plot(*place, "D", color=colour, markersize=8, zorder=5)
    if len(symbols) == 1:
        return
    for name, marker, edge, inside in symbols:
        ax.plot([], [], marker, color=edge, markerfacecolor=inside, markersize=6, label=name)
    ax.legend(frameon=False, fontsize=9, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16))
