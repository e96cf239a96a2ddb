"""What there is to say of an option beside its description, in words: unit, range, allowed values,
default. Help and the reference of recipes use the same words."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from rfx.core import registry
from rfx.recipe.fields import Setting, settings
from rfx.recipe.presets import PRESETS
from rfx.recipe.spec import Recipe


def allowed(setting: Setting) -> tuple[str, ...]:
    """The values of a closed list, or the names that the registry knows; empty where any goes."""
    if setting.key == "method":
        return tuple(PRESETS)
    if not setting.about.names:
        return setting.choices
    names = registry.names(setting.about.names)
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
    """The reference of recipes in Markdown: one table for each section, one row for each key."""
    lines: list[str] = []
    head = ["", "| key | option | what it is | values | default |", "|---|---|---|---|---|"]
    top = [s for s in settings(model) if "." not in s.key]
    lines += [*head, *(_row(s, s.key) for s in top)]
    for part in (s for s in settings(model) if s.is_section):
        lines += ["", f"### `{part.key}`", "", " ".join((part.kind.__doc__ or "").split())]
        inside = (s for s in settings(model) if s.key.rpartition(".")[0] == part.key)
        lines += [*head, *(_row(s, s.key.rpartition(".")[2]) for s in inside)]
    return "\n".join(lines).strip() + "\n"


def _row(setting: Setting, name: str) -> str:
    options = ", ".join(f"`{o}`" for o in setting.about.cli)
    values = "; ".join(
        p
        for p in (
            _kind(setting),
            setting.about.unit,
            setting.limits,
            ", ".join(f"`{n}`" for n in allowed(setting)),
        )
        if p
    )
    cells = (f"`{name}`", options, setting.description, values, _default_cell(setting))
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def _kind(setting: Setting) -> str:
    if setting.is_section:
        return "a name, or a section" if setting.option else "a section, see below"
    if setting.choices or setting.about.names:
        return ""
    words: dict[Any, str] = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "true or false",
    }
    if setting.kind in words:
        return words[setting.kind]
    return "a list of texts" if "tuple" in str(setting.kind) else "a mapping"


def _default_cell(setting: Setting) -> str:
    value = setting.default
    if setting.is_section:
        return f"`{value.name}`" if setting.option else ""
    if value is None:
        return f"`null`: {setting.about.unset}" if setting.about.unset else "`null`"
    return f"`{json.dumps(value)}`" if not isinstance(value, str) else f"`{value}`"
