"""ONNX -> TensorRT engine: find the library, parse, set profiles and options, build. Written to the
API of TensorRT 11.

It serves TensorRT 10.13 and later, TensorRT 11 and TensorRT-RTX alike: networks are strongly typed,
so precision lives in the ONNX file and no precision flag is ever set. Nothing here runs an engine,
so nothing here needs a GPU with TensorRT-RTX, which compiles ahead of time for the compute
capabilities it is given.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from rfx.core.errors import (
    EnvironmentMissingError,
    UnsupportedModelError,
    UsageError,
    first_line,
)
from rfx.core.workload import Workload
from rfx.runtimes.base import EngineOptions
from rfx.runtimes.tensorrt.log import (
    complaints,
    failure,
    layer_lines,
    logger,
    new_builder,
    weights_bytes,
)

OLDEST = (10, 13)
BUILDER_LEVEL = 3  # TensorRT's default, set in so many words: what was measured is then known
# Target -> modules, the best first.
PACKAGES = {
    "trt": ("tensorrt", "tensorrt_rtx"),
    "trt-rtx": ("tensorrt_rtx",),
}
INSTALL = {
    "trt": "pip install --extra-index-url https://pypi.nvidia.com 'rfx-exporter[trt13]' (or "
    "[trt12] with CUDA 12), or use NVIDIA's TensorRT image",
    "trt-rtx": "pip install 'rfx-exporter[rtx]'",
}
_DISTRIBUTIONS = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt_rtx": ("tensorrt-rtx", "tensorrt_rtx_cu13", "tensorrt_rtx_cu12"),
}


def module_name(target: str) -> str | None:
    """The installed module that serves `target`, not imported; None where there is none. A TensorRT
    that is too old gives way to TensorRT-RTX."""
    found = [m for m in PACKAGES[target] if importlib.util.find_spec(m) is not None]
    fit = [m for m in found if m != "tensorrt" or not too_old(installed_version(m))]
    return next(iter(fit or found), None)


def too_old(version: str) -> bool:
    """Older than 10.13. What says no number is not: the library itself is asked once it is
    loaded."""
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
    return bool(numbers) and numbers < OLDEST


def installed_version(module: str) -> str:
    """From the package's metadata, without importing it."""
    for name in _DISTRIBUTIONS[module]:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "of unknown version"


def library(target: str) -> ModuleType:
    """The TensorRT module for `trt` or `trt-rtx`.

    Raises:
        EnvironmentMissingError: not installed, cannot be loaded, or older than 10.13.
    """
    name = module_name(target)
    if name is None:
        raise EnvironmentMissingError(
            f"The target {target!r} needs a package that is not installed.",
            got=f"no {' or '.join(PACKAGES[target])}",
            next_step=INSTALL[target],
        )
    try:
        trt = importlib.import_module(name)
    except Exception as error:  # a missing libnvinfer comes as OSError, ImportError or RuntimeError
        raise EnvironmentMissingError(
            f"{name} is installed but cannot be loaded.",
            got=first_line(error),
            next_step=f"install it again with its libraries: {INSTALL[target]}",
        ) from error
    if name == "tensorrt":
        require_version(trt.__version__)
    return trt


def require_version(version: str) -> None:
    """Raises EnvironmentMissingError for a TensorRT older than 10.13."""
    if too_old(version):
        raise EnvironmentMissingError(
            "This TensorRT is too old: rfx builds strongly typed networks with the interface of "
            "TensorRT 11.",
            got=f"tensorrt {version}",
            allowed=f"{OLDEST[0]}.{OLDEST[1]} or newer",
            next_step="update TensorRT (on a Jetson: a newer JetPack), or use --target cuda",
        )


