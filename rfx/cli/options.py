"""The options of the commands, made from the fields of the recipe, and those few that belong to no
recipe."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from rfx.cli.paths import given_path
from rfx.core.errors import UsageError
from rfx.core.values import short
from rfx.recipe.document import parse_yaml
from rfx.recipe.fields import GROUPS, Setting, settings
from rfx.recipe.mistakes import as_a_share
from rfx.recipe.reference import remark
from rfx.recipe.spec import Recipe

_OUTPUT = "Output"

Source = Annotated[
    str | None,
    typer.Argument(
        help="A recipe (a YAML or JSON file, or the name of one that comes with rfx), or a model "
        "(a folder or a hub name). Without it, prune-export, plan and sweep take the quickstart."
    ),
]
TableFile = Annotated[
    Path | None,
    typer.Option(
        "--table",
        help="A latency table that `rfx profile` or a board has measured. With one, a --target "
        "that cannot run here is searched for all the same.",
        rich_help_panel=GROUPS["target"],
        parser=given_path,
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        help="Output folder. It appears whole or not at all.",
        rich_help_panel=_OUTPUT,
        parser=given_path,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=_OUTPUT)
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="Print no progress, no notes and no warnings. The result of plan, profile, shapes and "
        "build, and whatever --json asks for, is still printed on stdout; an error, and a verdict "
        "that is no pass, on stderr.",
        rich_help_panel=_OUTPUT,
    ),
]
AllowInconclusive = Annotated[
    bool,
    typer.Option(
        "--allow-inconclusive",
        help="Exit with 0 where a gate is inconclusive and none has failed.",
        rich_help_panel=GROUPS["limits"],
    ),
]

Sign = Annotated[
    Path | None,
    typer.Option(
        "--sign",
        metavar="KEY",
        help="Sign evidence.json with this private Ed25519 key: evidence.json.sig is written "
        "beside it. No recipe has it.",
        rich_help_panel=_OUTPUT,
        parser=given_path,
    ),
]


@dataclass(frozen=True)
class Shown:
    """Which settings of the recipe a command takes as options.

    Args:
        groups: the groups that it shows; None: all of them.
        also: single keys of other groups.
        without: groups and single keys that it does not show.
        lists: keys of which it takes several values, comma separated.
    """

    groups: frozenset[str] | None = None
    also: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()
    lists: frozenset[str] = frozenset()

    def __call__(self, setting: Setting) -> bool:
        if not setting.option or {setting.key, setting.about.group} & self.without:
            return False
        return self.groups is None or setting.about.group in self.groups or setting.key in self.also


@dataclass(frozen=True)
class Asked:
    """What the command line asks for: `values` holds what was given, by the key of the recipe, for
    those options that were given."""

    model: type[Recipe] = Recipe
    source: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Any:
        """The value of a key; None where it was not given."""
        return self.values.get(key)

    def without(self, *keys: str) -> Asked:
        """The same without some keys."""
        return replace(self, values={k: v for k, v in self.values.items() if k not in keys})

    def changes(self) -> tuple[dict[str, Any], dict[str, str]]:
        """What the options change in a recipe, and the origin of each change, both by key.

        Raises:
            UsageError: a text that cannot be read as what its option takes.
        """
        known = {s.key: s for s in settings(self.model)}
        changes: dict[str, Any] = {}
        origin: dict[str, str] = {}
        for key, given in self.values.items():
            setting, (section, _, name) = known[key], key.rpartition(".")
            values = dict(_read(setting, given))
            if section and known[section].about.alternatives:
                changes[section] = {**changes.get(section, {}), name: values[key]}
                origin[section] = f"the command line ({_siblings(self, section)})"
                continue
            for at in (*values, *setting.about.also):
                changes[at] = values.get(at, given)
                origin[at] = f"the command line ({setting.option})"
        return changes, origin


def _siblings(asked: Asked, section: str) -> str:
    options = {s.key: s.option for s in settings(asked.model)}
    return ", ".join(str(options[k]) for k in asked.values if k.startswith(f"{section}."))


def _read(setting: Setting, given: Any) -> list[tuple[str, Any]]:
    """The keys that an option sets, with their values."""
    form = setting.about.form
    if form == "list":
        return [(setting.key, [n.strip() for n in given.split(",")])]
    if form not in ("pairs", "values"):
        return [(setting.key, given)]
    found = []
    for pair in given:
        name, _, text = pair.partition("=")
        if not name or not text:
            raise UsageError(
                f"{setting.option} is not understood.",
                got=pair,
                allowed=f"{setting.about.metavar}, e.g. {setting.option} "
                + ("text=review" if form == "pairs" else "NAME=3"),
                next_step="correct it",
            )
        found.append((f"{setting.key}.{name}", text if form == "pairs" else _value(text)))
    return found


def _value(text: str) -> Any:
    """A number, a truth value, a list or a text, as YAML reads it. A text stays as it was given,
    with its blanks and colons, unless it is put in quotes."""
    try:
        value = parse_yaml(text, "an option").data
    except UsageError:
        return text
    quoted = text.strip()[:1] in ("'", '"')
    return text if isinstance(value, dict) or (isinstance(value, str) and not quoted) else value


def _plain_number(text: str) -> str:
    """A number that was written with a comma or as points of a hundred, as a number; else empty."""
    try:
        return f"{float(text.strip()[:20].removesuffix('%').replace(',', '.')):g}"
    except ValueError:
        return ""


def _number(setting: Setting) -> Callable[[str], int | float]:
    """What reads the number of an option; its mistakes are said as those of a recipe are.

    Raises:
        UsageError: the text is no number.
    """
    whole = setting.kind is int

    def read(text: str) -> int | float:
        try:
            return int(text) if whole else float(text)
        except ValueError:
            hint = as_a_share(text, setting) or ("" if whole else _plain_number(text))
            raise UsageError(
                f"{setting.option} is not a {'whole ' * whole}number.",
                got=short(text, bare=True) or "nothing",
                allowed=setting.limits or f"a {'whole ' * whole}number",
                next_step=f"write {setting.option} {hint}" if hint else f"correct {setting.option}",
            ) from None

    read.__name__ = "INTEGER" if whole else "FLOAT"  # what `--help` shows in place of the value
    return read


def _parameter(setting: Setting, several: bool) -> inspect.Parameter:
    """A parameter of a command, as typer reads it."""
    kinds: dict[str, Any] = {"repeated": list[str], "pairs": list[str], "values": list[str]}
    kind = kinds.get(setting.about.form, setting.kind)
    if several or kind not in (int, float, bool, list[str]):
        kind = str
    reads = _number(setting) if kind in (int, float) else None
    said = remark(setting)
    text = f"{setting.description}{f' ({said})' if said else ''}"
    if several:
        text += " Several targets are separated by commas."
    annotation = Annotated[
        Optional[kind],  # type: ignore[valid-type]  # noqa: UP045
        typer.Option(
            *setting.about.cli,
            help=text,
            metavar=_several(setting) if several else setting.about.metavar or None,
            parser=reads,
            rich_help_panel=GROUPS.get(setting.about.group, setting.about.group.capitalize())
            or "Other",
        ),
    ]
    return inspect.Parameter(
        setting.key.replace(".", "_"),
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=annotation,
    )


def _several(setting: Setting) -> str:
    """What stands for several values of an option in `--help`."""
    one = setting.about.metavar or "SHARE"
    return f"{one},{one},..."


def with_options(
    command: Callable[..., None], model: type[Recipe], shown: Shown, source: bool = True
) -> Callable[..., None]:
    """A command with an option for each setting that it shows, for typer.

    Args:
        command: its first parameter takes what was asked for (`Asked`), the others are options of
            its own.
        source: whether it takes a recipe or a model as its argument.
    """
    chosen = [s for s in settings(model) if shown(s)]
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    first = [
        inspect.Parameter("source", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Source)
    ]
    parameters = [
        *(p for p in own if p.default is inspect.Parameter.empty),
        *(first if source else ()),
        *(_parameter(s, s.key in shown.lists) for s in chosen),
        *(p for p in own if p.default is not inspect.Parameter.empty),
    ]

    def run(**given: Any) -> None:
        values = {s.key: given.pop(s.key.replace(".", "_")) for s in chosen}
        values = {k: v for k, v in values.items() if v is not None and v != []}
        command(Asked(model, given.pop("source", None), values), **given)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run
