"""Engine files of TensorRT: the engine, and beside it a JSON file that says for which machine it is
and what it was made of."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from rfx.core import migrate
from rfx.core.bounded import read_json
from rfx.core.errors import EnvironmentMissingError, UsageError
from rfx.core.folders import atomic_files
from rfx.core.workload import Workload
from rfx.runtimes.base import EngineOptions
from rfx.runtimes.gpu import compute_capability, cuda_version, gpu_state
from rfx.runtimes.tensorrt.build import (
    BUILDER_LEVEL,
    Built,
    build_engine,
    library,
    require_known,
)

FACTS_SUFFIX = ".json"  # of the file that lies beside an engine


def build_ahead(
    onnx_path: Path,
    workload: Workload,
    options: EngineOptions,
    compute_capabilities: Sequence[str],
) -> tuple[Built, dict]:
    """An engine of TensorRT-RTX for other machines' GPUs; needs no GPU here. Returns it and the
    facts to lie beside it.

    Raises:
        EnvironmentMissingError: TensorRT-RTX is not installed.
        UsageError, UnsupportedModelError: see `build_engine`.
    """
    trt = library("trt-rtx")
    built = build_engine(
        trt, onnx_path, workload, options, compute_capabilities=compute_capabilities
    )
    return built, engine_facts(
        trt, built, onnx_path, workload, options, capabilities=compute_capabilities
    )


def require_capabilities(wanted: Sequence[str]) -> None:
    """Before any work: TensorRT-RTX is here and compiles for these.

    Raises:
        EnvironmentMissingError: it is not installed. UsageError: a compute capability it does not
            know.
    """
    require_known(library("trt-rtx"), wanted)


def engine_facts(
    trt: ModuleType,
    built: Built,
    onnx_path: Path,
    workload: Workload,
    options: EngineOptions,
    *,
    device: str = "",
    capabilities: Sequence[str] = (),
) -> dict[str, Any]:
    """What lies beside an engine: for which machine it is and from what it was made."""
    from rfx.core.version import __version__

    largest = options.largest(workload)
    return {
        "schema_version": migrate.ENGINE_FACTS,
        "tool": f"rfx {__version__}",
        "library": f"{trt.__name__} {trt.__version__}",
        "device": device or None,
        "compute_capability": list(compute_capability() or []) if device else None,
        "compute_capabilities": list(capabilities),
        "cuda": cuda_version() or None,
        "state": gpu_state() if device else None,
        "onnx_sha256": hashlib.sha256(onnx_path.read_bytes()).hexdigest(),
        "engine_sha256": hashlib.sha256(built.engine).hexdigest(),
        "engine_bytes": len(built.engine),
        "weights_bytes": built.weights_bytes,
        "seconds": round(built.seconds, 2),
        "layers": built.layers,
        "profile": {
            "min": [1, 1],
            "opt": [workload.batch, workload.sequence],
            "max": list(largest),
        },
        "precision": workload.precision,
        "options": {"builder_level": BUILDER_LEVEL, **options.to_json()},
        "timing_cache": built.facts.get("timing_cache"),
    }


def write_engine_file(data: bytes, facts: dict[str, Any], path: Path) -> Path:
    """The engine and its facts, both or neither. A link stays a link: both lie where it leads."""
    path = Path(os.path.realpath(path))
    with atomic_files(path, path.with_name(path.name + FACTS_SUFFIX)) as (compiled, beside):
        compiled.write_bytes(data)
        beside.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return path


def read_engine_file(path: Path) -> tuple[bytes, dict[str, Any]]:
    """An engine file and the facts beside it ({} where there are none: an engine of another tool).

    Raises:
        UsageError: no such file.
        EnvironmentMissingError: the engine is empty, truncated or not the one the facts speak of.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            "The engine file cannot be read.",
            got=f"{path}: {error.strerror}",
            allowed="an engine of `rfx build`",
            next_step="check the path, or build it again with `rfx build`",
        ) from None
    try:
        facts = read_json(_facts_of(path), what="engine's facts")
    except UsageError:
        facts = {}
    facts = migrate.engine_facts(facts, str(path)) if isinstance(facts, dict) else {}
    expected = facts.get("engine_bytes")
    if not data or (expected is not None and len(data) != expected):
        raise unfit(
            path,
            f"{len(data)} bytes of {expected if expected is not None else 'unknown'}: the file is "
            "truncated",
        )
    if facts.get("engine_sha256") not in (None, hashlib.sha256(data).hexdigest()):
        raise unfit(path, "its checksum is not the one that was recorded: the file is damaged")
    return data, facts


def _facts_of(path: Path) -> Path:
    """The facts beside an engine, or beside the one that a link names."""
    beside = path.with_name(path.name + FACTS_SUFFIX)
    if beside.exists():
        return beside
    path = Path(os.path.realpath(path))
    return path.with_name(path.name + FACTS_SUFFIX)


def require_same(path: Path, facts: dict, here: dict[str, str], *, portable: bool) -> None:
    """An engine runs where it was built: under the same library version (the same major with the
    option) and GPU."""
    if not facts:
        return
    options = facts.get("options", {})
    ours, theirs = here["library"].split(), str(facts.get("library", "")).split()
    same_library = ours == theirs or (
        bool(options.get("version_compatible"))
        and ours[0] == theirs[0]
        and version_numbers(ours[1])[0] == version_numbers(theirs[1])[0]
    )
    if theirs and not same_library:
        raise unfit(path, f"built by {' '.join(theirs)}, here is {here['library']}")
    capabilities = facts.get("compute_capabilities")
    if portable and capabilities:
        major, minor = compute_capability() or (0, 0)
        if f"{major}.{minor}" not in capabilities:
            raise unfit(
                path,
                f"built for compute capability {', '.join(capabilities)}, this GPU has "
                f"{major}.{minor}",
            )
    elif (
        facts.get("device")
        and facts["device"] != here["device"]
        and not options.get("hardware_compatible")
    ):
        raise unfit(path, f"built on {facts['device']}, here is {here['device']}")


def unfit(path: Path, why: str) -> EnvironmentMissingError:
    return EnvironmentMissingError(
        "This TensorRT engine cannot be used here.",
        got=f"{path}: {why}",
        allowed="an engine built by this TensorRT version on this GPU",
        next_step="build it here: rfx build MODEL.onnx",
    )


def version_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version)[:2]) or (0, 0)
