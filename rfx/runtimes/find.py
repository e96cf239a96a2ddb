"""The runtimes by name, and the choice among them by what they can do.

A new one is a class registered with `@register("runtime", "name")`; nothing is imported before it
is asked for.
"""

from __future__ import annotations

from typing import NamedTuple, cast

from rfx.core import registry
from rfx.core.errors import EnvironmentMissingError, UserError
from rfx.runtimes.base import EngineOptions, Runtime

AUTO = "auto"  # the name that stands for the best runtime of this machine
KIND = "runtime"


class RuntimeStatus(NamedTuple):
    """One line of `rfx env`: whether a runtime runs here, why not, what to do about it, and whether
    it was ever seen running on the hardware that it is for."""

    name: str
    ok: bool
    reason: str
    next_step: str
    verified: bool


def runtime_names() -> tuple[str, ...]:
    """The names of all runtimes; nothing is imported."""
    return registry.names(KIND)


def runtime_class(name: str) -> type[Runtime]:
    """The class registered under `name`, whether it can run here or not.

    Raises:
        UsageError: no runtime has this name.
        EnvironmentMissingError: the plug-in that brings it cannot be imported.
    """
    found = registry.find(
        KIND,
        name,
        also=(AUTO,),
        next_step="give one of these with --target; `rfx env` says which run here",
    )
    return cast("type[Runtime]", found)


def runtime(name: str, options: EngineOptions | None = None) -> Runtime:
    """The runtime `name`, ready to build engines as `options` say; "auto" is the best one of this
    machine.

    Raises:
        UsageError: no runtime has this name.
        EnvironmentMissingError: it cannot run here; the message says what is missing and what would
            run instead.
    """
    if name == AUTO:
        return best_runtime(options)
    cls = runtime_class(name)
    here = cls.availability()
    if not here.ok:
        others = [c.name for c in _ranked() if c is not cls and c.availability().ok]
        would_run = (
            f"would run here: {', '.join(f'--target {n}' for n in others)}"
            if others
            else "none runs here"
        )
        raise EnvironmentMissingError(
            f"The runtime {name!r} cannot run on this machine.",
            got=here.reason,
            allowed=would_run,
            next_step=here.next_step or "give another --target; `rfx env` says which run here",
        )
    return cls(options)


def best_runtime(options: EngineOptions | None = None) -> Runtime:
    """The runtime with the lowest `preference` of those that can run here.

    Raises:
        EnvironmentMissingError: none can; the message has every reason.
    """
    reasons = []
    for cls in _ranked():
        here = cls.availability()
        if here.ok:
            return cls(options)
        reasons.append(f"{cls.name}: {here.reason}")
    raise EnvironmentMissingError(
        "No runtime can run on this machine.",
        got="; ".join(reasons),
        next_step="pip install onnxruntime",
    )


def stand_in(precision: str) -> Runtime:
    """A runtime that computes here what a typed file says, to measure accuracy in place of a target
    that is absent: the first by `preference` of those whose `stands_in` names the precision.

    Raises:
        EnvironmentMissingError: none is installed.
    """
    able = [c for c in _ranked() if precision in c.capabilities.stands_in]
    for cls in able:
        if cls.availability().ok:
            return cls(EngineOptions(as_typed=True))
    raise EnvironmentMissingError(
        "Without the target at hand, accuracy is measured on the CPU, and no runtime for that "
        "is installed.",
        got=f"none of {', '.join(c.name for c in able)} at {precision}",
        next_step=f"install one: {able[0].availability().next_step or able[0].name}"
        if able
        else "give another --precision: no runtime of rfx computes this one here",
    )


def compilers() -> tuple[str, ...]:
    """The names of the runtimes that have engine files, the preferred first."""
    return tuple(c.name for c in _ranked() if c.capabilities.engine_file is not None)


def able(precision: str) -> tuple[str, ...]:
    """The names of the runtimes that run a precision, the preferred first."""
    return tuple(c.name for c in _ranked() if precision in c.capabilities.precisions)


def locators() -> tuple[str, ...]:
    """The names of the runtimes on which the first tensor that differs can be located, the
    preferred first."""
    return tuple(c.name for c in _ranked() if c.capabilities.locates_differences)


def engine_files() -> tuple[str, ...]:
    """What the engine files of every runtime are called in an output folder, today and by earlier
    versions of rfx."""
    able = [cls.capabilities for cls in _loaded()[0]]
    names = [n for c in able for n in (c.engine_file, *c.earlier_engine_files) if n]
    return tuple(dict.fromkeys(names))


def builder_elsewhere(options: EngineOptions | None = None) -> Runtime:
    """The runtime that compiles ahead of time for the GPUs of other machines; it need not be able
    to run here.

    Raises:
        EnvironmentMissingError: no runtime does.
    """
    for cls in _ranked():
        if cls.capabilities.builds_elsewhere:
            return cls(options)
    raise EnvironmentMissingError(
        "No runtime compiles for the GPUs of other machines.",
        next_step="build on a machine with the GPU, where TensorRT for RTX is installed",
    )


def runtimes_report() -> list[RuntimeStatus]:
    """Every runtime, the preferred first, and those that cannot be imported last; for `rfx env`."""
    rows = []
    for cls in _ranked():
        here = cls.availability()
        verified = cls.capabilities.verified
        rows.append(RuntimeStatus(cls.name, here.ok, here.reason, here.next_step, verified))
    for name, error in _loaded()[1].items():
        why = f"{error.what} {error.got or ''}".strip()
        rows.append(RuntimeStatus(name, False, why, error.next_step or "", False))
    return rows


def quantizers_of_runtimes() -> dict[str, list[str]]:
    """What makes quantized files, by name, and the runtimes that it makes them for."""
    found: dict[str, list[str]] = {}
    for cls in _ranked():
        if cls.capabilities.quantizer is not None:
            found.setdefault(cls.capabilities.quantizer, []).append(cls.name)
    return found


def _ranked() -> list[type[Runtime]]:
    """The classes of all runtimes that can be imported, by preference."""
    return sorted(_loaded()[0], key=lambda c: (c.capabilities.preference, c.name))


def _loaded() -> tuple[list[type[Runtime]], dict[str, UserError]]:
    """The classes of all runtimes, and why others cannot be imported: a broken plug-in must not
    keep the rest from running."""
    classes, broken = [], {}
    for name in runtime_names():
        try:
            classes.append(runtime_class(name))
        except UserError as error:
            broken[name] = error
    return classes, broken