def require_options(module: str, options: EngineOptions) -> None:
    """Raises UsageError for options that the library (its module's name) never serves."""
    if module == "tensorrt_rtx" and options.version_compatible:
        raise UsageError(
            "TensorRT-RTX has no version compatible engines: it ships without TensorRT's lean "
            "runtime.",
            got="--version-compatible",
            allowed="--target trt with TensorRT itself",
            next_step="leave --version-compatible out",
        )
    if module == "tensorrt_rtx" and options.hardware_compatible:
        raise UsageError(
            "TensorRT-RTX knows no hardware compatibility: its engines are for the compute "
            "capabilities they are built for.",
            got="--hardware-compatible",
            allowed="--compute-capability, once for each",
            next_step="leave --hardware-compatible out",
        )


def is_rtx(trt: ModuleType) -> bool:
    return trt.__name__ == "tensorrt_rtx"


@dataclass(frozen=True)
class Built:
    """A serialised engine and what the builder said of it."""

    engine: bytes
    seconds: float
    layers: list[str]  # one line a fused layer, with the dimensions of its constants
    weights_bytes: int | None  # what the builder counts as weights
    facts: dict[str, Any] = field(default_factory=dict)


def build_engine(
    trt: ModuleType,
    model: Path,
    workload: Workload,
    options: EngineOptions,
    *,
    compute_capabilities: Sequence[str] = (),
    device: str = "",
) -> Built:
    """Parse and build.

    Args:
        compute_capabilities: e.g. ("8.9", "12.0"); TensorRT-RTX only. Empty: the GPU of this
            machine.
        device: the GPU's name, which the timing cache is kept under.

    Raises:
        UsageError: no such file, not an ONNX file, unknown compute capability, options that this
            library cannot serve.
        EnvironmentMissingError: CUDA cannot be used, or memory is short.
        UnsupportedModelError: the parser refuses a node, or the builder finds no implementation.
    """
    require_options(trt.__name__, options)
    log = logger(trt)
    started = time.perf_counter()
    with warnings.catch_warnings():
        # Of what is deprecated in one family member and needed in another.
        warnings.simplefilter("ignore")
        builder = new_builder(trt)  # clears the log
        network = _parse(trt, builder, model)
        config = builder.create_builder_config()
        # The layers are reported, engines stay as fast.
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if options.workspace_mb is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
        config.builder_optimization_level = (
            BUILDER_LEVEL if options.builder_level is None else options.builder_level
        )
        if options.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if options.hardware_compatible:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        if is_rtx(trt):
            _set_capabilities(trt, config, compute_capabilities)
        config.add_optimization_profile(_profile(builder, network, workload, options))
        # RTX has none: it compiles on the device.
        cache = None if is_rtx(trt) else TimingCache(trt, config, options, device)
        serialised = builder.build_serialized_network(network, config)
        if serialised is None:
            raise failure(trt, "TensorRT cannot build an engine from this model.")
        if cache is not None:
            cache.keep()
    texts = list(log.lines)
    return Built(
        bytes(serialised),
        time.perf_counter() - started,
        layer_lines(texts),
        weights_bytes(texts),
        {
            "library": f"{trt.__name__} {trt.__version__}",
            "timing_cache": None if cache is None else cache.origin,
        },
    )


def _parse(trt: ModuleType, builder: Any, model: Path) -> Any:
    """The typed network. A refusal names the node and the operator."""
    path = Path(model)
    if not path.is_file():
        raise UsageError(
            "The ONNX file does not exist.",
            got=str(path),
            allowed="an ONNX file",
            next_step="correct the path",
        )
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger(trt))
    if parser.parse_from_file(str(path)):
        return network
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    if not errors and any(severity <= 1 for severity, _ in logger(trt).problems):
        refused = failure(trt, "TensorRT cannot read the model.")
        if isinstance(refused, EnvironmentMissingError):  # no fault of the file
            raise refused
    unreadable = not errors or all(
        error.code() == trt.ErrorCode.MODEL_DESERIALIZE_FAILED for error in errors
    )
    if unreadable:
        raise UsageError(
            "TensorRT cannot read this ONNX file.",
            got=f"{path}: {complaints(trt) or 'not a valid ONNX file'}",
            allowed="an ONNX file",
            next_step="export it again",
        )
    lines = []
    for error in errors[:3]:
        where = (
            f"{error.node_operator() or 'an operator'} at node {error.node()} "
            f"({error.node_name() or 'unnamed'})"
        )
        lines.append(f"{where}: {error.desc().strip()}")
    more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
    raise UnsupportedModelError(
        f"TensorRT's parser refuses the model ({trt.__name__} {trt.__version__}).",
        got="; ".join(lines) + more,
        allowed="the operators that TensorRT parses, at the types they support",
        next_step="export with rfx (opset 20, eager attention); another --precision may be "
        "supported; or use --target cuda",
    )


