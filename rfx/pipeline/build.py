"""Compile: an ONNX file into an engine file, for the GPU of this machine or ahead of time for
others'."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rfx.core.errors import EnvironmentMissingError, UsageError, first_line
from rfx.core.store import require_file_place
from rfx.core.workload import Workload
from rfx.pipeline.require import require_size
from rfx.runtimes.base import EngineOptions, Runtime
from rfx.runtimes.find import (
    builder_elsewhere,
    compilers,
    runtime,
    runtime_class,
    runtime_names,
)


def read_workload(
    onnx_file: Path,
    *,
    batch: int | None = None,
    sequence: int | None = None,
    max_sequence: int | None = None,
) -> tuple[Workload, int]:
    """What the file was exported for, from its metadata, and the longest sequence; a file of
    another tool gets the defaults (batch 1, sequence 128, fp32).

    Raises:
        UsageError: no such file, not a valid ONNX file, or a sequence longer than the model has
            positions.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if not onnx_file.is_file():
        what = (
            "This is a folder, not an ONNX file."
            if onnx_file.is_dir()
            else "The ONNX file does not exist."
        )
        raise UsageError(
            what,
            got=str(onnx_file),
            allowed="an ONNX file, e.g. model.onnx of an output of prune-export",
        )
    for option, value in (("--batch", batch), ("--sequence", sequence)):
        if value is not None and value < 1:
            raise UsageError(
                f"{option} is not a size.",
                got=value,
                allowed="1 or more",
                next_step=f"correct {option}",
            )
    try:
        model = onnx.load(
            str(onnx_file), format="protobuf", load_external_data=False
        )  # whatever its name ends in
    except (DecodeError, ValueError, OSError) as error:
        raise UsageError(
            "This is not a valid ONNX file.",
            got=f"{onnx_file}: {first_line(error)}",
            allowed="an ONNX file",
            next_step="export it again",
        ) from None
    if not model.graph.output:
        raise UsageError(
            "This ONNX file has no outputs.",
            got=str(onnx_file),
            allowed="a model",
            next_step="export it again",
        )
    facts = {
        p.key.removeprefix("rfx."): p.value
        for p in model.metadata_props
        if p.key.startswith("rfx.")
    }

    def number(name: str, default: int) -> int:
        return (
            int(facts[name]) if facts.get(name, "").isdigit() and int(facts[name]) > 0 else default
        )

    workload = Workload.of_text(
        batch=batch or number("batch", 1),
        sequence=sequence or number("sequence", 128),
        precision=facts.get("precision", "fp32"),
    )
    positions = number("positions", 0)  # 0: not known
    for option, value in (("--sequence", sequence), ("--max-sequence", max_sequence)):
        require_size(option, value, 1, "any input", positions=positions or None)
    return workload, max_sequence or max(workload.sequence, number("max_length", 1))


def compile_engine(
    onnx_file: Path,
    out: Path | None,
    *,
    target: str | None,
    options: EngineOptions,
    workload: Workload,
    compute_capabilities: Sequence[str] = (),
) -> tuple[Path, dict[str, Any]]:
    """Build an engine and write it with its facts beside it (`OUT.json`). Returns the file and the
    facts.

    Args:
        out: the engine file; None: beside the ONNX file, named after it.
        target: `trt` or `trt-rtx`; None: `trt-rtx` ahead of time, else what is installed.
        compute_capabilities: of other machines' GPUs ("8.9"); TensorRT-RTX compiles for them
            without a GPU.

    Raises:
        UsageError: a target that compiles no engines, a capability that is not known, a place that
            cannot be written.
        EnvironmentMissingError: no GPU, or no TensorRT.
        UnsupportedModelError: the parser refuses the model.
    """
    for size, largest, wanted in (
        ("batch", options.max_batch, workload.batch),
        ("sequence", options.max_sequence, workload.sequence),
    ):
        require_size(
            f"--max-{size}", largest, wanted, "the size the engine is tuned for", lower=f"--{size}"
        )
    if target is not None and target not in compilers():
        known = target in runtime_names()
        raise UsageError(
            "This target has no engine files." if known else "There is no such target.",
            got=target,
            allowed=", ".join(compilers()),
            next_step="serve the ONNX file itself" if known else "rfx env lists the runtimes",
        )
    elsewhere = builder_elsewhere(options) if compute_capabilities else None
    if elsewhere is not None and target is not None:
        if not runtime_class(target).capabilities.builds_elsewhere:
            raise UsageError(
                "This target does not compile for a GPU that is not there.",
                got=f"--target {target} with --compute-capability",
                allowed=f"--target {elsewhere.name}",
                next_step="leave --target out, or build on the GPU itself",
            )
        elsewhere = runtime_class(target)(options)
    target = target or compilers()[0]
    able = (elsewhere or runtime_class(target)).capabilities
    path = out or onnx_file.with_suffix(str(able.engine_suffix))
    require_file_place(path)
    if onnx_file.resolve() in (path.resolve(), Path(f"{path}.json").resolve()):
        raise UsageError(
            "The engine would be written over the model it is built from.",
            got=str(path),
            allowed="another file",
            next_step="leave --out out: the engine then lies beside the model",
        )
    compute_capabilities = tuple(dict.fromkeys(compute_capabilities))
    if elsewhere is not None:
        return path, elsewhere.build_elsewhere(onnx_file, workload, compute_capabilities, path)
    here = runtime_class(target).availability()
    if not here.ok:
        raise EnvironmentMissingError(
            "An engine cannot be built for this machine's GPU.",
            got=here.reason,
            allowed="a machine with the GPU, or --compute-capability for TensorRT-RTX ahead of "
            "time",
            next_step="rfx build MODEL.onnx --compute-capability 8.9, or serve the ONNX file with "
            "ONNX Runtime",
        )
    compiler = runtime(target, options)
    engine = compiler.build(onnx_file, workload)
    try:
        engine.save(path)
        serve_engine(onnx_file, path, workload, compiler)
        return path, dict(engine.facts)
    finally:
        engine.close()


def serve_engine(
    onnx_file: Path, engine_file: Path, workload: Workload, compiler: Runtime
) -> Path | None:
    """Where the ONNX file is that of an output with a Triton repository, let that serve the engine
    from now on, if one of Triton's backends reads what `compiler` built."""
    from rfx.export.triton import specs_of, write_triton

    root = onnx_file.parent / "triton"
    models = (
        [p.name for p in root.iterdir() if (p / "config.pbtxt").is_file()] if root.is_dir() else []
    )
    if (
        len(models) != 1
        or engine_file.resolve().parent != onnx_file.resolve().parent
        or compiler.serving_platform() != "tensorrt"
    ):
        return None
    inputs, outputs = specs_of(onnx_file)
    return write_triton(
        root,
        name=models[0],
        model_file=engine_file,
        backend="tensorrt",
        inputs=inputs,
        outputs=outputs,
        max_batch=compiler.options.largest(workload)[0],
        warmup=(workload.batch, workload.sequence),
        on_gpu=True,
    )
