"""What there is to say of an option beside its description, in words: unit, range, allowed values,
default. Help and the reference of recipes use the same words."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import get_origin

from rfx.core import registry
from rfx.recipe.fields import Setting, settings
from rfx.recipe.presets import PRESETS
from rfx.recipe.spec import Recipe


def allowed(setting: Setting, *, ours: bool = False) -> tuple[str, ...]:
    """The values of a closed list, or the names that the registry knows; empty where any goes.

    Args:
        ours: only the names that rfx itself brings, whatever else is installed.
    """
    if setting.key == "method":
        return tuple(PRESETS)
    if not setting.about.names:
        return setting.choices
    entries = registry.entries(setting.about.names)
    names = tuple(dict.fromkeys(e.name for e in entries if not ours or e.target.startswith("rfx.")))
    # `auto` and `none` are no parts of their own, and nobody registers them.
    usual = (setting.default,) if setting.default and setting.default not in names else ()
    return (*usual, *names)


def default(setting: Setting) -> str:
    """The value that holds while nobody sets one, in words; empty where it is nothing."""
    value = setting.default
    if setting.is_section:
        return getattr(value, "name", "")
    if value is None or (setting.about.unset and value in ((), "", {})):
        return setting.about.unset
    if isinstance(value, bool):
        return "yes" if value else ""
    return "" if value in ((), {}, "") else str(value)


def remark(setting: Setting) -> str:
    """Unit, range, allowed values and default, for the end of a line of `--help`."""
    names = allowed(setting) if setting.key != "method" else ()  # its description has them
    parts: Iterable[str] = (
        setting.about.unit,
        setting.limits,
        ", ".join(names),
        f"default: {default(setting)}" if default(setting) else "",
    )
    return "; ".join(p for p in parts if p)


def recipe_table(model: type[Recipe] = Recipe) -> str:
    """The reference of recipes in Markdown: a table for each section, with a row for each key. The
    tables are narrow enough for a phone."""
    known = settings(model)
    parts = [s for s in known if s.is_section]
    lines = ["### Top level", "", *_HEAD]
    lines += [_row(s) for s in known if "." not in s.key and (s.option or not s.is_section)]
    for part in parts:
        lines += ["", f"### `{part.key}`", "", part.description, "", *_HEAD]
        lines += [_row(s) for s in known if s.key.rpartition(".")[0] == part.key]
    return "\n".join(lines) + "\n"


_HEAD = ("| key, option | value | meaning |", "|---|---|---|")


def _row(setting: Setting) -> str:
    name = setting.key.rpartition(".")[2]
    names = "<br>".join(f"`{n}`" for n in (name, *setting.about.cli))
    value = ", ".join(p for p in (_kind(setting), setting.limits, setting.about.unit) if p)
    cells = (names, f"{_cell(value)}<br>default: {_default_text(setting)}")
    return f"| {' | '.join((*cells, _cell(setting.description)))} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _kind(setting: Setting) -> str:
    """What a value is, as a reader of YAML understands it."""
    names = allowed(setting, ours=True)
    if names:
        listed = " or ".join(f"`{n}`" for n in names)
        return f"{listed}, or the keys below" if setting.is_section else listed
    simple = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    if setting.kind in simple:
        return simple[setting.kind]
    return "list of texts" if get_origin(setting.kind) in (list, tuple) else "mapping"


def _default_text(setting: Setting) -> str:
    if setting.is_section:
        return f"`{default(setting)}`"
    value = setting.default
    if value is None and setting.about.unset:
        return _cell(setting.about.unset)
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"
