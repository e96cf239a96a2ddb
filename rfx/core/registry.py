"""The one registry of parts: scorers, searches, tasks, runtimes and so on, rfx's own and those of
other packages.

A part registers itself where it is written:

    from rfx.core.registry import register

    @register("scorer", "mine")
    class Mine(Scorer): ...

and is found by `find("scorer", "mine")`, which imports its module only then. What there is is known
without importing anything: the source text of every package is read for such decorators, which is
why kind and name must be literal strings and the class or function must stand at the top level of
its module. Another package is read too if it says in its pyproject.toml where it is:

    [project.entry-points."rfx.plugins"]
    mine = "my_package"

rfx's own parts register in the same way. What is registered in a script or a notebook is known in
that process.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from rfx.core.errors import EnvironmentMissingError, UsageError, UserError, first_line
from rfx.core.version import __version__

GROUP = "rfx.plugins"  # of entry points
ITSELF = "rfx-exporter"  # the distribution of rfx's own parts
# kind -> how a message calls it
KINDS = {
    "scorer": "scorer",
    "search": "search",
    "refiner": "refiner",
    "compensation": "compensation",
    "schedule": "schedule",
    "cost": "cost",
    "task": "task",
    "runtime": "runtime",
    "family": "model family",
    "exporter": "exporter",
    "precision": "precision",
    "quantizer": "quantizer",
    "report": "report",
}

_DECORATOR = re.compile(r"^@(?:\w+\.)*register\(", re.MULTILINE)
_T = TypeVar("_T")
_registered: dict[tuple[str, str], Any] = {}


@dataclass(frozen=True)
class Entry:
    """One registered part.

    Args:
        kind: one of `KINDS`.
        name: what a recipe calls it.
        target: where it is, as "module:object".
        distribution, version: of the package that brings it; both empty for what was registered in
            this process alone.
    """

    kind: str
    name: str
    target: str
    distribution: str = ""
    version: str = ""

    @property
    def origin(self) -> str:
        """The package that brings it, for messages."""
        where = f"{self.distribution} {self.version}".strip() or "this process"
        return f"{where} ({self.target})"


@dataclass(frozen=True)
class Plugin:
    """A package that brings parts; `problem` says why it cannot be read, where it cannot."""

    distribution: str
    version: str
    package: str
    offers: tuple[Entry, ...]
    problem: str | None = None

    def names(self) -> dict[str, list[str]]:
        """The names it offers, by kind."""
        found: dict[str, list[str]] = {}
        for entry in self.offers:
            found.setdefault(entry.kind, []).append(entry.name)
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "distribution": self.distribution,
            "version": self.version,
            "package": self.package,
            "offers": [{"kind": e.kind, "name": e.name, "target": e.target} for e in self.offers],
            "problem": self.problem,
        }


def register(kind: str, name: str) -> Callable[[_T], _T]:
    """Decorator: the class or function below it is the part `name` of this kind.

    Raises:
        ValueError: there is no such kind.
    """
    _require_kind(kind)

    def record(part: _T) -> _T:
        _registered[kind, name] = part
        return part

    return record


def find(
    kind: str, name: str | None, *, also: Sequence[str] = (), next_step: str | None = None
) -> Any:
    """The part of this kind and name, imported if need be.

    Args:
        also: other names that the caller would have taken ("auto", say), for the message.
        next_step: what the user can do about an unknown name, for the message.

    Raises:
        UsageError: no part of this kind has the name, or two packages bring it.
        EnvironmentMissingError: the package that brings it cannot be imported.
        ValueError: there is no such kind.
    """
    known = [e for e in entries(kind) if e.name == name]
    if not known:
        raise _unknown(kind, name, also, next_step)
    if len(known) > 1:
        raise _twice(known)
    return _load(known[0])


def names(kind: str) -> tuple[str, ...]:
    """The names of a kind: rfx's own by file and line, then those of each other package, then those
    of this process. Nothing is imported.

    Raises:
        ValueError: there is no such kind.
    """
    return tuple(dict.fromkeys(e.name for e in entries(kind)))


def entries(kind: str) -> tuple[Entry, ...]:
    """Every part of a kind, in the order of `names`; a name that two packages bring is there twice.

    Raises:
        ValueError: there is no such kind.
    """
    _require_kind(kind)
    read = [e for plugin in plugins() for e in plugin.offers if e.kind == kind]
    targets = {(e.name, e.target) for e in read}
    here = (
        Entry(kind, name, f"{part.__module__}:{part.__qualname__}")
        for (of, name), part in _registered.items()
        if of == kind
    )
    return (*read, *(e for e in here if (e.name, e.target) not in targets))


def code_of(kind: str, name: str) -> str:
    """What a stored result of a part depends on besides its name: for a part of another package
    that package's version and the source of the part's module, for one of this process its module's
    source; "" for rfx's own, whose results are versioned where they are stored.

    Raises:
        UsageError, EnvironmentMissingError: as `find`.
    """
    part = find(kind, name)
    entry = next(e for e in entries(kind) if e.name == name)
    if entry.distribution == ITSELF:
        return ""
    try:
        source = Path(inspect.getfile(part)).read_bytes()
    except (TypeError, OSError):  # a notebook's, or one without a file
        source = str(getattr(part, "__qualname__", name)).encode()
    digest = hashlib.sha256(source).hexdigest()[:16]
    return f"{entry.distribution} {entry.version} {digest}".strip()


@lru_cache(maxsize=1)
def plugins() -> tuple[Plugin, ...]:
    """The packages that bring parts, rfx itself first, with what each of them offers; read once a
    process, and none of them imported."""
    found = [_read(ITSELF, __version__, "rfx")]
    points = metadata.entry_points(group=GROUP)
    for point in sorted(points, key=lambda p: (p.dist.name if p.dist else "", p.value)):
        package = point.value.partition(":")[0].strip()
        if package in {p.package for p in found}:
            continue
        distribution, version = (point.dist.name, point.dist.version) if point.dist else ("", "")
        found.append(_read(distribution or package, version, package))
    return tuple(found)


def _require_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"there is no kind {kind!r} of parts: {', '.join(KINDS)}")


def _unknown(kind: str, name: str | None, also: Sequence[str], next_step: str | None) -> UsageError:
    known = (*also, *names(kind))
    near = difflib.get_close_matches(str(name), known, n=1)
    steps = ([f"did you mean {near[0]!r}?"] if near else []) + ([next_step] if next_step else [])
    return UsageError(
        f"There is no {KINDS[kind]} of this name.",
        got=name,
        allowed=", ".join(known),
        next_step=" ".join(steps) or "give one of the names that are allowed",
    )


def _twice(known: list[Entry]) -> UsageError:
    kind, name = KINDS[known[0].kind], known[0].name
    strangers = [e.distribution for e in known if e.distribution not in ("", ITSELF)]
    return UsageError(
        f"There is more than one {kind} called {name!r}.",
        got=" and ".join(e.origin for e in known),
        allowed=f"one {kind} of a name",
        next_step=f"uninstall {' or '.join(dict.fromkeys(strangers))}, or rename its {kind}"
        if strangers
        else f"rename one {kind}",
    )


def _load(entry: Entry) -> Any:
    key = (entry.kind, entry.name)
    if not entry.distribution:
        return _registered[key]
    module, _, attribute = entry.target.partition(":")
    try:
        part = getattr(importlib.import_module(module), attribute)
    except UserError:
        raise
    except Exception as error:
        if entry.distribution == ITSELF:
            raise
        raise EnvironmentMissingError(
            f"The plug-in {entry.distribution} {entry.version} cannot be imported.",
            got=f"{type(error).__name__} in {module}: {first_line(error)}",
            next_step=f"repair or uninstall it: pip uninstall {entry.distribution}",
        ) from error
    if key not in _registered:
        raise EnvironmentMissingError(
            f"The plug-in {entry.distribution} {entry.version} registers nothing with rfx.",
            got=f"another decorator called register in {module}",
            allowed="from rfx.core.registry import register",
            next_step=f"correct it or uninstall it: pip uninstall {entry.distribution}",
        )
    return part


def _read(distribution: str, version: str, package: str) -> Plugin:
    """What the source text of a package registers."""
    offers: list[Entry] = []
    try:
        for module, file in _sources(package):
            text = file.read_text(encoding="utf-8")
            if _DECORATOR.search(text):
                offers += (
                    Entry(kind, name, f"{module}:{part}", distribution, version)
                    for kind, name, part in _parts(ast.parse(text))
                )
    except (OSError, ImportError, ValueError, SyntaxError) as error:
        problem = f"{type(error).__name__}: {first_line(error)}"
        return Plugin(distribution, version, package, tuple(offers), problem)
    return Plugin(distribution, version, package, tuple(offers))


def _sources(package: str) -> Iterator[tuple[str, Path]]:
    """Every module of a package with its file, in the order of their paths.

    Only the top-level name is looked up: to ask Python for a module inside of a package imports
    the package.
    """
    top, *inner = package.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        raise ModuleNotFoundError(f"there is no module {top!r}")
    if spec.submodule_search_locations is None:
        yield package, Path(str(spec.origin))
        return
    for location in spec.submodule_search_locations:
        root = Path(location).joinpath(*inner)
        alone = root.with_suffix(".py")
        if inner and alone.is_file():
            yield package, alone
        for file in sorted(root.rglob("*.py")):
            below = file.relative_to(root).with_suffix("").parts
            yield ".".join((package, *(p for p in below if p != "__init__"))), file


def _parts(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    """(kind, name, object) of each decorator at the top level of a module."""
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef):
            continue
        for decorator in node.decorator_list:
            if not isinstance(decorator, ast.Call) or _last_name(decorator.func) != "register":
                continue
            values = [a.value for a in decorator.args if isinstance(a, ast.Constant)]
            if len(values) == len(decorator.args) == 2 and values[0] in KINDS:
                yield str(values[0]), str(values[1]), node.name


def _last_name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
