"""What TensorRT says while it builds and runs: the logger, its errors as ours, and the fused layers
it tells of."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from rfx.core.errors import (
    EnvironmentMissingError,
    UnsupportedModelError,
    UsageError,
    UserError,
    first_line,
)

_KEPT_LINES = 20000  # of the verbose lines, the last
_KEPT_PROBLEMS = 200  # of errors and warnings, the first and the last
_WARNING, _ERROR = 2, 1  # ILogger.Severity: 0 internal error, 1 error, 2 warning, 3 info, 4 verbose

# What the machine lacks, whatever the model: the CUDA runtime's errors, and memory.
_MACHINE = re.compile(
    r"cudaError|Cuda Runtime|CUDA initialization|out of memory|OutOfMemory|insufficient memory",
    re.IGNORECASE,
)
# What the person asked for, whatever the model.
_WORKSPACE = re.compile(r"workspace (limit|memory|size)", re.IGNORECASE)
_SIZES = re.compile(r"k(MIN|OPT|MAX) values for profile \d+ violate")

_loggers: dict[str, Any] = {}


def logger(trt: ModuleType) -> Any:
    """The one logger of this process (the first that a TensorRT sees wins). It prints nothing and
    keeps what is said: errors and warnings in `problems`, as (severity, text), all else in `lines`,
    where the last push out the first."""
    if trt.__name__ not in _loggers:
        base: Any = trt.ILogger

        class Collecting(base):
            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                self.problems: list[tuple[int, str]] = []
                self.lines: deque[str] = deque(maxlen=_KEPT_LINES)

            def log(self, severity: Any, message: str) -> None:
                if int(severity) > _WARNING:
                    self.lines.append(str(message))
                    return
                self.problems.append((int(severity), str(message)))
                if len(self.problems) > 2 * _KEPT_PROBLEMS:
                    # The first say why, the last what came of it.
                    del self.problems[_KEPT_PROBLEMS]

            def clear(self) -> None:
                self.problems.clear()
                self.lines.clear()

        _loggers[trt.__name__] = Collecting()
    return _loggers[trt.__name__]


def _errors(trt: ModuleType) -> list[str]:
    texts = [text.strip() for severity, text in logger(trt).problems if severity <= _ERROR]
    return list(dict.fromkeys(text.splitlines()[0] for text in texts if text))


def complaints(trt: ModuleType) -> str:
    """The errors that the logger heard, in one line: the first, which says why, and the last."""
    errors = _errors(trt)
    return "; ".join(errors if len(errors) <= 3 else [errors[0], *errors[-2:]])[:600]


def failure(trt: ModuleType, what: str) -> UserError:
    """The error to raise where nothing was built: of the machine (exit 4) where CUDA or memory
    failed, of the options (exit 2) where they ask for what cannot be, else of the model."""
    machine = [text for text in _errors(trt) if _MACHINE.search(text)]
    if machine:
        return EnvironmentMissingError(
            f"{what[:-1]}: the GPU or its driver fails, or memory is short.",
            got="; ".join(machine[:2])[:600],
            next_step="free GPU memory, lower --workspace-mb or the batch size, or update the "
            "driver; see `rfx env`",
        )
    if short := [text for text in _errors(trt) if _WORKSPACE.search(text)]:
        return UsageError(
            "The workspace is too small for the kernels of this model.",
            got=short[0],
            allowed="a larger --workspace-mb; without it, all of the GPU's memory",
            next_step="raise --workspace-mb (256 is a usual size), or leave it out",
        )
    if wrong := [text for text in _errors(trt) if _SIZES.search(text)]:
        return UsageError(
            "The engine was asked for sizes that the model does not take.",
            got=wrong[0],
            allowed="at most as many tokens as the model has positions",
            next_step="lower --sequence and --max-sequence",
        )
    return UnsupportedModelError(
        what,
        got=complaints(trt) or "no reason was given",
        next_step="export the model again with this version of rfx; if it stays, report it with "
        "`rfx env`",
    )


def new_builder(trt: ModuleType) -> Any:
    """Raises EnvironmentMissingError where CUDA cannot be initialised."""
    return _made(trt, trt.Builder)


def new_runtime(trt: ModuleType) -> Any:
    """Raises EnvironmentMissingError where CUDA cannot be initialised."""
    return _made(trt, trt.Runtime)


def _made(trt: ModuleType, kind: Any) -> Any:
    logger(trt).clear()
    try:
        return kind(logger(trt))
    except Exception as error:
        # A TypeError, "factory function returned nullptr", that says nothing of why.
        raise EnvironmentMissingError(
            f"{trt.__name__} {trt.__version__} cannot use this machine's GPU and driver.",
            got=complaints(trt) or first_line(error),
            allowed="a driver at least as new as the CUDA that TensorRT was built for",
            next_step="update the NVIDIA driver, or install the TensorRT of the driver's CUDA "
            "version ([trt12] or [trt13])",
        ) from error


def layer_lines(messages: Sequence[str]) -> list[str]:
    """The fused layers as TensorRT-RTX's builder prints them: name, type, and the dimensions of its
    constants."""
    lines = []
    for message in messages:
        for line in message.splitlines():
            found = re.match(r"\s*Name: (.+?), LayerType: (\w+), (.*)", line)
            if found is None:
                continue
            name, kind, rest = found.groups()
            constants = re.search(r"Constants: \[(.*?)\], Outputs:", rest)
            dims = re.findall(r"Dimensions: \[([\d,-]+)\]", constants.group(1)) if constants else []
            lines.append(_layer(kind, name, dims))
    return list(dict.fromkeys(lines))


def inspected_layers(trt: ModuleType, engine: Any) -> list[str]:
    """The fused layers of an engine as TensorRT's inspector tells them, for builders that print
    none: name, type, the dimensions of its outputs, and how many weights it has. Empty where the
    inspector says nothing."""
    try:
        inspector = engine.create_engine_inspector()
        layers = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))[
            "Layers"
        ]
    except Exception:  # the list is for the reader alone: no engine is refused for want of it
        return []
    lines = []
    for layer in layers:
        if not isinstance(layer, dict):
            # An engine built without detailed verbosity has names alone.
            lines.append(str(layer))
            continue
        dims = [
            ",".join(str(d) for d in out.get("Dimensions", []))
            for out in layer.get("Outputs", [])
            if isinstance(out, dict)
        ]
        weights = layer.get("Weights")
        count = weights.get("Count") if isinstance(weights, dict) else None
        line = _layer(
            str(layer.get("LayerType", "layer")),
            str(layer.get("Name", "unnamed")),
            [d for d in dims if d],
        )
        lines.append(line + (f" {count} weights" if count else ""))
    return list(dict.fromkeys(lines))


def _layer(kind: str, name: str, dims: Sequence[str]) -> str:
    return f"{kind}: {name}" + (f" {' '.join('[' + d + ']' for d in dims)}" if dims else "")


def weights_bytes(messages: Sequence[str]) -> int | None:
    """What the builder counts as weights."""
    for message in reversed(messages):
        found = re.search(r"Total Weights Memory: (\d+) bytes", message)
        if found:
            return int(found.group(1))
    return None
