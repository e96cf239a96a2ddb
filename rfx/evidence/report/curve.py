"""A sweep in words, as a table for spreadsheets, and as one page with its plot; each from a `Curve`
alone."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rfx.core.files import atomic_write_text
from rfx.evidence.curve import Curve, Row, recommend
from rfx.evidence.report.curve_plot import cost_name, plot
from rfx.evidence.report.html import INSTALL, Page, fill
from rfx.evidence.report.write import not_written
from rfx.evidence.words import change

if TYPE_CHECKING:
    from rich.table import Table

FILES = ("sweep.json", "sweep.csv", "sweep.html", "sweep.svg", "recipe.yaml")


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
        row: list[object] = [p.target, p.seed]
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


def page(curve: Curve) -> str:
    """One page that needs nothing else."""
    best, why = recommend(curve.rows, curve.max_drop)
    targets = [r.target for r in curve.rows]
    return fill(
        "curve.html.j2",
        c=curve,
        name=str(curve.recipe.get("name", "model")),
        method=str((curve.recipe.get("method") or {}).get("name", "")),
        best=best,
        best_row=targets.index(best.target) if best else None,
        why=why,
        svg=plot(curve),
        cost=cost_name(curve),
        rows=[
            [
                f"{r.target:g}",
                f"{r.cost:.3f}",
                change(r.drop),
                change(r.lowest),
                change(r.highest),
                change(r.bound),
                f"{r.seeds} of {r.asked}",
                _mark(r, best),
            ]
            for r in curve.rows
        ],
        dominated=any(r.dominated for r in curve.rows),
        timed=any(p.latency for p in curve.points),
        missed=[p for p in curve.points if p.accuracy is None],
    )


def _mark(row: Row, best: Row | None) -> str:
    if best is not None and row.target == best.target:
        return "recommended"
    return "dominated" if row.dominated else ""


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


def write_curve(
    curve: Curve, folder: Path, warn: Callable[[str], None] = warnings.warn
) -> list[Path]:
    """sweep.json and sweep.csv; sweep.svg and sweep.html; and recipe.yaml of the recommended point,
    where there is one. Returns the files that were written.

    Args:
        warn: told of what is left out because a package is missing.
    """
    texts = {
        "sweep.json": curve.model_dump_json(indent=1) + "\n",
        "sweep.csv": table_csv(curve),
    }
    recipe = recipe_yaml(curve)
    if recipe is not None:
        texts["recipe.yaml"] = recipe
    missing = Page.missing()
    if missing:
        warn(not_written("sweep.html", missing, INSTALL))
    else:
        texts["sweep.svg"] = plot(curve, standalone=True) + "\n"
        texts["sweep.html"] = page(curve)
    for name, text in texts.items():
        atomic_write_text(folder / name, text)
    return [folder / name for name in texts]


def rows_table(curve: Curve) -> Table:
    """For the terminal: one row a target."""
    from rich.table import Table

    best, _ = recommend(curve.rows, curve.max_drop)
    table = Table()
    table.add_column(curve.budget, justify="right")
    for name in (cost_name(curve).split(",")[0], "points", "95 % at most", "over seeds", ""):
        table.add_column(name, justify="right")
    for r in curve.rows:
        spread = f"{change(r.lowest)} to {change(r.highest)}" if r.seeds > 1 else ""
        table.add_row(
            f"{r.target:g}",
            f"{r.cost:.3f}",
            change(r.drop),
            change(r.bound),
            spread,
            _mark(r, best),
        )
    return table
