"""What every command does before and after its work: the recipe of a command line, progress, errors
and their exit codes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from rfx.cli.options import Asked
from rfx.cli.terminal import Terminal
from rfx.core import kept
from rfx.core.errors import ExitCode, UsageError, is_interrupt
from rfx.core.faults import explained
from rfx.core.home import at_home
from rfx.core.limits import require_limits
from rfx.core.recognised import RECIPE, recognised
from rfx.core.streams import messages, results, results_only
from rfx.core.text import in_json, printable
from rfx.core.values import short
from rfx.recipe.fields import settings
from rfx.recipe.mistakes import COMMAND_LINE, as_a_share
from rfx.recipe.sections import Budget
from rfx.recipe.spec import Recipe

if TYPE_CHECKING:
    from rfx.cost.table import LatencyTable
    from rfx.evidence.records import Evidence


def interrupted() -> tuple[str, str]:
    """What there is to say after an interrupt, and the next step."""
    if not kept.anything():
        return (
            "Interrupted. Nothing half-written is left, and nothing was finished that could be "
            "kept.",
            "run the same command again; it begins anew",
        )
    places = " and ".join(map(str, kept.places()))
    return (
        "Interrupted. Nothing half-written is left, and the stages that were finished are kept in "
        f"{places}.",
        "run the same command again; it goes on from what is kept",
    )


_typed: dict[str, str] = {}  # by the key of the recipe, the options of this command
_said_json = False  # in this command: --json gives one object, whatever happens afterwards


@contextmanager
def session(as_json: bool, quiet: bool, command: str) -> Iterator[Terminal]:
    """Progress for one command, and stdout for its result alone; user errors become a message and
    their exit code, an interrupt 130.

    Args:
        command: its name, which the next step of an error speaks of.
    """
    begin_output()
    with results_only():
        terminal = Terminal(quiet=quiet)
        try:
            with terminal:
                require_limits()
                yield terminal
            results().flush()  # here, so that a full disk is said
        except (Exception, KeyboardInterrupt) as error:
            ended = _ended(error, as_json, terminal, command)
            if ended is error:
                raise
            raise ended from None


def _ended(error: BaseException, as_json: bool, terminal: Terminal, command: str) -> BaseException:
    """What a command ends with after an exception has been said; the exception itself where it is
    a bug of rfx, or no error at all."""
    if isinstance(error, typer.Exit):
        return error
    if is_interrupt(error):
        what, step = interrupted()
        if as_json:
            print_error(ExitCode.INTERRUPT, what, next_step=step)
        terminal.error(in_lines(what, next_step=step))
        return typer.Exit(int(ExitCode.INTERRUPT))
    known = explained(error)
    if known is None:
        return error
    parts = known.said()
    parts["next_step"] = (
        parts["next_step"]
        or f"correct it and run it again; `rfx {command} --help` describes the options"
    )
    said = {name: None if text is None else _as_typed(text) for name, text in parts.items()}
    if as_json:
        print_error(known.exit_code, **said)
    terminal.error(in_lines(**said))
    return typer.Exit(int(known.exit_code))


def _as_typed(text: str) -> str:
    """A message with the options that were given in place of the recipe's keys for them."""
    for key, option in _typed.items():
        named = re.escape(key)
        text = re.sub(rf" \(recipe: {named}\)", "", text)
        text = re.sub(rf"(?<![\w./]){named}(?: \({option}\))?(?![\w]|\.\w)", option, text)
    return text


def begin_output() -> None:
    """Nothing of this command is printed or kept yet."""
    global _said_json, _typed
    _said_json, _typed = False, {}
    kept.forget()


def print_json(data: Any) -> None:
    global _said_json
    # A terminal or a CI service obeys what JSON itself leaves as it is.
    text = in_json(json.dumps(data, indent=1, ensure_ascii=False))
    _said_json = True
    results().write(f"{text}\n")


def print_error(
    code: ExitCode,
    what: str | None,
    got: str | None = None,
    allowed: str | None = None,
    next_step: str | None = None,
) -> None:
    """An error as the one JSON object of `--json`, of the same keys for every error; nothing where
    there is one already."""
    if _said_json:
        return
    parts = {"what": what, "got": got, "allowed": allowed, "next_step": next_step}
    said = {name: None if text is None else printable(text) for name, text in parts.items()}
    print_json({"error": said, "exit_code": int(code)})
    with suppress(OSError):
        results().flush()


def in_lines(
    what: str | None,
    got: str | None = None,
    allowed: str | None = None,
    next_step: str | None = None,
) -> str:
    """An error as stderr has it."""
    lines = [what or ""]
    if got is not None:
        lines.append(f"  got:     {got}")
    if allowed is not None:
        lines.append(f"  allowed: {allowed}")
    if next_step:
        lines.append(f"  next:    {next_step}")
    return "\n".join(lines)


def close(
    evidence: Evidence, as_json: bool, quiet: bool, allow_inconclusive: bool, out: Path | None
) -> NoReturn:
    """Print evidence, tell GitHub Actions, and end with the exit code of its gates."""
    from rfx.cli.results import print_lines
    from rfx.evidence.gates import exit_code
    from rfx.evidence.report.terminal import summary, verdict_line

    publish(evidence)
    if as_json:
        print_json(evidence.model_dump(mode="json"))
    elif not quiet:
        print_lines(summary(evidence, out))
    end(exit_code(evidence, allow_inconclusive), verdict_line(evidence), as_json, quiet)


