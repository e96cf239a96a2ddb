"""The commands that start from a recipe: prune-export, plan, sweep, sites, profile, shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rfx.cli.options import (
    AllowInconclusive,
    Asked,
    Json,
    Out,
    Quiet,
    Shown,
    Sign,
    TableFile,
    with_options,
)
from rfx.cli.paths import given_path
from rfx.cli.session import (
    close,
    end,
    print_json,
    recipe_of,
    session,
    table_of,
    targets_of,
)
from rfx.core.errors import ExitCode
from rfx.recipe.sections import Budget
from rfx.recipe.spec import Recipe

MODEL = frozenset({"model", "target", "workload"})
BUDGET = frozenset(f"budget.{key}" for key in Budget.model_fields)
# Which options each command takes.
PRUNE_EXPORT = Shown()
PLAN = Shown(without=frozenset({"limits", "engine"}))
# A sweep recommends by accuracy and agreement: the targets themselves say how fast.
SWEEP = Shown(
    without=frozenset({"engine", "limits.min_speedup", "limits.min_vocabulary_agreement"}),
    lists=BUDGET,
)
SITES = Shown(frozenset({"model"}))
PROFILE = Shown(MODEL, also=frozenset({"seed"}))
# A board measures with as many threads as it is told there.
SHAPES = Shown(
    MODEL, also=frozenset({"seed", "max_length"}), without=frozenset({"workload.threads"})
)


def add_jobs(app: typer.Typer, model: type[Recipe]) -> None:
    """Add the commands, with options for the fields of `model`."""
    for name, command, shown in (
        ("prune-export", prune_export_command, PRUNE_EXPORT),
        ("plan", plan_command, PLAN),
        ("sweep", sweep_command, SWEEP),
        ("sites", sites_command, SITES),
        ("profile", profile_command, PROFILE),
        ("shapes", shapes_command, SHAPES),
    ):
        app.command(name)(with_options(command, model, shown))


def prune_export_command(
    asked: Asked,
    table: TableFile = None,
    out: Out = Path("rfx-out"),
    sign: Sign = None,
    json_: Json = False,
    quiet: Quiet = False,
    allow_inconclusive: AllowInconclusive = False,
) -> None:
    """Prune a fine-tuned model to a budget, export it, and prove the result."""
    with session(json_, quiet, "prune-export") as progress:
        recipe = recipe_of(asked)
        from rfx.pipeline.prune_export import prune_export

        evidence = prune_export(recipe, out, progress=progress, table=table_of(table), sign=sign)
        progress.stop()
        close(evidence, json_, quiet, allow_inconclusive, out)


def plan_command(
    asked: Asked,
    table: TableFile = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score and search only: the plan and its predicted latency. No model is written."""
    with session(json_, quiet, "plan") as progress:
        recipe = recipe_of(asked)
        from rfx.cli.results import print_plan
        from rfx.pipeline.plan import plan

        planned = plan(recipe, progress=progress, table=table_of(table))
        progress.stop()
        if json_:
            print_json(
                {
                    "plan": planned.plan.to_json(),
                    "search": planned.search.model_dump(mode="json"),
                    "predicted_ratio": planned.predicted_ratio,
                    "predicted_bytes": planned.predicted_bytes,
                    "warnings": progress.warned,
                }
            )
        else:
            print_plan(planned)


def sweep_command(
    asked: Asked,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds", min=1, help="Samples of calibration examples to repeat every target with."
        ),
    ] = 1,
    table: TableFile = None,
    out: Out = Path("rfx-sweep"),
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Accuracy and measured latency at many targets: the curve, and which point to take for a
    --max-drop.

    Exits with 1 where no point keeps the --max-drop and still answers as the dense model does (see
    --min-agreement), also without a --max-drop where none still does, with 3 where no target can
    be reached. An earlier sweep in --out is replaced; its points are kept in the cache.
    """
    with session(json_, quiet, "sweep") as progress:
        by, targets = targets_of(asked)
        recipe = recipe_of(asked.without(*BUDGET))
        from rfx.cli.results import print_curve
        from rfx.evidence.curve import none_passes, recommend
        from rfx.pipeline.sweep import sweep

        curve = sweep(
            recipe, targets, out, by=by, seeds=seeds, progress=progress, table=table_of(table)
        )
        progress.stop()
        if json_:
            print_json(curve.model_dump(mode="json"))
        elif not quiet:
            print_curve(curve, out)
        if none_passes(curve):
            why = recommend(curve.rows, curve.max_drop)[1]
            end(ExitCode.GATE_FAILED, f"sweep: {why}", json_, quiet)


def sites_command(asked: Asked, json_: Json = False, quiet: Quiet = False) -> None:
    """Show what can be pruned in a model, and what is left alone and why. Nothing is pruned.

    What is shown was proved on the model: with units masked, and with them removed, it computes the
    same.
    """
    with session(json_, quiet, "sites") as progress:
        recipe = recipe_of(asked, named=True)
        from rfx.cli.results import print_sites
        from rfx.pipeline.sites import sites

        seen = sites(recipe, progress=progress)
        progress.stop()
        if json_:
            print_json(seen.to_json())
        else:
            print_sites(seen)


def profile_command(
    asked: Asked,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write the table to this JSON file.", parser=given_path),
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure the latency table of a model's sublayers on a runtime; cached, and shareable as one
    JSON file."""
    with session(json_, quiet, "profile") as progress:
        recipe = recipe_of(asked, named=True)
        from rfx.cli.results import print_table
        from rfx.pipeline.profile import profile
        from rfx.pipeline.table import require_table_place, write_table

        if out:
            require_table_place(out)
        measured = profile(recipe, progress=progress)
        progress.stop()
        if out:
            write_table(measured, out)
        if json_:
            print_json(measured.to_json())
        else:
            print_table(measured, out)


def shapes_command(
    asked: Asked,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The file to carry to the board.", parser=given_path)
    ] = Path("shapes.json"),
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pack a model's shapes for a board, which measures its latency table with NumPy and its
    runtime alone."""
    with session(json_, quiet, "shapes") as progress:
        recipe = recipe_of(asked, named=True)
        from rfx.pipeline.shapes import shapes

        count = shapes(recipe, out, progress=progress)
        progress.stop()
        command = f"python -m rfx.board profile {out.name} --out table.json"
        size = out.stat().st_size
        if json_:
            print_json({"written": str(out), "graphs": count, "bytes": size, "next": command})
        else:
            from rfx.cli.results import say

            say(f"Written to {out}: {count} graphs, {size / 1024:.0f} KiB.")
            say(f"Next: copy it to the board, and run there: {command}")
