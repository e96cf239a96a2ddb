"""Polygraphy, silent and on the TensorRT that is asked for."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rfx.core.errors import EnvironmentMissingError, UsageError, first_line
from rfx.measure.parity.sides import REFERENCE
from rfx.runtimes.find import locators, runtime_class
from rfx.runtimes.tensorrt.build import is_rtx, library
from rfx.runtimes.tensorrt.log import complaints, logger


def require(runtime: str) -> None:
    if runtime not in (known := (REFERENCE, *locators())):
        raise UsageError(
            "Polygraphy compares no such runtime.",
            got=runtime,
            allowed=", ".join(known),
            next_step="give one of these runtimes",
        )
    if importlib.util.find_spec("polygraphy") is None:
        what, next_step = (
            "Polygraphy, which compares runtimes, is not installed.",
            "pip install 'rfx-exporter[rtx]'",
        )
        raise EnvironmentMissingError(
            what, next_step=f"{next_step}, or pip install 'polygraphy>=0.53'"
        )
    if not (here := runtime_class(runtime).availability()).ok:
        what = f"The runtime {runtime!r} cannot run here to be compared."
        raise EnvironmentMissingError(what, got=here.reason, next_step=here.next_step)


@contextmanager
def silent_polygraphy(runtime: str) -> Iterator[None]:
    """Polygraphy silent, on the TensorRT that serves `runtime`, its errors in rfx's words;
    afterwards as it was."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state
    from polygraphy import config
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    compiled = runtime_class(runtime).capabilities.locates_differences
    trt = library(runtime) if compiled else None
    held: list[tuple[Any, str, Any]] = [(config, "USE_TENSORRT_RTX", config.USE_TENSORRT_RTX)]
    try:
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1):
            if trt is not None:
                config.USE_TENSORRT_RTX = is_rtx(trt)
                import polygraphy.backend.tensorrt_rtx  # noqa: F401 - now, so that no later import chooses otherwise
                from polygraphy.backend.trt import util
                from polygraphy.mod.trt_importer import lazy_import_trt

                # Its modules hold the library that was chosen when they were imported: perhaps the
                # other of the two.
                for module in [
                    m for name, m in sys.modules.items() if name.startswith("polygraphy.")
                ]:
                    if type(vars(module).get("trt")).__name__ == "LazyModule":
                        held.append((module, "trt", vars(module)["trt"]))
                        setattr(module, "trt", lazy_import_trt())  # noqa: B010 - a module's
                held.append((util, "TRT_LOGGER", util.TRT_LOGGER))
                # One a process: the first that TensorRT sees wins, and rfx reads its own.
                util.TRT_LOGGER = logger(trt)
                util.TRT_LOGGER.clear()
            yield
    except (
        PolygraphyException,
        state.InvalidArgument,
        state.Fail,
        state.RuntimeException,
        OSError,
    ) as error:
        if trt is None:
            raise UsageError(
                "The model cannot be run on these inputs.",
                got=first_line(error),
                next_step="give inputs of the shapes and types that the model asks for",
            ) from error
        got = complaints(trt) or first_line(error)
        next_step = (
            "rfx build says what TensorRT refuses; libcudart.so has to be on "
            "LD_LIBRARY_PATH for Polygraphy"
        )
        raise EnvironmentMissingError(
            "TensorRT cannot run the model.", got=got, next_step=next_step
        ) from error
    finally:
        for owner, name, value in held:
            setattr(owner, name, value)
