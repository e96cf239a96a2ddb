"""One definition for each option: a pydantic field that also says how it is called on the command
line, in which unit it is given, and to which group it belongs.

The command line, the keys of YAML, the reference of recipes and the names in error messages are all
read from here (`settings`), so that nothing about an option is written down a second time.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, Field
from pydantic.fields import FieldInfo

K = TypeVar("K")
V = TypeVar("V")

# How the text of the command line becomes a value: one value, one value for each time that the
# option is given, a comma separated list, or KEY=VALUE pairs (of texts, or of YAML values).
Form = Literal["one", "repeated", "list", "pairs", "values"]

# The titles of the groups, in the order in which help and the reference show them. A group that is
# not listed here comes last, under its own name.
GROUPS = {
    "model": "Model and task",
    "task": "Model and task",
    "data": "Data",
    "target": "Target and budget",
    "budget": "Target and budget",
    "limits": "Limits",
    "workload": "Workload: what is timed",
    "method": "Method",
    "calibration": "Calibration",
    "engine": "Engine (TensorRT)",
    "run": "Run",
}


@dataclass(frozen=True)
class About:
    """What an option says of itself beside what pydantic keeps.

    Args:
        cli: its names on the command line, the long one first; empty: it has none.
        unit: of the number, in words ("tokens", "points of the metric").
        group: decides which commands show it, and under which title.
        unset: what happens while it is not set, where "null" would not say it.
        form: how the text of the command line becomes its value.
        metavar: what stands for the value in `--help`.
        names: the kind of the registry whose names are allowed.
        takes: what a text has to be, in words.
        internal: it is part of the document, and not an option.
        also: other keys that get the same value when it is given on the command line.
        alternatives: the keys of this section exclude each other: one that is given on the command
            line takes the place of all of them.
    """

    cli: tuple[str, ...] = ()
    unit: str = ""
    group: str = ""
    unset: str = ""
    form: Form = "one"
    metavar: str = ""
    names: str = ""
    takes: str = ""
    internal: bool = False
    also: tuple[str, ...] = ()
    alternatives: bool = False


def option(
    default: Any,
    description: str,
    *,
    cli: str = "",
    unit: str = "",
    group: str = "",
    unset: str = "",
    form: Form = "one",
    metavar: str = "",
    names: str = "",
    takes: str = "",
    internal: bool = False,
    also: tuple[str, ...] = (),
    alternatives: bool = False,
    **limits: Any,
) -> Any:
    """A field of the recipe with everything that is to be known of it.

    Args:
        default: its value, or a function without arguments that makes it.
        description: one or more complete sentences.
        cli: the names on the command line, separated by spaces, e.g. "--out -o".
        limits: as pydantic has them: ge, gt, le, lt, allow_inf_nan.

    The other arguments are those of `About`. A field inside a section belongs to the group of the
    section unless it names another.
    """
    said: dict[str, Any] = {
        "cli": cli.split(),
        "unit": unit,
        "group": group,
        "unset": unset,
        "form": form,
        "metavar": metavar,
        "names": names,
        "takes": takes,
        "internal": internal,
        "also": list(also),
        "alternatives": alternatives,
    }
    start: dict[str, Any] = (
        {"default_factory": default} if callable(default) else {"default": default}
    )
    return Field(
        description=" ".join(description.split()),
        json_schema_extra={k: v for k, v in said.items() if v},
        **start,
        **limits,
    )


class FrozenDict(dict[K, V]):
    """A dictionary that cannot be changed, so that a frozen model is frozen all the way down."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("a recipe is frozen: make another one with recipe.changed(...)")

    __setitem__ = __delitem__ = _refuse
    clear = pop = popitem = setdefault = update = __ior__ = _refuse

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return FrozenDict, (dict(self),)


Table = Annotated[dict[K, V], AfterValidator(FrozenDict)]


