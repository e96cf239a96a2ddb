"""The runtimes, by name. A new one is a file with a `Runtime` class and a line here; nothing is
imported early."""

from __future__ import annotations

from importlib import import_module

from rfx.core.errors import EnvironmentMissingError, UsageError
from rfx.runtimes.base import EngineOptions, Runtime

# name -> "module:class", the best first: `best_runtime` takes the first that runs here
RUNTIMES: dict[str, str] = {
    "trt": "rfx.runtimes.tensorrt.runtime:TensorRT",
    "trt-rtx": "rfx.runtimes.tensorrt.runtime:TensorRTRtx",
    "cuda": "rfx.runtimes.onnxruntime:OnnxRuntimeCuda",
    "ort": "rfx.runtimes.onnxruntime:OnnxRuntimeCpu",
    "openvino": "rfx.runtimes.openvino:OpenVino",
}


def runtime_class(name: str) -> type[Runtime]:
    """The class registered under `name`, whether it can run here or not.

    Raises:
        UsageError: no runtime has this name.
    """
    if name not in RUNTIMES:
        raise UsageError(
            "There is no runtime of this name.",
            got=name,
            allowed=", ".join(["auto", *RUNTIMES]),
            next_step="give one of these with --target; `rfx env` says which run here",
        )
    module, cls = RUNTIMES[name].split(":")
    return getattr(import_module(module), cls)


def runtime(name: str, options: EngineOptions | None = None) -> Runtime:
    """The runtime `name`, ready to build engines as `options` say; "auto" is the best one of this
    machine.

    Raises:
        UsageError: no runtime has this name.
        EnvironmentMissingError: it cannot run here; the message says what is missing and what would
            run instead.
    """
    if name == "auto":
        return best_runtime(options)
    cls = runtime_class(name)
    here = cls.availability()
    if not here.ok:
        others = [n for n in RUNTIMES if n != name and runtime_class(n).availability().ok]
        would_run = (
            f"would run here: {', '.join(f'--target {n}' for n in others)}"
            if others
            else "none runs here"
        )
        raise EnvironmentMissingError(
            f"The runtime {name!r} cannot run on this machine.",
            got=here.reason,
            allowed=would_run,
            next_step=here.next_step or None,
        )
    return cls(options)


def best_runtime(options: EngineOptions | None = None) -> Runtime:
    """The first runtime of `RUNTIMES` that can run here.

    Raises:
        EnvironmentMissingError: none can; the message has every reason.
    """
    reasons = []
    for name in RUNTIMES:
        cls = runtime_class(name)
        here = cls.availability()
        if here.ok:
            return cls(options)
        reasons.append(f"{name}: {here.reason}")
    raise EnvironmentMissingError(
        "No runtime can run on this machine.",
        got="; ".join(reasons),
        next_step="pip install onnxruntime",
    )
