"""Mistakes in a recipe, each named with its place, what was got and what is allowed there."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from rfx.core.errors import UsageError
from rfx.core.values import short
from rfx.recipe.fields import Setting, section, settings
from rfx.recipe.presets import PRESETS

R = TypeVar("R", bound=BaseModel)
_where: ContextVar[str] = ContextVar("where", default="The recipe")
_lines: ContextVar[Mapping[str, int] | None] = ContextVar("lines", default=None)
# Where a key of today stood in documents of version 1.
_EARLIER = {
    "workload": "conditions",
    "limits.max_drop": "max_drop",
    "limits.min_speedup": "min_speedup",
}

COMMAND_LINE = "the command line"  # a document whose keys are said by their options
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

_SHOWN = 12  # mistakes of a document
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


@contextmanager
def lines_known(lines: Mapping[str, int]) -> Iterator[None]:
    """Mistakes are named with the lines of their keys, in place of options of the command line:
    what is read comes from a file."""
    token = _lines.set(lines)
    try:
        yield
    finally:
        _lines.reset(token)


def where_made() -> str:
    """The document that is being read, or that a recipe is made in Python."""
    return _where.get()


def named(error: ValidationError, model: type[BaseModel], where: str) -> UsageError:
    known = {s.key: s for s in settings(model)}
    problems, values, allowed = [], [], []
    for e in error.errors():
        place = ".".join(str(p) for p in e["loc"])
        called = _called(model, place, where)
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
            allowed.append(f"{called}: {expected}")
        elif message.startswith("method: ") and isinstance(given, Mapping):
            place, given = "method", given.get("method")
            message = "there is no method of this name" + _did_you_mean(
                str(given)[:99], list(PRESETS)
            )
            known_names = ", ".join(PRESETS)
            called = _called(model, place, where)
            parts = "" if where == COMMAND_LINE else ", or a mapping of its parts"
            allowed.append(f"{called}: {known_names}{parts}")
        elif place in known and known[place].limits and e["type"] in _RANGE:
            message = "it is out of range"
            allowed.append(f"{called}: {known[place].limits}")
        elif place in known and known[place].about.takes:
            allowed.append(f"{called}: {known[place].limits}")
        elif place in known and known[place].choices:
            message = "there is no such choice"
            allowed.append(f"{called}: {', '.join(known[place].choices)}")
        hint = as_a_share(given, known.get(place))
        meant = f"; did you mean {hint}?" if hint else ""
        if not place:  # of several keys: the message names them
            problems.append(message)
            continue
        problems.append(f"{_place(model, place, e['loc'], where)}: {message}{meant}")
        values.append(_given(model, place, called, given, where))
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    problems, values, allowed = problems[:_SHOWN], values[:_SHOWN], allowed[:_SHOWN]
    return UsageError(
        f"{where} is not valid: " + "; ".join(problems) + more,
        got="; ".join(values) or None,
        allowed="; ".join(dict.fromkeys(allowed)) or None,
        next_step="correct it; `--help` describes the options"
        if where == COMMAND_LINE
        else f"correct it; {EVERY_KEY}",
    )


def _given(model: type[BaseModel], place: str, called: str, given: Any, where: str) -> str:
    if where == COMMAND_LINE and isinstance(given, Mapping):
        options = ((options_at(model, f"{place}.{key}"), value) for key, value in given.items())
        if said := [f"{option} {short(value)}" for option, value in options if option]:
            return " and ".join(said[:_SHOWN])
    return f"{short(called, bare=True)} = {short(given)}"


def _called(model: type[BaseModel], place: str, where: str) -> str:
    """What a key is called where the mistake was made: by its option on the command line."""
    return (options_at(model, place) if where == COMMAND_LINE else "") or place


def _place(model: type[BaseModel], place: str, parts: Sequence[Any], where: str) -> str:
    """The key of a mistake, and its line in the file, or the option that sets it."""
    if where == COMMAND_LINE and (option := options_at(model, place)):
        return option
    said, lines = short(place, bare=True), _lines.get()
    if lines is None:
        option = options_at(model, place)
        return f"{said} ({option})" if option else said
    texts = [str(p) for p in parts]
    for end in range(len(texts), 0, -1):  # an entry of a list has no line of its own
        key = ".".join(texts[:end])
        names = [key, *(f"{old}{key[len(new) :]}" for new, old in _EARLIER.items() if new in key)]
        line = next((lines[n] for n in names if n in lines), None)
        if line is not None:
            return f"{said} (line {line})"
    return said


PERCENT = 5  # 1.5 is no percentage that anybody means


def as_a_share(given: Any, setting: Setting | None) -> str:
    """What a percentage was likely meant to be, where a share between 0 and 1 is wanted; empty
    where it is none."""
    limits = {} if setting is None else setting.range
    if limits.get("gt", limits.get("ge")) != 0 or limits.get("lt", limits.get("le")) != 1:
        return ""
    try:
        text = str(given).strip()[:20] if isinstance(given, (int, float, str)) else ""
        value = float(text.removesuffix("%").replace(",", "."))
    except ValueError:  # no number, or one of thousands of digits
        return ""
    if PERCENT <= value < 100 or (text.endswith("%") and 0 < value < 100):
        return f"{value / 100:g}"
    return f"{value:g}" if "," in text and 0 < value < 1 else ""


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    if len(name) > 60:  # no name is so long, and the search takes its time for it
        return ""
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _nearest_key(name: str, here: Sequence[str], known: Sequence[str]) -> str:
    """The nearest key of this section, else of any other: `latency` belongs under `budget`."""
    ends = {key.rsplit(".", 1)[-1]: key for key in reversed(known)}
    if name in ends:  # the very key, in another section
        return f"; did you mean {ends[name]}?"
    if said := _did_you_mean(name, here):
        return said
    if len(name) > 60:
        return ""
    near = difflib.get_close_matches(name, list(ends), 1)
    return f"; did you mean {ends[near[0]]}?" if near else ""
