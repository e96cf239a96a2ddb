"""A sweep in words, as a table for spreadsheets, and as one page with its plot; each from a `Curve`
alone."""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rfx.core.files import atomic_write_text
from rfx.core.text import in_json, one_line
from rfx.evidence.curve import Curve, Row, recommend
from rfx.evidence.report.curve_plot import cost_name, plot, rival_name
from rfx.evidence.report.escape import xml
from rfx.evidence.report.html import INSTALL, Page, fill
from rfx.evidence.report.rival import sweep_rival_text
from rfx.evidence.report.write import not_written
from rfx.evidence.words import SIZE, change, target_text

if TYPE_CHECKING:
    from rich.table import Table

FILES = ("sweep.json", "sweep.csv", "sweep.html", "sweep.svg", "recipe.yaml")


def table_csv(curve: Curve) -> str:
    """One line a point; empty cells where nothing was measured. The last line is the dense model
    quantized alone, without a target, where there is one."""
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
            "bytes",
            "dominated_by",
            "note",
        ]
    )
    behind = {r.target: r.dominated_by for r in curve.rows}
    lines = []
    for p in curve.points:
        lat, acc = p.latency, p.accuracy
        row: list[object] = [int(p.target) if curve.budget == SIZE else p.target, p.seed]
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
        by = behind.get(p.target, "") if acc else ""
        lines.append([*row, p.flops_ratio, p.params_ratio, p.bytes, by, p.note])
    for row in [*lines, *_rival_line(curve)]:
        writer.writerow(
            ["" if v is None else f"{v:.6g}" if isinstance(v, float) else v for v in row]
        )
    return out.getvalue()


def _rival_line(curve: Curve) -> list[list[object]]:
    """The cells of the rival, in the order of a point's."""
    rival = curve.rival
    if rival is None:
        return []
    time = rival.latency
    speed: list[object] = [""] * 4
    if time is not None:
        speed = [time.ratio, *time.interval, 1 / time.ratio if time.ratio else math.inf]
    metric = next((p.accuracy.metric for p in curve.points if p.accuracy is not None), "")
    dense = rival.metric + rival.drop / 100
    losses = [metric, dense, rival.metric, rival.drop, "", "", rival.agreement, rival.divergence]
    note = f"the dense model in {one_line(rival.precision)}, not pruned"
    return [["", "", *speed, *losses, "", "", rival.bytes, "", note]]


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
                r.name,
                f"{r.cost:.3f}",
                change(r.drop),
                change(r.lowest),
                change(r.highest),
                change(r.bound),
                _share(r.agreement),
                _divergence(r.divergence),
                f"{r.seeds} of {r.asked}",
                _mark(r, best),
            ]
            for r in curve.rows
        ]
        + [
            [name, cost, lost, "", "", "", alike, diverges, "", "not pruned"]
            for name, cost, lost, alike, diverges in _rival_cells(curve)
        ],
        rival=sweep_rival_text(curve),
        unlike=any(r.alike == "fail" for r in curve.rows),
        dominated=any(r.dominated for r in curve.rows),
        timed=any(p.latency for p in curve.points),
        target=lambda p: target_text(curve.budget, p.target),
        missed=[p for p in curve.points if p.accuracy is None],
    )


def _mark(row: Row, best: Row | None) -> str:
    by = f"dominated by {one_line(row.dominated_by, 20)}" if row.dominated else ""
    if best is not None and row.target == best.target:
        return f"recommended, {by}" if by else "recommended"
    return "answers otherwise" if row.alike == "fail" else by


def _share(agreement: float | None) -> str:
    """An agreement with the dense model."""
    return "" if agreement is None else f"{agreement:.1%}"


def _divergence(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.2g}"


def _rival_cells(curve: Curve) -> list[tuple[str, str, str, str, str]]:
    """The rival's name, cost, loss, agreement and divergence, where it stands among the points."""
    rival, cost = curve.rival, curve.rival_cost
    if rival is None or cost is None:
        return []
    return [
        (
            rival_name(rival),
            f"{cost:.3f}",
            change(rival.drop),
            _share(rival.agreement),
            _divergence(rival.divergence),
        )
    ]


def recipe_yaml(curve: Curve) -> str | None:
    """The recipe that makes the recommended model, for `rfx prune-export recipe.yaml`; None where
    none is recommended."""
    import yaml

    best, _ = recommend(curve.rows, curve.max_drop)
    if best is None:
        return None
    target = best.name if curve.budget == SIZE else best.target
    recipe = {**curve.recipe, "budget": {curve.budget: target}}
    return f"# The recommended point of a sweep, {xml(one_line(curve.tool))}.\n" + yaml.safe_dump(
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
        "sweep.json": in_json(curve.model_dump_json(indent=1)) + "\n",
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
    """For the terminal: one row a target, and the rival's; no wider than 80 characters."""
    from rich.table import Table

    best, _ = recommend(curve.rows, curve.max_drop)
    table = Table(pad_edge=False)
    table.add_column(curve.budget, justify="right", max_width=8)
    # Where there are several seeds, their spread is of more use, and both are too wide.
    diverges = all(r.asked == 1 for r in curve.rows) and any(
        r.divergence is not None for r in curve.rows
    )
    for name in (
        cost_name(curve).split(",")[0],
        "points",
        "95 % at most",
        "alike",
        "diverges" if diverges else "over seeds",
    ):
        table.add_column(name, justify="right")
    table.add_column("", justify="right", no_wrap=True)  # a mark that is cut says nothing
    for r in curve.rows:
        spread = f"{change(r.lowest)} to {change(r.highest)}" if r.seeds > 1 else ""
        table.add_row(
            r.name,
            f"{r.cost:.3f}",
            change(r.drop),
            change(r.bound),
            _share(r.agreement),
            _divergence(r.divergence) if diverges else spread,
            _mark(r, best).replace(", ", "\n").replace(" by ", "\nby "),
        )
    for name, cost, lost, alike, far in _rival_cells(curve):
        table.add_row(name, cost, lost, "", alike, far if diverges else "", "not pruned")
    return table
