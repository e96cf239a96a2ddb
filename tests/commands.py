"""The command line, run in this process."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner, Result

from rfx.cli.app import app

# The options under which `closed` in conftest.py has filled a store: tests that use the same find
# there what they would have to make. A sequence is twice as long as it is timed.
STANDARD = {
    "task": "text-classification",
    "target": "ort",
    "sequence": 16,
    "max_length": 32,
    "examples": 64,
}


def run(*args: object, **env: str) -> Result:
    """Run `rfx ARGS`, each as text, with these environment variables. An exception that would be a
    traceback is raised."""
    result = CliRunner().invoke(app, [str(a) for a in args], env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def given(trained: dict[str, Path], **options: object) -> list[str]:
    """The arguments that name a model and its examples, and options by their names: `max_length=32`
    is `--max-length 32`."""
    flags = [part for k, v in options.items() for part in ("--" + k.replace("_", "-"), v)]
    named = [trained["model"], "--train", trained["train"], "--eval", trained["eval"]]
    return [str(a) for a in (*named, *flags)]
