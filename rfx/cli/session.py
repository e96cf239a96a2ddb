"""What every command does before and after its work: the recipe of a command line, progress, errors
and their exit codes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from rfx.core.errors import ExitCode, UsageError, UserError, is_interrupt


@contextmanager
def session(as_json: bool, quiet: bool) -> Iterator[Any]:
    """Progress for one command; user errors become a message and their exit code, an interrupt
    130."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from rfx.cli.terminal import Terminal

    terminal = Terminal(quiet=quiet)
    try:
        with terminal:
            yield terminal
    except UserError as error:
        if as_json:
            print_error(
                error.what,
                error.exit_code,
                got=error.got,
                allowed=error.allowed,
                next_step=error.next_step,
            )
        terminal.error(error.render())
        raise typer.Exit(int(error.exit_code)) from None
    except ModuleNotFoundError as error:  # a board that has a runtime and little else
        name = (error.name or "").partition(".")[0]
        if not name or name == "rfx":
            raise
        message = f"This command needs {name}, which is not installed."
        if as_json:
            print_error(message, ExitCode.ENVIRONMENT)
        terminal.error(
            message
            + "\n  next:    install rfx with its dependencies here (pip install rfx-exporter), or "
            "run this on the server"
        )
        raise typer.Exit(int(ExitCode.ENVIRONMENT)) from None
    except Exception as error:
        if is_interrupt(error):
            _say_interrupted(as_json, terminal)
            raise typer.Exit(int(ExitCode.INTERRUPT)) from None
        # A full disk, a folder without permission: the machine's fault, not a bug of rfx.
        message = _disk_problem(error)
        if message is None:
            raise
        if as_json:
            print_error(message, ExitCode.ENVIRONMENT)
        terminal.error(
            message
            + "\n  next:    free space or permissions there, then run again; what was measured is "
            "kept"
        )
        raise typer.Exit(int(ExitCode.ENVIRONMENT)) from None
    except KeyboardInterrupt:
        _say_interrupted(as_json, terminal)
        raise typer.Exit(int(ExitCode.INTERRUPT)) from None


def _say_interrupted(as_json: bool, terminal: Any) -> None:
    if as_json:
        print_error("Interrupted.", ExitCode.INTERRUPT)
    terminal.error(
        "Interrupted. Nothing half-written is left; what was finished is kept for the next run."
    )


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
    seen = error
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


def recipe_of(
    source: str | None,
    *,
    model=None,
    task=None,
    train=None,
    eval_=None,
    target=None,
    latency=None,
    flops=None,
    max_drop=None,
    min_speedup=None,
    metric=None,
    method=None,
    batch=None,
    sequence=None,
    threads=None,
    precision=None,
    max_length=None,
    examples=None,
    seed=None,
    column=None,
    labels=None,
    max_batch=None,
    max_sequence=None,
    capability=None,
):
    """The recipe of the command line: a file, a bundled one or a model, with the options on top."""
    from rfx.recipe.presets import PRESETS
    from rfx.recipe.read import bundled_recipes, make_recipe, read_recipe

    def is_recipe(s: str) -> bool:
        return s in bundled_recipes() or s.endswith((".yaml", ".yml"))

    source = source or model
    if source is None:
        base = read_recipe("quickstart")
    elif is_recipe(source):
        base = read_recipe(source)
    else:
        base = make_recipe(
            {"name": Path(source).name, "model": source}, source, "the command line (SOURCE)"
        )
        task = task or task_of(source)
    if method is not None and method not in PRESETS:
        raise UsageError(
            "There is no method of this name.",
            got=method,
            allowed=", ".join(PRESETS),
            next_step="give another --method",
        )
    columns = {}
    for pair in column or []:
        role, _, name = pair.partition("=")
        if not role or not name:
            raise UsageError(
                "--column is not understood.",
                got=pair,
                allowed="ROLE=NAME, e.g. --column text=review",
                next_step="correct it",
            )
        columns[f"data.columns.{role}"] = name
    values = {
        "model": model,
        "task": task,
        "data.train": train,
        "data.eval": eval_,
        "target": target,
        "budget": {k: v for k, v in (("latency", latency), ("flops", flops)) if v is not None}
        or None,
        "limits.max_drop": max_drop,
        "limits.min_speedup": min_speedup,
        "metric": metric,
        "method": method,
        "workload.batch": batch,
        "workload.sequence": sequence,
        "workload.threads": threads,
        "workload.precision": precision,
        "max_length": max_length,
        "calibration.examples": examples,
        "engine.max_batch": max_batch,
        "engine.max_sequence": max_sequence,
        "engine.compute_capabilities": capability or None,
        "calibration.seed": seed,
        "seed": seed,
        "data.labels": [n.strip() for n in labels.split(",")] if labels else None,
        **columns,
    }
    return base.changed(
        {k: v for k, v in values.items() if v is not None},
        "the command line",
        source or "the command line",
    )


SWEPT = "0.8,0.7,0.6,0.5,0.4"  # targets of a sweep that names none


def shares_of(latency: str | None, flops: str | None) -> tuple[str, list[float]]:
    """Which budget a sweep goes over, and its targets, from comma separated numbers."""
    if latency is not None and flops is not None:
        raise UsageError(
            "A sweep goes over latency or over FLOPs.",
            got="--latency and --flops",
            allowed="one of them",
            next_step="leave one out",
        )
    text = flops if flops is not None else latency if latency is not None else SWEPT
    try:
        return ("flops" if flops is not None else "latency"), [
            float(t) for t in text.split(",") if t.strip()
        ]
    except ValueError:
        raise UsageError(
            "The targets of a sweep are not numbers.",
            got=text,
            allowed=f"comma separated shares, e.g. {SWEPT}",
            next_step=f"correct --{'flops' if flops is not None else 'latency'}",
        ) from None


def table_of(path: Path | None):
    from rfx.cost.table_file import read_table

    return read_table(path) if path else None


def task_of(source: str | None) -> str | None:
    """The task of a local checkpoint, read off its architecture; None where it says nothing."""
    config = Path(source or "") / "config.json"
    if source is None or not config.is_file():
        return None
    try:
        architecture = (
            json.loads(config.read_text(encoding="utf-8")).get("architectures") or [""]
        )[0]
    except (ValueError, AttributeError):
        return None
    endings = {
        "ForSequenceClassification": "text-classification",
        "ForTokenClassification": "token-classification",
        "ForQuestionAnswering": "question-answering",
    }
    return next(
        (task for ending, task in endings.items() if architecture.endswith(ending)),
        "text-classification",
    )


def publish(evidence: Any) -> None:
    """Tell GitHub Actions: the step summary where $GITHUB_STEP_SUMMARY names a file, `::error`
    lines on stderr where GITHUB_ACTIONS=true."""
    from rfx.evidence.report.facts import interval_text, limit_text, value_text
    from rfx.evidence.report.write import render

    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if path:
        try:
            with open(path, "a", encoding="utf-8") as stream:
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
