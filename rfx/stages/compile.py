"""Compile: an ONNX file into an engine file, for the GPU of this machine or ahead of time for others'."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rfx.errors import EnvironmentMissingError, UsageError, first_line
from rfx.runtimes import RUNTIMES, EngineOptions, runtime, runtime_class
from rfx.runtimes.base import Conditions
from rfx.store import require_file_place

COMPILERS = tuple(n for n in RUNTIMES if n.startswith("trt"))


def read_conditions(onnx_file: Path, *, batch: int | None = None, sequence: int | None = None) -> tuple[Conditions, int]:
    """What the file was exported for, from its metadata, and the longest sequence; a file of another tool gets the
    defaults (batch 1, sequence 128, fp32).

    Raises:
        UsageError: no such file, or not a valid ONNX file.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if not onnx_file.is_file():
        raise UsageError("The ONNX file does not exist.", got=str(onnx_file), allowed="an ONNX file")
    try:
        model = onnx.load(str(onnx_file), load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise UsageError(
            "This is not a valid ONNX file.", got=f"{onnx_file}: {first_line(error)}", allowed="an ONNX file",
            next_step="export it again",
        ) from None  # fmt: skip
    facts = {p.key.removeprefix("rfx."): p.value for p in model.metadata_props if p.key.startswith("rfx.")}

    def number(name: str, default: int) -> int:
        return int(facts[name]) if facts.get(name, "").isdigit() and int(facts[name]) > 0 else default

    conditions = Conditions(
        batch=batch or number("batch", 1), sequence=sequence or number("sequence", 128),
        precision=facts.get("precision", "fp32"),
    )  # fmt: skip
    return conditions, max(conditions.sequence, number("max_length", 1))


def compile_engine(
    onnx_file: Path, out: Path | None, *, target: str | None, options: EngineOptions, conditions: Conditions,
    compute_capabilities: Sequence[str] = (),
) -> tuple[Path, dict[str, Any]]:  # fmt: skip
    """Build an engine and write it with its facts beside it (`OUT.json`). Returns the file and the facts.

    Args:
        out: the engine file; None: beside the ONNX file, named after it.
        target: `trt` or `trt-rtx`; None: `trt-rtx` ahead of time, else what is installed.
        compute_capabilities: of other machines' GPUs ("8.9"); TensorRT-RTX compiles for them without a GPU.

    Raises:
        UsageError: a target that compiles no engines, a capability that is not known, a place that cannot be written.
        EnvironmentMissingError: no GPU, or no TensorRT.
        UnsupportedModelError: the parser refuses the model.
    """
    if target is not None and target not in COMPILERS:
        raise UsageError(
            "This target has no engine files.", got=target, allowed=", ".join(COMPILERS),
            next_step="serve the ONNX file itself" if target in RUNTIMES else "rfx env lists the runtimes",
        )  # fmt: skip
    if compute_capabilities and target == "trt":
        raise UsageError(
            "Only TensorRT-RTX compiles for a GPU that is not there.", got="--target trt with --compute-capability",
            allowed="--target trt-rtx", next_step="leave --target out, or build on the GPU itself",
        )  # fmt: skip
    path = out or onnx_file.with_suffix(".rtx.plan" if compute_capabilities or target == "trt-rtx" else ".plan")
    require_file_place(path)
    if compute_capabilities:
        from rfx.runtimes.engine_file import build_ahead, write_engine_file

        built, facts = build_ahead(onnx_file, conditions, options, compute_capabilities)
        return write_engine_file(built.plan, facts, path), facts
    target = target or "trt"
    here = runtime_class(target).availability()
    if not here.ok:
        raise EnvironmentMissingError(
            "An engine cannot be built for this machine's GPU.", got=here.reason,
            allowed="a machine with the GPU, or --compute-capability for TensorRT-RTX ahead of time",
            next_step="rfx build MODEL.onnx --compute-capability 8.9, or serve the ONNX file with ONNX Runtime",
        )  # fmt: skip
    engine = runtime(target, options).build(onnx_file, conditions)
    try:
        engine.save(path)
        return path, engine.facts
    finally:
        engine.close()
