"""The command line: parse, call, print. It decides nothing.

stdout is the result (`--json`: one object), stderr is log and progress. Exit codes are those of
`rfx.core.errors.ExitCode`.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from rfx.cli.jobs import add_jobs
from rfx.cli.outputs import add_outputs
from rfx.cli.session import begin_output, in_lines, interrupted, print_error
from rfx.cli.terminal import Terminal
from rfx.core.errors import ExitCode, first_line, is_interrupt
from rfx.core.faults import explained
from rfx.core.limits import SILENCE, SIZE
from rfx.core.signals import interrupt_on_end
from rfx.core.streams import let_go, messages, prepare
from rfx.core.text import one_line, printable
from rfx.recipe.spec import Recipe


def build_app(model: type[Recipe] = Recipe) -> typer.Typer:
    """The command line of a recipe: its options are the fields of `model` that have a name there.

    Args:
        model: `Recipe`, or a class with more fields.
    """
    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        help="Prune a fine-tuned Transformer to a latency target on the runtime that serves it, "
        "without training, and export it with the evidence.",
        epilog="Exit codes: 0 pass, 1 a gate failed, 2 usage, 3 target infeasible, 4 environment "
        "missing, 5 unsupported model, 6 internal check failed, 7 inconclusive, 130 interrupted."
        f"\n\nEnvironment variables: {SIZE} raises the bounds of files that are read, {SILENCE} "
        "sets the wait for a silent pipe.",
    )
    add_jobs(app, model)
    add_outputs(app, model)
    app.callback(invoke_without_command=True)(_version)
    return app


def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from rfx.core.version import __version__

        typer.echo(f"rfx {__version__}")
        raise typer.Exit()


app = build_app()


def main() -> None:
    """The program `rfx`."""
    interrupt_on_end()
    prepare()
    code = _run("--json" in sys.argv[1:])
    let_go()
    sys.exit(code)


def _run(as_json: bool) -> int:
    """The exit code of the command line."""
    begin_output()
    try:
        # What typer refuses comes back, to be said as every other error is.
        code = app(standalone_mode=False)
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        return _interrupted(as_json)
    except Exception as error:
        if is_interrupt(error):
            return _interrupted(as_json)
        if hasattr(error, "format_message"):  # an option that is not there, a value of another type
            return _refuse(error, as_json)
        if isinstance(error, BrokenPipeError):  # nobody reads the help or the version
            return 0
        known = explained(error)
        if known is not None:
            said = known.said()
            what, code = str(said["what"]), known.exit_code
            return _end(what, code, known.next_step, as_json, said["got"], said["allowed"])
        # A bug of rfx is said in full, and never with the exit code of a failed gate.
        import traceback

        messages().write(printable(traceback.format_exc()))
        return _end(
            f"This is a bug of rfx: {type(error).__name__}: {first_line(error)}",
            ExitCode.INTERNAL_CHECK,
            "please report it with the lines above and the output of `rfx env`",
            as_json,
        )


def _interrupted(as_json: bool) -> int:
    what, step = interrupted()
    return _end(what, ExitCode.INTERRUPT, step, as_json)


def _refuse(error: Any, as_json: bool) -> int:
    """Says what typer has against the command line; without any argument, typer's help is said."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "rfx"
    if type(error).__name__ == "NoArgsIsHelpError":
        return int(ExitCode.USAGE)  # typer has printed the help
    others = _commands_with(context, getattr(error, "option_name", None))
    step = f"`{command} --help` lists what there is"
    if others:
        step = f"it is an option of {', '.join(f'rfx {name}' for name in others)}; {step}"
    return _end(one_line(error.format_message(), 1000), ExitCode.USAGE, step, as_json)


def _commands_with(context: Any, option: str | None) -> list[str]:
    """The other commands that have an option which this one does not have."""
    group = getattr(getattr(context, "parent", None), "command", None)
    commands = getattr(group, "commands", {}) if option else {}
    return [
        name
        for name, command in commands.items()
        if any(option in getattr(param, "opts", ()) for param in command.params)
    ]


def _end(
    what: str,
    code: ExitCode,
    next_step: str | None,
    as_json: bool,
    got: str | None = None,
    allowed: str | None = None,
) -> int:
    parts = {"what": what, "got": got, "allowed": allowed, "next_step": next_step}
    if as_json:
        print_error(code, **parts)
    Terminal(quiet=True).error(in_lines(**parts))
    return int(code)


if __name__ == "__main__":
    main()
