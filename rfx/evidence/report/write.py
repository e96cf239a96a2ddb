"""Reports, each rendered from an `Evidence` alone by a registered writer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

from rfx.core.errors import EnvironmentMissingError
from rfx.core.files import atomic_write_text
from rfx.core.registry import find, names
from rfx.evidence.records import Evidence
from rfx.evidence.report.base import Report


def writers() -> dict[str, Report]:
    """Every registered writer by its name."""
    return {name: find("report", name)() for name in names("report")}


def files() -> tuple[str, ...]:
    """The names of all files that `write_reports` writes where every package is installed."""
    return tuple(writer.file for writer in writers().values())


def render(evidence: Evidence, form: str) -> str:
    """The text of one report: "json", "html", "junit", "markdown", "card", or one of a plug-in.

    Raises:
        UsageError: there is no report of this name.
        EnvironmentMissingError: a package that it needs is not installed.
    """
    writer: Report = find("report", form)()
    missing = writer.missing()
    if missing:
        raise EnvironmentMissingError(
            f"{writer.file} needs a package that is not installed.",
            got=f"no {', no '.join(missing)}",
            next_step=writer.install,
        )
    return writer.render(evidence)


def write_reports(
    evidence: Evidence, folder: str | Path, warn: Callable[[str], None] = warnings.warn
) -> list[Path]:
    """Write every registered report into `folder` and return the files that were written.

    Args:
        warn: told of each report that is left out because a package is missing.
    """
    written = []
    for writer in writers().values():
        missing = writer.missing()
        if missing:
            warn(not_written(writer.file, missing, writer.install))
            continue
        file = Path(folder) / writer.file
        atomic_write_text(file, writer.render(evidence))
        written.append(file)
    return written


def not_written(file: str, missing: tuple[str, ...], install: str) -> str:
    """Why a report was left out, and what brings it."""
    are = "is" if len(missing) == 1 else "are"
    how = f": {install}" if install else "."
    return f"{file} was not written, because {' and '.join(missing)} {are} not installed{how}"
