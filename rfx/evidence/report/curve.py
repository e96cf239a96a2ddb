"""A sweep in words, as a table for spreadsheets, and as one page with its plot; each from a `Curve`
alone."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from rfx.core.store import atomic_write_text
from rfx.evidence.curve import Curve, recommend
from rfx.evidence.report.plots import figure_svg, new_figure

if TYPE_CHECKING:
    from rich.table import Table

FILES = ("sweep.json", "sweep.csv", "sweep.html", "sweep.svg", "recipe.yaml")
_POINT, _LINE, _BEST = "#2563eb", "#9aa4b2", "#15803d"
_TEMPLATE = Path(__file__).with_name("curve.html.j2")


def table_csv(curve: Curve) -> str:
    """One line a point; empty cells where nothing was measured."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            "target",
            "seed",
            "latency_ratio",
            "latency_low",
            "latency_high",
            "speedup",
            "metric",
            "dense",
            "pruned",
            "drop_points",
            "drop_low",
            "drop_high",
            "agreement",
            "divergence",
            "flops_ratio",
            "params_ratio",
            "note",
        ]
    )
    for p in curve.points:
        lat, acc = p.latency, p.accuracy
        row = [p.target, p.seed]
        row += [lat.ratio, *lat.interval, lat.speedup] if lat else [""] * 4
        row += (
            [
                acc.metric,
                acc.dense,
                acc.pruned,
                acc.drop,
                *acc.interval,
                acc.agreement,
                acc.divergence,
            ]
            if acc
            else [""] * 8
        )
        row += [p.flops_ratio, p.params_ratio, p.note]
        writer.writerow(
            ["" if v is None else f"{v:.6g}" if isinstance(v, float) else v for v in row]
        )
    return out.getvalue()


def points(value: float) -> str:
    """Points of a metric with two digits, never -0.00."""
    text = f"{value:.2f}"
    return text.removeprefix("-") if float(text) == 0 else text


def cost_name(curve: Curve) -> str:
    if any(p.latency for p in curve.points):
        return "measured latency, share of dense"
    return (
        "predicted latency, share of dense"
        if curve.budget == "latency"
        else "FLOPs, share of dense"
    )


def plot(curve: Curve) -> str:
    """The Pareto plot as SVG: cost against the metric, intervals of both, the recommended point
    marked."""
    best, _ = recommend(curve.rows, curve.max_drop)
    with new_figure(7.2, 4.2) as (figure, ax):
        some = [p for p in curve.points if p.accuracy is not None and p.cost is not None]
        for p in some:
            low, high = p.accuracy.interval
            y, dense = 100 * p.accuracy.pruned, 100 * p.accuracy.dense
            spread = (
                [[p.cost - p.latency.interval[0]], [p.latency.interval[1] - p.cost]]
                if p.latency
                else None
            )
            # The interval is of the drop: it is drawn around the dense model's value, which is
            # taken as it is.
            ax.errorbar(
                [p.cost],
                [y],
                xerr=spread and [[max(0, v[0])] for v in spread],
                yerr=[[max(0, y - (dense - high))], [max(0, dense - low - y)]],
                fmt="o",
                color=_POINT,
                ecolor="#bfd0f5",
                elinewidth=2,
                markersize=5,
                zorder=3,
            )
        rows = [r for r in curve.rows if not r.dominated]
        if some:
            dense = 100 * some[0].accuracy.dense
            front = sorted([(r.cost, dense - r.drop) for r in rows] + [(1.0, dense)])
            ax.plot(
                [x for x, _ in front], [y for _, y in front], color=_LINE, linewidth=1, zorder=2
            )
            ax.axhline(dense, color="#6b7280", linestyle="--", linewidth=1)
            ax.annotate(
                "dense",
                (1.0, dense),
                textcoords="offset points",
                xytext=(0, 5),
                ha="right",
                fontsize=9,
            )
            if curve.max_drop is not None:
                ax.axhline(dense - curve.max_drop, color="#b91c1c", linestyle="--", linewidth=1)
                ax.annotate(
                    f"max drop {curve.max_drop:g}",
                    (1.0, dense - curve.max_drop),
                    textcoords="offset points",
                    xytext=(0, -12),
                    ha="right",
                    fontsize=9,
                    color="#b91c1c",
                )
            if best is not None:
                ax.scatter(
                    [best.cost],
                    [dense - best.drop],
                    s=170,
                    facecolors="none",
                    edgecolors=_BEST,
                    linewidths=2,
                    zorder=4,
                )
            ax.set_ylabel(f"{some[0].accuracy.metric}, points")
        ax.set_xlabel(cost_name(curve))
        ax.set_title("what each target keeps" + ("; circled: recommended" if best else ""))
        return figure_svg(figure, "curve")


def page(curve: Curve) -> str:
    """One page that needs nothing else."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    best, why = recommend(curve.rows, curve.max_drop)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        c=curve,
        rows=curve.rows,
        points=points,
        best=best,
        why=why,
        svg=plot(curve),
        cost=cost_name(curve),
        timed=any(p.latency for p in curve.points),
        missed=[p for p in curve.points if p.accuracy is None],
    )


def recipe_yaml(curve: Curve) -> str | None:
    """The recipe that makes the recommended model, for `rfx prune-export recipe.yaml`; None where
    none is recommended."""
    import yaml

    best, _ = recommend(curve.rows, curve.max_drop)
    if best is None:
        return None
    recipe = {**curve.recipe, "budget": {curve.budget: best.target}}
    return f"# The recommended point of a sweep, {curve.tool}.\n" + yaml.safe_dump(
        recipe, sort_keys=False, allow_unicode=True
    )


def write_curve(curve: Curve, folder: Path) -> None:
    """sweep.json, sweep.csv, sweep.svg and sweep.html; and recipe.yaml of the recommended point,
    where there is one."""
    recipe = recipe_yaml(curve)
    if recipe is not None:
        atomic_write_text(folder / "recipe.yaml", recipe)
    atomic_write_text(folder / "sweep.json", curve.model_dump_json(indent=1) + "\n")
    atomic_write_text(folder / "sweep.csv", table_csv(curve))
    atomic_write_text(folder / "sweep.svg", plot(curve) + "\n")
    atomic_write_text(folder / "sweep.html", page(curve))


def rows_table(curve: Curve) -> Table:
    """For the terminal: one row a target."""
    from rich.table import Table

    best, _ = recommend(curve.rows, curve.max_drop)
    table = Table()
    table.add_column(curve.budget, justify="right")
    for name in (cost_name(curve).split(",")[0], "drop, points", "95 % at most", "over seeds", ""):
        table.add_column(name, justify="right")
    for r in curve.rows:
        spread = f"{r.lowest:+.2f} to {r.highest:+.2f}" if r.seeds > 1 else ""
        mark = (
            "recommended"
            if best and r.target == best.target
            else "dominated"
            if r.dominated
            else ""
        )
        table.add_row(
            f"{r.target:g}", f"{r.cost:.3f}", points(r.drop), points(r.bound), spread, mark
        )
    return table
