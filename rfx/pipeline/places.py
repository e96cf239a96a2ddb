"""Where a result may go: never over a stranger's files. Asked before any work."""

from __future__ import annotations

from pathlib import Path

from rfx.core.errors import UsageError
from rfx.core.files import require_place
from rfx.evidence.read import read_evidence
from rfx.evidence.report.curve import FILES as CURVE_FILES
from rfx.evidence.report.write import files as report_files
from rfx.export.triton import PLATFORMS
from rfx.runtimes.find import engine_files

SERVED = tuple(file for _, file in PLATFORMS.values())  # in a Triton repository


def report_folder(folder: Path) -> None:
    """Reports alone go where nothing else is: never over a model or a stranger's files.

    Raises:
        UsageError: the folder holds other things.
    """
    require_place(folder)
    strange = (
        [p.name for p in folder.iterdir() if p.name not in report_files()]
        if folder.is_dir()
        else []
    )
    page = folder / "README.md"
    if page.is_file() and not _is_card(page):
        strange.append(page.name)  # a page of the user's own
    full = folder.is_dir() and any(folder.iterdir())
    if strange or (full and not (folder / "evidence.json").is_file()):
        raise UsageError(
            "The folder for the new reports holds other things.",
            got=f"{folder}: {', '.join(sorted(strange)[:5]) or 'reports'}",
            allowed="a new or empty folder, or one that holds reports of rfx alone",
            next_step="give another --out",
        )


def _is_card(page: Path) -> bool:
    head = page.read_text(encoding="utf-8", errors="replace")[:1000]
    return "library_name: rfx" in head


def output_folder(out: Path) -> None:
    """An existing folder is replaced only if rfx made it; a place that cannot be written is named
    before the work.

    Raises:
        UsageError: the folder holds something else, or cannot be written.
    """
    require_place(out)
    _refuse(out, _strangers(out), "rfx", "an earlier output of rfx")


def sweep_folder(out: Path) -> None:
    """The same for the output of a sweep: without a sweep.json nothing there is a sweep's, whatever
    it is called."""
    require_place(out)
    earlier = (out / "sweep.json").is_file()
    inside = sorted(p.name for p in out.iterdir()) if out.is_dir() else []
    strange = [name for name in inside if not earlier or name not in CURVE_FILES]
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
    # The engine that `rfx build` lets Triton serve.
    repositories = {name.parent for name in ours if name.name == "config.pbtxt"}
    ours |= {repository / "1" / file for repository in repositories for file in SERVED}
    ours |= {Path(name) for name in (*report_files(), *_beside())}
    inside = (p.relative_to(folder) for p in folder.rglob("*") if not p.is_dir())
    return sorted(str(p) for p in inside if p not in ours)


def _beside() -> tuple[str, ...]:
    """What `rfx build` puts beside a model, by today's names and those of earlier versions."""
    engines = engine_files()
    return (*engines, *(f"{name}.json" for name in (*engines, "model.onnx")))


def _refuse(out: Path, strange: list[str], by: str, earlier: str) -> None:
    if strange:
        raise UsageError(
            f"The output folder holds something that {by} did not write.",
            got=f"{out}: {', '.join(sorted(strange)[:5])}",
            allowed=f"a new or empty folder, or {earlier}",
            next_step="give another --out, or move them away",
        )