@dataclass(frozen=True)
class Setting:
    """One key of the recipe, with its definition.

    Args:
        key: with dots, e.g. "workload.batch".
        kind: the type of the value without None; the model where it is a section of other keys.
    """

    key: str
    field: FieldInfo
    about: About
    kind: Any

    @property
    def is_section(self) -> bool:
        return isinstance(self.kind, type) and issubclass(self.kind, BaseModel)

    @property
    def description(self) -> str:
        return self.field.description or ""

    @property
    def default(self) -> Any:
        return self.field.get_default(call_default_factory=True)

    @property
    def option(self) -> str | None:
        """The long name on the command line."""
        return self.about.cli[0] if self.about.cli else None

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that are allowed, where they are a closed list."""
        return tuple(map(str, get_args(self.kind))) if get_origin(self.kind) is Literal else ()

    @property
    def range(self) -> dict[str, float]:
        """The limits of the number by their names: ge, gt, le, lt."""
        return {
            name: getattr(m, name)
            for m in self.field.metadata
            for name in ("ge", "gt", "le", "lt")
            if getattr(m, name, None) is not None
        }

    @property
    def limits(self) -> str:
        """The range of the number in words, e.g. "between 0 and 1, exclusive", or what a text has
        to be; empty where anything goes."""
        found = self.range
        if self.about.takes:
            return self.about.takes
        if "gt" in found and "lt" in found:
            return f"between {_plain(found['gt'])} and {_plain(found['lt'])}, exclusive"
        if "ge" in found and "le" in found:
            return f"{_plain(found['ge'])} to {_plain(found['le'])}"
        if "gt" in found and "le" in found:
            return f"above {_plain(found['gt'])} and at most {_plain(found['le'])}"
        words = {"ge": "{} or more", "gt": "above {}", "le": "{} or less", "lt": "below {}"}
        return ", ".join(words[name].format(_plain(value)) for name, value in found.items())


def _plain(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def about(field: FieldInfo) -> About:
    """What `option` was told; of a plain pydantic field, nothing."""
    extra = field.json_schema_extra
    known = {f.name for f in dataclasses.fields(About)}
    said: dict[str, Any] = dict(extra) if isinstance(extra, Mapping) else {}
    found: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in said.items() if k in known
    }
    return About(**found)


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        left = [a for a in get_args(annotation) if a is not type(None)]
        return left[0] if len(left) == 1 else Any
    return annotation


def _walk(model: type[BaseModel], prefix: str, group: str) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        said = about(field)
        if said.internal:
            continue
        if not said.group and group:
            said = dataclasses.replace(said, group=group)
        found = Setting(prefix + name, field, said, _without_none(field.annotation))
        yield found
        if found.is_section:
            yield from _walk(found.kind, f"{prefix}{name}.", said.group)


@lru_cache(maxsize=16)
def settings(model: type[BaseModel]) -> tuple[Setting, ...]:
    """Every key of a recipe in the order of the document, each section before the keys in it."""
    return tuple(_walk(model, "", ""))


def leaves(model: type[BaseModel]) -> tuple[str, ...]:
    """The keys that hold values, without the sections."""
    return tuple(s.key for s in settings(model) if not s.is_section)


def section(model: type[BaseModel], path: tuple[Any, ...]) -> type[BaseModel]:
    """The model of a part of the recipe, e.g. of ("method",)."""
    found = model
    for name in path:
        field = found.model_fields.get(str(name))
        kind = _without_none(field.annotation) if field is not None else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            break
        found = kind
    return found


def put(data: dict[str, Any], key: str, value: Any) -> None:
    """Set a key with dots in a nested document. A section that is given by its name alone
    (`method: kwon`) becomes a mapping that starts from this name."""
    *parents, last = key.split(".")
    at = data
    for parent in parents:
        inner = at.get(parent)
        if isinstance(inner, str):
            inner = {"name": inner}
        at[parent] = dict(inner) if isinstance(inner, Mapping) else {}
        at = at[parent]
    at[last] = value


def keys_set(data: Mapping[str, Any] | BaseModel, prefix: str = "") -> set[str]:
    """The keys, with dots, that a nested document or model sets."""
    pairs = (
        [(name, getattr(data, name)) for name in data.model_fields_set]
        if isinstance(data, BaseModel)
        else data.items()
    )
    found: set[str] = set()
    for name, value in pairs:
        found.add(f"{prefix}{name}")
        if isinstance(value, (Mapping, BaseModel)):
            found |= keys_set(value, f"{prefix}{name}.")
    return found
