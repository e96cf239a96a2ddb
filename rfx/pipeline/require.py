"""What a run must be given, and where its result may go: asked before any work."""

from __future__ import annotations

from pathlib import Path

from rfx.core.errors import UsageError
from rfx.core.store import require_place
from rfx.evidence.read import read_evidence
from rfx.evidence.report.curve import FILES as CURVE_FILES
from rfx.evidence.report.write import files as report_files
from rfx.recipe.spec import Recipe

# Engine files with their facts: those of today, and as version 0.1 called them.
_ENGINES = (
    "model.onnx.json",
    *(
        f"model{suffix}{facts}"
        for suffix in (".engine", ".rtx.engine", ".plan", ".rtx.plan")
        for facts in ("", ".json")
    ),
)


def require_report_folder(folder: Path) -> None:
    """Reports alone go where nothing else is: never over a model or a stranger's files."""
    require_place(folder)
    strange = (
        [p.name for p in folder.iterdir() if p.name not in report_files()]
        if folder.is_dir()
        else []
    )
    page = folder / "README.md"
    if (
        page.is_file()
        and "library_name: rfx" not in page.read_text(encoding="utf-8", errors="replace")[:1000]
    ):
        strange.append(page.name)  # a page of the user's own
    if strange or (
        folder.is_dir() and any(folder.iterdir()) and not (folder / "evidence.json").is_file()
    ):
        raise UsageError(
            "The folder for the new reports holds other things.",
            got=f"{folder}: {', '.join(sorted(strange)[:5]) or 'reports'}",
            allowed="a new or empty folder, or one that holds reports of rfx alone",
            next_step="give another --out",
        )


def check_names(recipe: Recipe) -> None:
    """Metric, column roles, the parts of the method and whether they go together: all that is known
    before any work."""
    from rfx.methods.build import check
    from rfx.tasks.data import ROLES
    from rfx.tasks.find import task_class

    metrics = task_class(recipe.task).metrics if recipe.task is not None else None
    if metrics is not None and recipe.metric is not None and recipe.metric not in metrics:
        raise UsageError(
            f"{recipe.task} has no such metric.",
            got=recipe.metric,
            allowed=", ".join(metrics),
            next_step="give another --metric",
        )
    check(recipe.method)
    strange = set(recipe.data.columns) - set(ROLES)
    if strange:
        raise UsageError(
            "There is no such column role.",
            got=", ".join(sorted(strange)),
            allowed=", ".join(ROLES),
            next_step="--column ROLE=NAME, e.g. --column text=review",
        )


def require_model(recipe: Recipe) -> None:
    if recipe.model is None:
        raise UsageError(
            "There is no model.",
            got=f"the recipe {recipe.name!r} names none",
            allowed="a folder or a hub name",
            next_step="add --model path/to/model",
        )


def require_budget(recipe: Recipe) -> None:
    if recipe.budget.latency is None and recipe.budget.flops is None:
        raise UsageError(
            "There is no budget.",
            got="neither a latency nor a FLOPs target",
            allowed="a share between 0 and 1",
            next_step="add --latency 0.7 (a share of the dense model's latency) or --flops 0.6",
        )


def require_size(
    option: str,
    value: int | None,
    least: int,
    why: str,
    *,
    lower: str = "",
    positions: int | None = None,
) -> None:
    """Raises UsageError for a size below what it must hold (`lower`: the options that ask for
    that), or for more tokens than the model has positions (None: not known)."""
    if value is not None and value < least:
        raise UsageError(
            f"{option} is smaller than {why}.",
            got=f"{value} below {least}",
            allowed=f"{least} or more",
            next_step=f"raise {option}{', or lower ' * bool(lower)}{lower}",
        )
    if value is not None and positions is not None and value > positions:
        raise UsageError(
            f"{option} is longer than the model has positions.",
            got=f"{value} above {positions}",
            allowed=f"{positions} or less",
            next_step=f"lower {option}",
        )


def require_ours(out: Path) -> None:
    """An existing folder is replaced only if rfx made it; a place that cannot be written is named
    before the work."""
    require_place(out)
    _refuse(out, _strangers(out), "rfx", "an earlier output of rfx")


def require_sweep_folder(out: Path) -> None:
    """The same for the output of a sweep: without a sweep.json nothing there is a sweep's, whatever
    it is called."""
    require_place(out)
    earlier = (out / "sweep.json").is_file()
    strange = (
        sorted(p.name for p in out.iterdir() if not earlier or p.name not in CURVE_FILES)
        if out.is_dir()
        else []
    )
    _refuse(out, strange, "a sweep", "an earlier sweep")


def _strangers(folder: Path) -> list[str]:
    """What lies in a folder, however deep, beside an output of rfx (its files, its reports, engines
    built from it): all of it where there is no evidence."""
    if not folder.is_dir():
        return []
    try:
        ours = {Path(name) for name in read_evidence(folder).files}
    except UsageError:
        return sorted(p.name for p in folder.iterdir())
    served = {
        name.parent for name in ours if name.name == "config.pbtxt"
    }  # the engine that `rfx build` lets Triton serve
    ours |= {
        repository / "1" / file for repository in served for file in ("model.onnx", "model.plan")
    }
    ours |= {Path(name) for name in (*report_files(), *_ENGINES)}
    return sorted(
        str(p.relative_to(folder))
        for p in folder.rglob("*")
        if not p.is_dir() and p.relative_to(folder) not in ours
    )


def _refuse(out: Path, strange: list[str], by: str, earlier: str) -> None:
    if strange:
        raise UsageError(
            f"The output folder holds something that {by} did not write.",
            got=f"{out}: {', '.join(sorted(strange)[:5])}",
            allowed=f"a new or empty folder, or {earlier}",
            next_step="give another --out, or move them away",
        )
