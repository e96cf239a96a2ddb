"""The command line: parse, call, print. It decides nothing.

stdout is the result (`--json`: one object), stderr is log and progress. Exit codes are those of
`rfx.core.errors.ExitCode`.
"""

from __future__ import annotations

import signal
import sys
from typing import Annotated, Any, NoReturn

import typer

from rfx.cli.jobs import add_jobs
from rfx.cli.outputs import add_outputs
from rfx.cli.session import INTERRUPTED, print_error, show_error
from rfx.core.errors import ExitCode, is_interrupt
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
        "missing, 5 unsupported model, 6 internal check failed, 7 inconclusive, 130 interrupted.",
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
    # A cancelled CI job cleans up like an interrupted one.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    as_json = "--json" in sys.argv[1:]
    try:
        # What typer refuses comes back, to be said as every other error is.
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except KeyboardInterrupt:
        _end(INTERRUPTED, ExitCode.INTERRUPT, None, as_json)
    except Exception as error:
        if is_interrupt(error):
            _end(INTERRUPTED, ExitCode.INTERRUPT, None, as_json)
        if hasattr(error, "format_message"):  # an option that is not there, a value of another type
            _refuse(error, as_json)
        # A bug of rfx is said in full, and never with the exit code of a failed gate.
        import traceback

        traceback.print_exc()
        _end(
            "This is a bug of rfx.",
            ExitCode.INTERNAL_CHECK,
            "please report it with the lines above and the output of `rfx env`",
            as_json,
        )


def _refuse(error: Any, as_json: bool) -> NoReturn:
    """Ends with what typer says of the command line; without any argument, with the help."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "rfx"
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.exit(int(ExitCode.USAGE))  # typer has printed the help
    _end(
        error.format_message(),
        ExitCode.USAGE,
        f"`{command} --help` lists what there is",
        as_json,
    )


def _end(what: str, code: ExitCode, next_step: str | None, as_json: bool) -> NoReturn:
    if as_json:
        print_error(what, code, next_step=next_step)
    show_error(what, next_step)
    sys.exit(int(code))


if __name__ == "__main__":
    main()