def end(code: ExitCode, verdict: str, as_json: bool, quiet: bool) -> NoReturn:
    """End a command that has judged. Where no report says why the exit code is not 0, or a program
    reads it, the verdict is one line on stderr: a step of a CI must not fail without a word."""
    if code != ExitCode.PASS and (as_json or quiet):
        messages().write(f"{printable(verdict)}\n")
    raise typer.Exit(int(code))


def recipe_of(asked: Asked, *, named: bool = False) -> Recipe:
    """The recipe of the command line: a file, one that comes with rfx, or a model, with the options
    on top.

    Args:
        named: a recipe or a model must be named; otherwise the quickstart is taken without one.

    Raises:
        UsageError: it is not valid, or an option cannot be read.
    """
    from rfx.recipe.read import bundled_recipes, make_recipe, read_recipe

    global _typed
    changes, origin = asked.changes()
    options = {s.key: str(s.option) for s in settings(asked.model)}
    # A file may be called like a key: then the key is left as it is.
    given = [str(value) for value in (asked.source, *asked.values.values())]
    _typed = {
        key: options[key]
        for key in asked.values
        if "." in key and not any(key in value for value in given)
    }
    source = changes.get("model") if asked.source is None else asked.source
    if source is not None and not source.strip():
        raise UsageError(
            "The name of the model is empty.",
            got=repr(source),
            allowed="a folder, a hub name or a recipe",
            next_step="give it; in a script, see whether the variable that holds it is set",
        )
    if source is None and named:
        raise UsageError(
            "There is no model.",
            got="nothing",
            allowed="a folder, a hub name or a recipe; quickstart is the one that comes with rfx",
            next_step="name it first, e.g. path/to/model",
        )
    if source is None:
        base = read_recipe("quickstart", model=asked.model)
    elif source in bundled_recipes() or _is_recipe_file(source):
        base = read_recipe(source, model=asked.model)
    else:
        _one_model(asked.source, changes.get("model"))
        base = make_recipe(
            {"name": Path(source).name, "model": source},
            source,
            COMMAND_LINE,
            model=asked.model,
        )
    return base.changed(changes, origin, COMMAND_LINE)


def _is_recipe_file(source: str) -> bool:
    """Whether an argument names a recipe: a YAML file by its name, and a JSON file, which is YAML
    too, by the keys in it."""
    if source.lower().endswith((".yaml", ".yml")):
        return True
    if not source.lower().endswith(".json"):
        return False
    found = recognised(at_home(source))
    return found is not None and found.kind == RECIPE


def _one_model(source: str | None, option: str | None) -> None:
    """Raises UsageError where the argument is a model and --model names another one: either could
    be the one that is meant."""
    if source is None or option is None or source == option:
        return
    raise UsageError(
        "Two models are named.",
        got=f"{short(source, 200, bare=True)} as the argument, and "
        f"{short(option, 200, bare=True)} in --model",
        allowed="one model; --model goes on top of a recipe only",
        next_step="leave one of them out",
    )


SIZE = "size"  # the budget whose targets are no shares
SWEPT = "0.8,0.7,0.6,0.5,0.4"  # targets of a sweep that names none


def targets_of(asked: Asked) -> tuple[str, list[float | str]]:
    """Which budget a sweep goes over, and its targets, from comma separated numbers or sizes."""
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
    targets = [t.strip() for t in text.split(",") if t.strip()]
    if by == SIZE:  # what is no size is said where the sweep looks at them
        return by, list(targets)
    return by, [_share(t, by) for t in targets]


def _share(text: str, by: str) -> float:
    """One target of a sweep; its mistakes are said as those of a single target are.

    Raises:
        UsageError: it is no number.
    """
    try:
        return float(text)
    except ValueError:
        hint = as_a_share(text, next(s for s in settings(Recipe) if s.key == f"budget.{by}"))
        raise UsageError(
            "A target of a sweep is not a number.",
            got=f"{short(text, bare=True)} in --{by}",
            allowed=f"comma separated shares, e.g. {SWEPT}",
            next_step=f"write {hint} in place of it" if hint else f"correct --{by}",
        ) from None


def table_of(path: Path | None) -> LatencyTable | None:
    """The latency table of `--table`."""
    from rfx.pipeline.table import read_table

    return read_table(path) if path else None


def publish(evidence: Evidence) -> None:
    """Tell GitHub Actions: the step summary where $GITHUB_STEP_SUMMARY names a file, `::error`
    lines on stderr where GITHUB_ACTIONS=true."""
    from rfx.evidence.report.github import commands
    from rfx.evidence.report.write import render

    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if path:
        try:
            with Path(path).open("a", encoding="utf-8") as stream:
                stream.write(render(evidence, "markdown") + "\n")
        except OSError as error:
            say = printable(f"warning: the step summary cannot be written: {error}")
            messages().write(f"{say}\n")
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in commands(evidence):
            messages().write(line + "\n")
