"""Compile an ONNX file into an engine file, for the GPU of this machine or ahead of time for
others'."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rfx.core import files
from rfx.core.bounded import as_path
from rfx.core.errors import EnvironmentMissingError, UsageError
from rfx.core.progress import Progress, Silent
from rfx.core.store import Store
from rfx.core.values import short
from rfx.core.workload import Workload
from rfx.export.facts import read_model
from rfx.export.triton import READ_ENGINES, specs_of, write_triton
from rfx.pipeline import places, require
from rfx.recipe.sections import MOST_BATCH, MOST_TOKENS, EngineSpec
from rfx.runtimes.base import EngineOptions, Runtime
from rfx.runtimes.find import AUTO, compilers, runtime, runtime_class, runtime_names
from rfx.runtimes.gpu import require_compute


class BuiltEngine(NamedTuple):
    """An engine file, and what lies beside it: for which machine it is and what it was made of."""

    file: Path
    facts: dict[str, Any]


@dataclass(frozen=True)
class OnnxFacts:
    """What an ONNX file says of itself, in the metadata that rfx writes; a file of another tool
    gets the defaults (batch 1, sequence 128, fp32)."""

    batch: int = 1
    sequence: int = 128
    max_length: int = 1
    positions: int | None = None  # tokens that the model takes; None: not known
    precision: str = "fp32"


def build(
    onnx: str | Path,
    out: str | Path | None = None,
    *,
    target: str | None = None,
    compute_capabilities: Sequence[str] = (),
    batch: int | None = None,
    sequence: int | None = None,
    max_batch: int | None = None,
    max_sequence: int | None = None,
    workspace_mb: int | None = None,
    builder_level: int | None = None,
    version_compatible: bool = False,
    hardware_compatible: bool = False,
    store: Store | None = None,
    progress: Progress | None = None,
    **more: Any,
) -> BuiltEngine:
    """Build an engine and write it with its facts beside it (`OUT.json`).

    Args:
        onnx: an ONNX file, e.g. model.onnx of an output.
        out: the engine file; None: beside the ONNX file, named after it.
        target: a runtime that compiles engines; None or "auto": the one that builds
            ahead of time where `compute_capabilities` are given, else the best of this machine.
        compute_capabilities: of other machines' GPUs ("8.9"), for which an engine is compiled
            without a GPU.
        batch: the size that the engine is tuned for; None: that which the file was made for.
        sequence: the same, tokens.
        max_batch: the largest size that it takes.
        max_sequence: the same, tokens.
        workspace_mb: MiB that kernels may use while they run.
        builder_level: optimisation level, 0 to 5; higher builds longer.
        version_compatible: it runs under later minor versions of the library.
        hardware_compatible: it runs on every GPU from Ampere on.
        more: options that a runtime of another package brings.

    Raises:
        UsageError: a target that compiles no engines, a capability that is not known, a place that
            cannot be written, not an ONNX file.
        EnvironmentMissingError: no GPU, or no library that compiles.
        UnsupportedModelError: the parser refuses the model.

    Examples:
        >>> rfx.build("build/model.onnx", compute_capabilities=["8.9"]).file
        PosixPath('build/model.rtx.engine')
    """
    progress = progress or Silent()
    for option, value, most in (
        ("--batch", batch, MOST_BATCH),
        ("--sequence", sequence, MOST_TOKENS),
    ):
        if value is not None and (type(value) is not int or not 1 <= value <= most):
            raise UsageError(
                f"{option} is not a size.",
                got=short(value),
                allowed=f"1 to {most}",
                next_step=f"correct {option}",
            )
    file = as_path(onnx, "ONNX file", "an ONNX file, e.g. model.onnx of an output of prune-export")
    said = read_facts(file)
    for option, value in (("--sequence", sequence), ("--max-sequence", max_sequence)):
        require.size(option, value, 1, "any input", positions=said.positions)
    workload = Workload.of_text(
        batch=batch or said.batch, sequence=sequence or said.sequence, precision=said.precision
    )
    options = EngineOptions(
        max_batch=max_batch,
        max_sequence=max_sequence or max(workload.sequence, said.max_length),
        workspace_mb=workspace_mb,
        builder_level=builder_level,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        store=store or Store(warn=progress.warn),
        more=more,
    )
    for name, largest, wanted in (
        ("batch", options.max_batch, workload.batch),
        ("sequence", options.max_sequence, workload.sequence),
    ):
        why = "the size the engine is tuned for"
        require.size(f"--max-{name}", largest, wanted, why, lower=f"--{name}")
    cls = _compiler(target, compute_capabilities)
    if more and cls.__module__.startswith("rfx."):
        raise UsageError(
            "There is no such option of an engine.",
            got=", ".join(sorted(more)),
            allowed=", ".join(sorted(EngineSpec.model_fields)),
            next_step="correct it; `rfx build --help` describes the options",
        )
    asked = {f"--compute-capability {c}": c for c in compute_capabilities}
    require_compute(cls.capabilities, workload.precision, asked)
    path = (
        files.as_path(out)
        if out is not None
        else file.with_suffix(str(cls.capabilities.engine_suffix))
    )
    if file.resolve() in (path.resolve(), Path(f"{path}.json").resolve()):
        raise UsageError(
            "The engine would be written over the model it is built from.",
            got=str(path),
            allowed="another file",
            next_step="do without --out: the engine is then written beside the model",
        )
    path = places.engine_file(path)
    with progress.bar("building the engine", None):
        if compute_capabilities:
            return _ahead(cls, file, path, workload, options, compute_capabilities)
        return _here(cls, file, path, workload, options, progress.warn)


def _compiler(target: str | None, compute_capabilities: Sequence[str]) -> type[Runtime]:
    """The runtime that compiles."""
    known = compilers()
    elsewhere = [n for n in known if runtime_class(n).capabilities.builds_elsewhere]
    if target is None or target == AUTO:
        return runtime_class(elsewhere[0] if compute_capabilities else known[0])
    if target not in known:
        there = target in runtime_names()
        raise UsageError(
            "This target has no engine files." if there else "There is no such target.",
            got=target,
            allowed=", ".join(known),
            next_step="serve the ONNX file itself" if there else "rfx env lists the runtimes",
        )
    if compute_capabilities and target not in elsewhere:
        raise UsageError(
            "This target does not compile for a GPU that is not there.",
            got=f"--target {target} with --compute-capability",
            allowed=", ".join(f"--target {n}" for n in elsewhere),
            next_step="leave --target out, or build on the GPU itself",
        )
    return runtime_class(target)


def _ahead(
    cls: type[Runtime],
    file: Path,
    path: Path,
    workload: Workload,
    options: EngineOptions,
    compute_capabilities: Sequence[str],
) -> BuiltEngine:
    wanted = tuple(dict.fromkeys(compute_capabilities))
    facts = cls(options).build_elsewhere(file, workload, wanted, path)
    places.record_engine(path)
    return BuiltEngine(path, facts)


def _here(
    cls: type[Runtime],
    file: Path,
    path: Path,
    workload: Workload,
    options: EngineOptions,
    warn: Callable[[str], None],
) -> BuiltEngine:
    here = cls.availability()
    if not here.ok:
        raise EnvironmentMissingError(
            "An engine cannot be built for this machine's GPU.",
            got=here.reason,
            allowed="a machine with the GPU, or --compute-capability to build ahead of time with "
            "TensorRT-RTX",
            next_step="rfx build MODEL.onnx --compute-capability 8.9, or serve the ONNX file with "
            "ONNX Runtime",
        )
    builder = runtime(cls.name, options)
    engine = builder.build(file, workload)
    try:
        engine.save(path)
        places.record_engine(path)
        served = serve_engine(builder, file, path, workload, options, warn)
        if served is not None:
            places.record_served(served)
        return BuiltEngine(path, dict(engine.facts))
    finally:
        engine.close()


def serve_engine(
    builder: Runtime,
    onnx: Path,
    engine: Path,
    workload: Workload,
    options: EngineOptions,
    warn: Callable[[str], None] = warnings.warn,
) -> Path | None:
    """Where the ONNX file is that of an output with a Triton repository, let that serve the engine
    from now on, if Triton reads engines of this runtime and nobody has edited the repository.

    Args:
        warn: told of a repository that was edited, and is left as it is.

    Returns:
        The model's folder in the repository; None where nothing was changed.
    """
    root = onnx.parent / "triton"
    models = []
    if root.is_dir():
        models = [p.name for p in root.iterdir() if (p / "config.pbtxt").is_file()]
    beside = engine.resolve().parent == onnx.resolve().parent
    backend = builder.serving_platform()
    if len(models) != 1 or not beside or backend is None or backend not in READ_ENGINES:
        return None
    if edited := places.edited(root / models[0]):
        warn(
            f"The Triton repository {root / models[0]} was changed by somebody ({edited[0]}). It "
            f"is left as it is, and does not serve {engine.name}."
        )
        return None
    inputs, outputs = specs_of(onnx)
    return write_triton(
        root,
        name=models[0],
        model_file=engine,
        backend=backend,
        inputs=inputs,
        outputs=outputs,
        max_batch=options.largest(workload)[0],
        warmup=(workload.batch, workload.sequence),
        on_gpu=True,
    )


def read_facts(file: Path) -> OnnxFacts:
    """What the metadata of an ONNX file say.

    Raises:
        UsageError: as `rfx.export.facts.read_model`.
    """
    model = read_model(file)
    facts = {p.key: p.value for p in model.metadata_props}

    def number(name: str) -> int | None:
        text = facts.get(f"rfx.{name}", "")
        return int(text) if text.isdigit() and int(text) > 0 else None

    return OnnxFacts(
        batch=number("batch") or 1,
        sequence=number("sequence") or 128,
        max_length=number("max_length") or 1,
        positions=number("positions"),
        precision=facts.get("rfx.precision", "fp32"),
    )
