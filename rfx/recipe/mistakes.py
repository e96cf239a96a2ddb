"""Mistakes in a recipe, each named with its place, what was got and what is allowed there."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from rfx.core.errors import UsageError
from rfx.recipe.fields import section, settings
from rfx.recipe.presets import PRESETS

R = TypeVar("R", bound=BaseModel)
_where: ContextVar[str] = ContextVar("where", default="The recipe")

EVERY_KEY = (
    "rfx prune-export --help lists the options, and docs/pages/reference/recipes.md in the source "
    "of rfx lists every key"
)
_EXPECTED = {  # what pydantic's errors of kind ask for
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "string_type": "a text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys",
    "model_type": "a mapping of keys",
    "model_attributes_type": "a mapping of keys",
}

_RANGE = (
    "greater_than",
    "greater_than_equal",
    "less_than",
    "less_than_equal",
    "finite_number",
)


def options_at(model: type[BaseModel], place: str) -> str:
    """The options of the command line that set a key or, of a section, what is in it."""
    known = {s.key: s for s in settings(model)}
    here = known.get(place)
    if here is None:
        return ""
    if here.option or not here.is_section:
        return here.option or ""
    return ", ".join(s.option for k, s in known.items() if k.startswith(f"{place}.") and s.option)


def validated(model: type[R], data: Mapping[str, Any], where: str) -> R:
    """The recipe of a document of the current form.

    Raises:
        UsageError: unknown keys, wrong types, values out of range: all of them at once.
    """
    token = _where.set(where)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise named(error, model, where) from None
    finally:
        _where.reset(token)


def where_made() -> str:
    """The document that is being read, or that a recipe is made in Python."""
    return _where.get()


def named(error: ValidationError, model: type[BaseModel], where: str) -> UsageError:
    known = {s.key: s for s in settings(model)}
    problems, values, allowed = [], [], []
    for e in error.errors():
        place = ".".join(str(p) for p in e["loc"]) or "the document"
        message = e["msg"].removeprefix("Value error, ")
        given = e["input"]
        if e["type"] == "extra_forbidden":
            at = "".join(f"{p}." for p in e["loc"][:-1])
            every = section(model, e["loc"][:-1]).model_fields
            keys = [k for k in every if f"{at}{k}" in known]  # some are not for users to set
            message = "there is no such key" + _nearest_key(str(e["loc"][-1]), keys, list(known))
            allowed.append("the keys " + ", ".join(keys))
        elif e["type"] in _EXPECTED:
            message, expected = "it is of the wrong kind", _EXPECTED[e["type"]]
            allowed.append(f"{place}: {expected}")
        elif message.startswith("method: ") and isinstance(given, Mapping):
            place, given = "method", given.get("method")
            message = "there is no method of this name" + _did_you_mean(str(given), list(PRESETS))
            allowed.append(f"method: {', '.join(PRESETS)}, or a mapping of its parts")
        elif place in known and known[place].limits and e["type"] in _RANGE:
            message = "it is out of range"
            allowed.append(f"{place}: {known[place].limits}")
        elif place in known and known[place].choices:
            message = "there is no such choice"
            allowed.append(f"{place}: {', '.join(known[place].choices)}")
        option = options_at(model, place)
        problems.append(f"{place}{f' ({option})' if option else ''}: {message}")
        values.append(f"{place} = {given!r:.80}")
    return UsageError(
        f"{where} is not valid: " + "; ".join(problems),
        got="; ".join(values),
        allowed="; ".join(dict.fromkeys(allowed)) or None,
        next_step=f"correct it; {EVERY_KEY}",
    )


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _nearest_key(name: str, here: Sequence[str], known: Sequence[str]) -> str:
    """The nearest key of this section, else of any other: `latency` belongs under `budget`."""
    if said := _did_you_mean(name, here):
        return said
    ends = {key.rsplit(".", 1)[-1]: key for key in reversed(known)}
    near = difflib.get_close_matches(name, list(ends), 1)
    return f"; did you mean {ends[near[0]]}?" if near else ""
