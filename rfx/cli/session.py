"""What every command does before and after its work: the recipe of a command line, progress, errors
and their exit codes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from rfx.cli.options import Asked
from rfx.core.errors import (
    EnvironmentMissingError,
    ExitCode,
    UsageError,
    UserError,
    is_interrupt,
)
from rfx.recipe.sections import Budget
from rfx.recipe.spec import Recipe

if TYPE_CHECKING:
    from rfx.cli.terminal import Terminal
    from rfx.cost.table import LatencyTable
    from rfx.evidence.records import Evidence


INTERRUPTED = (
    "Interrupted. Nothing half-written is left, and the stages that were finished are kept.\n"
    "  next:    run the same command again; it goes on from what is kept"
)


@contextmanager
def session(as_json: bool, quiet: bool, command: str) -> Iterator[Terminal]:
    """Progress for one command; user errors become a message and their exit code, an interrupt
    130.

    Args:
        command: its name, which the next step of an error speaks of.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from rfx.cli.terminal import Terminal

    terminal = Terminal(quiet=quiet)

    def end(error: UserError) -> typer.Exit:
        step = (
            error.next_step
            or f"correct it and run it again; `rfx {command} --help` describes the options"
        )
        if as_json:
            print_error(
                error.what,
                error.exit_code,
                got=error.got,
                allowed=error.allowed,
                next_step=step,
            )
        said = error.render() if error.next_step else f"{error.render()}\n  next:    {step}"
        terminal.error(said)
        return typer.Exit(int(error.exit_code))

    try:
        with terminal:
            yield terminal
    except UserError as error:
        raise end(error) from None
    except ModuleNotFoundError as error:  # a board that has a runtime and little else
        name = (error.name or "").partition(".")[0]
        if not name or name == "rfx":
            raise
        raise end(
            EnvironmentMissingError(
                f"This command needs {name}, which is not installed.",
                next_step="install rfx with its dependencies here (pip install rfx-exporter), or "
                "run this on the server",
            )
        ) from None
    except KeyboardInterrupt:
        _say_interrupted(as_json, terminal)
        raise typer.Exit(int(ExitCode.INTERRUPT)) from None
    except Exception as error:
        if is_interrupt(error):
            _say_interrupted(as_json, terminal)
            raise typer.Exit(int(ExitCode.INTERRUPT)) from None
        # A full disk, a folder without permission: the machine's fault, not a bug of rfx.
        message = _disk_problem(error)
        if message is None:
            raise
        raise end(
            EnvironmentMissingError(
                message,
                next_step="free space or permissions there, then run again; what was measured is "
                "kept",
            )
        ) from None


def _say_interrupted(as_json: bool, terminal: Terminal) -> None:
    if as_json:
        print_error("Interrupted.", ExitCode.INTERRUPT)
    terminal.error(INTERRUPTED)


def _disk_problem(error: BaseException) -> str | None:
    """What the file system refused, or None where the error is of another kind. A write has no file
    name to give, and libraries written in other languages say it in words of their own."""
    import errno

    refusals = (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EROFS,
        errno.EIO,
        errno.EACCES,
        errno.EPERM,
    )
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in refusals:
            return os.strerror(seen.errno) + (
                f": {seen.filename}" if seen.filename is not None else ""
            )
        for words in (
            "No space left on device",
            "File too large",
            "Disk quota exceeded",
            "Read-only file system",
        ):
            if words in str(seen):
                return words
        seen = seen.__cause__
    return None


def print_json(data: Any) -> None:
    sys.stdout.write(json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def print_error(what: str, code: ExitCode, **parts: Any) -> None:
    """An error as the one JSON object of `--json`."""
    said = {"what": what, **{k: None if v is None else str(v) for k, v in parts.items()}}
    print_json({"error": said, "exit_code": int(code)})


def show_error(what: str, next_step: str | None = None) -> None:
    """An error on stderr, outside any command."""
    from rfx.cli.terminal import Terminal

    Terminal(quiet=True).error(what + (f"\n  next:    {next_step}" if next_step else ""))


def close(
    evidence: Evidence, as_json: bool, quiet: bool, allow_inconclusive: bool, out: Path | None
) -> NoReturn:
    """Print evidence, tell GitHub Actions, and end with the exit code of its gates."""
    from rfx.cli.results import print_lines
    from rfx.evidence.gates import exit_code
    from rfx.evidence.report.terminal import summary

    if as_json:
        print_json(evidence.model_dump(mode="json"))
    elif not quiet:
        print_lines(summary(evidence, out))
    publish(evidence)
    raise typer.Exit(int(exit_code(evidence, allow_inconclusive)))


def recipe_of(asked: Asked) -> Recipe:
    """The recipe of the command line: a file, one that comes with rfx, or a model, with the options
    on top.

    Raises:
        UsageError: it is not valid, or an option cannot be read.
    """
    from rfx.recipe.read import bundled_recipes, make_recipe, read_recipe

    changes, origin = asked.changes()
    source = asked.source or changes.get("model")
    if source is None:
        base = read_recipe("quickstart", model=asked.model)
    elif source in bundled_recipes() or source.endswith((".yaml", ".yml")):
        base = read_recipe(source, model=asked.model)
    else:
        base = make_recipe(
            {"name": Path(source).name, "model": source},
            source,
            "the command line",
            model=asked.model,
        )
    return base.changed(changes, origin, "the command line")


SWEPT = "0.8,0.7,0.6,0.5,0.4"  # targets of a sweep that names none


def shares_of(asked: Asked) -> tuple[str, list[float]]:
    """Which budget a sweep goes over, and its targets, from comma separated numbers."""
    texts = {key: asked[f"budget.{key}"] for key in Budget.model_fields}
    given = {key: text for key, text in texts.items() if text is not None}
    if len(given) > 1:
        raise UsageError(
            "A sweep goes over one budget.",
            got=" and ".join(f"--{key}" for key in given),
            allowed="one of them",
            next_step="leave all but one out",
        )
    by, text = next(iter(given.items()), ("latency", SWEPT))
    try:
        return by, [float(t) for t in text.split(",") if t.strip()]
    except ValueError:
        raise UsageError(
            "The targets of a sweep are not numbers.",
            got=text,
            allowed=f"comma separated shares, e.g. {SWEPT}",
            next_step=f"correct --{by}",
        ) from None


def table_of(path: Path | None) -> LatencyTable | None:
    """The latency table of `--table`."""
    from rfx.pipeline.table import read_table

    return read_table(path) if path else None


def publish(evidence: Evidence) -> None:
    """Tell GitHub Actions: the step summary where $GITHUB_STEP_SUMMARY names a file, `::error`
    lines on stderr where GITHUB_ACTIONS=true."""
    from rfx.evidence.report.facts import interval_text, limit_text, value_text
    from rfx.evidence.report.write import render

    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if path:
        try:
            with Path(path).open("a", encoding="utf-8") as stream:
                stream.write(render(evidence, "markdown") + "\n")
        except OSError as error:
            sys.stderr.write(f"warning: the step summary cannot be written: {error}\n")
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for g in evidence.gates:
            if g.outcome != "pass":
                level = "error" if g.outcome == "fail" else "warning"
                text = f"{value_text(g)} {interval_text(g)} {limit_text(g)} {g.detail}".strip()
                # Workflow commands end at a line break, which they write as %0A.
                text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
                sys.stderr.write(f"::{level} title=rfx gate {g.name}: {g.outcome}::{text}\n")