def _profile(builder: Any, network: Any, workload: Workload, options: EngineOptions) -> Any:
    """min / opt / max of every input: the workload is the optimum, 1 x 1 the least."""
    profile = builder.create_optimization_profile()
    largest_batch, largest_sequence = options.largest(workload)
    sizes = {
        "batch": (1, workload.batch, largest_batch),
        "sequence": (1, workload.sequence, largest_sequence),
    }
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        shapes: list[list[int]] = [[], [], []]
        for axis, size in enumerate(tensor.shape):
            name = tensor.get_dimension_name(axis) or ("batch" if axis == 0 else "sequence")
            choice = sizes.get(name, sizes["sequence"]) if size == -1 else (size, size, size)
            for shape, value in zip(shapes, choice, strict=True):
                shape.append(value)
        profile.set_shape(tensor.name, *(tuple(shape) for shape in shapes))
    return profile


def known_capabilities(trt: ModuleType) -> dict[str, Any]:
    """What TensorRT-RTX can compile for, e.g. {"8.9": ComputeCapability.SM89}."""
    members = trt.ComputeCapability.__members__
    return {
        f"{name[2:-1]}.{name[-1]}": value
        for name, value in members.items()
        if re.fullmatch(r"SM\d{2,3}", name)
    }


def require_known(trt: ModuleType, wanted: Sequence[str]) -> dict[str, Any]:
    """The compute capabilities that TensorRT-RTX compiles for, by their name.

    Raises:
        UsageError: a wanted one is not among them.
    """
    known = known_capabilities(trt)
    unknown = [c for c in wanted if c not in known]
    if unknown:
        raise UsageError(
            "TensorRT-RTX does not compile for this compute capability.",
            got=", ".join(unknown),
            allowed=", ".join(known),
            next_step="leave --compute-capability out, and build on the GPU itself with TensorRT "
            "(rfx build model.onnx) or use --target cuda there",
        )
    return known


def _set_capabilities(trt: ModuleType, config: Any, wanted: Sequence[str]) -> None:
    known = require_known(trt, wanted)
    chosen = [known[c] for c in dict.fromkeys(wanted)] or [trt.ComputeCapability.CURRENT]
    config.num_compute_capabilities = len(chosen)
    for i, capability in enumerate(chosen):
        config.set_compute_capability(capability, i)


class TimingCache:
    """What kernels were timed before, by device and version: kept in the store, merged after every
    build, so that a second build is quick and chooses the same kernels."""

    def __init__(self, trt: ModuleType, config: Any, options: EngineOptions, device: str) -> None:
        self._config, self._store = config, options.store
        self.origin = "none"
        if self._store is None:
            return
        self._key = self._store.key("timing-cache", trt.__version__, device)
        # A corrupt one is removed there, with a warning.
        folder = self._store.get_folder("timing-cache", self._key)
        kept = (folder / "timing.cache").read_bytes() if folder else b""
        cache = config.create_timing_cache(kept)
        if kept and (cache is None or not config.set_timing_cache(cache, False)):
            self._store.warn("The timing cache is not valid for this TensorRT: it is made again.")
            self._store.remove("timing-cache", self._key)
            kept, cache = b"", config.create_timing_cache(b"")
        if not kept:
            config.set_timing_cache(cache, False)
        self.origin = "kept" if kept else "new"

    def keep(self) -> None:
        if self._store is None:
            return
        cache = self._config.get_timing_cache()
        if cache is not None:
            data = bytes(cache.serialize())

            def write(folder: Path) -> None:
                (folder / "timing.cache").write_bytes(data)

            self._store.put_folder("timing-cache", self._key, write)
