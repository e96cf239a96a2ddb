"""A model repository for NVIDIA's Triton Inference Server: NAME/config.pbtxt and NAME/1/model.onnx
or model.plan.

The configuration says everything, so that Triton loads the model with auto-completion switched off.
It is held against Triton's own schema (tritonclient's model_config.proto) and the rules of its core
and backends in tests/export/test_triton.py.

Triton's TensorRT backend reads engines of TensorRT alone, not those of TensorRT-RTX, and only those
that the same version of TensorRT built on the same kind of GPU.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

from rfx.core.errors import UsageError, first_line
from rfx.core.folders import atomic_dir

ONNX_BACKEND = "onnxruntime"
OPENVINO_BACKEND = "openvino"
READ_ENGINES = ("tensorrt",)  # the backends that load a compiled engine in place of the ONNX file
READ_ONNX = (ONNX_BACKEND, OPENVINO_BACKEND)  # the backends that load the ONNX file itself
# the first words of every config.pbtxt of ours: only such a folder is replaced
MARK = "# Written by rfx"
# backend -> Triton's name of the platform, and the file name that it looks for: its "plan" is what
# rfx calls an engine file
PLATFORMS = {
    "onnxruntime": ("onnxruntime_onnx", "model.onnx"),
    "tensorrt": ("tensorrt_plan", "model.plan"),
    "openvino": ("", "model.onnx"),  # newer than Triton's list of platforms
}
TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
}
WARMUP_COUNT = 3  # the first run allocates, the next ones are as fast as served ones
BATCHED_DELAY_US = (
    500  # how long a request waits for others, where the model was measured in batches
)
LARGEST = 2**31 - 1  # Triton's sizes are int32


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: its numpy-like type ("int64", "float32", ...) and its shape, batch
    first, None where dynamic."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


def triton_name(name: str) -> str:
    """`name` as Triton and its URLs take it.

    Letters and digits of ASCII, "_", "-" and "." stay; every run of other characters becomes one
    "_"; "_", "-" and "." at either end go; what is longer than 100 characters is cut. Where nothing
    is left it is "model".
    """
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.-")[:100].rstrip("_.-") or "model"


def specs_of(onnx_path: Path) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Inputs and outputs of an ONNX file, in its order. Weights that the graph lists as inputs are
    none.

    Raises:
        UsageError: no such file, or not an ONNX file; a tensor of a type that has no name in numpy.
    """
    import onnx

    allowed = "an exported model.onnx"
    try:
        graph = onnx.load(str(onnx_path), load_external_data=False).graph
        wrong = "" if graph.output else "no graph"  # an empty file is a valid protobuf message
    except OSError as error:
        wrong = str(error.strerror)
    except Exception as error:  # protobuf's own kinds of error differ by version
        wrong = first_line(error)
    if wrong:
        raise UsageError(
            "The ONNX file cannot be read.",
            got=f"{onnx_path}: {wrong}",
            allowed=allowed,
            next_step="check the path, or export the model again",
        )

    def spec(value: onnx.ValueInfoProto) -> TensorSpec:
        tensor = value.type.tensor_type
        try:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        except KeyError:
            raise UsageError(
                "The model has an input or output that is no tensor.",
                got=value.name,
                allowed=allowed,
                next_step="export the model with tensors alone",
            ) from None
        return TensorSpec(
            value.name,
            dtype,
            tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim),
        )

    weights = {i.name for i in graph.initializer}
    return [spec(v) for v in graph.input if v.name not in weights], [spec(v) for v in graph.output]


def write_triton(
    root: Path,
    *,
    name: str,
    model_file: Path,
    backend: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    max_batch: int,
    warmup: tuple[int, int],
    on_gpu: bool,
    threads: int | None = None,
    queue_delay_us: int | None = None,
) -> Path:
    """Write `root`/NAME/config.pbtxt and `root`/NAME/1/MODEL, with NAME the `triton_name` of
    `name`.

    The model file is hard-linked where the file system can, else copied; never a symbolic link,
    which would point nowhere inside a container. A folder of rfx's that stands there is replaced.

    Args:
        root: the model repository; made where it is missing.
        model_file: an ONNX file for "onnxruntime" and "openvino", a TensorRT engine for
            "tensorrt".
        inputs, outputs: as the model has them (`specs_of`), batch first.
        max_batch: the largest batch Triton may form; for an engine, the most that its optimisation
            profile takes.
        warmup: batch and sequence of the warm-up: what latency was measured at. For an engine
            within its profile.
        on_gpu: run on the GPUs of the server, one instance on each, or on its CPU.
        threads: threads of one inference; taken by "onnxruntime" and "openvino" on the CPU alone.
            None: as many as there are cores.
        queue_delay_us: how long a request may wait for others to fill a batch. None: not at all
            where the warm-up's batch is 1 (a lone request is what was measured; under load the
            queue fills batches all the same), else 500.

    Returns:
        The model's folder.

    Raises:
        UsageError: a size that is no whole number or out of range, a tensor that Triton cannot
            batch, a model file that is missing or of the other backend, a folder in the way that
            rfx did not write.
    """
    config = _config(
        triton_name(name),
        backend,
        inputs,
        outputs,
        max_batch=max_batch,
        warmup=warmup,
        on_gpu=on_gpu,
        threads=threads,
        queue_delay_us=queue_delay_us,
    )
    source = Path(model_file)
    if not source.is_file():
        raise UsageError(
            "The model file for Triton does not exist.",
            got=str(source),
            allowed="model.onnx or a TensorRT engine",
            next_step="correct the path",
        )
    if (source.suffix == ".onnx") != (backend in READ_ONNX):
        raise UsageError(
            f"Triton's backend {backend!r} cannot read this file.",
            got=str(source),
            allowed="an ONNX file (.onnx) for onnxruntime and openvino, an engine file for "
            "tensorrt",
            next_step="give the other kind of file, or another backend",
        )
    folder = Path(root) / triton_name(name)
    _require_ours(folder)
    with atomic_dir(folder) as new:
        (new / "1").mkdir()
        _place(source.resolve(), new / "1" / PLATFORMS[backend][1])
        (new / "config.pbtxt").write_text(config, encoding="utf-8")
    return folder


def _place(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _require_ours(folder: Path) -> None:
    config = folder / "config.pbtxt"
    try:
        ours = config.read_text(encoding="utf-8", errors="replace").startswith(MARK)
    except OSError:
        ours = False
    if not ours and folder.is_dir() and any(folder.iterdir()):
        raise UsageError(
            "The model repository holds a model of this name that rfx did not write.",
            got=str(folder),
            allowed="a new name, or a model that rfx wrote",
            next_step="give another name, or remove the folder",
        )


def _config(
    name: str,
    backend: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    max_batch: int,
    warmup: tuple[int, int],
    on_gpu: bool,
    threads: int | None,
    queue_delay_us: int | None,
) -> str:
    """The text of config.pbtxt."""
    from rfx.core.version import __version__

    if backend not in PLATFORMS:
        raise UsageError(
            "rfx writes no configuration for this Triton backend.",
            got=backend,
            allowed=", ".join(PLATFORMS),
            next_step="give one of these backends",
        )
    here = {"tensorrt": True, OPENVINO_BACKEND: False}.get(backend, on_gpu)
    if on_gpu != here:
        raise UsageError(
            "Triton's TensorRT backend runs on GPUs alone."
            if here
            else "rfx measures OpenVINO on CPUs alone.",
            got=f"on_gpu={on_gpu}",
            allowed=f"on_gpu={here}",
            next_step=f"set on_gpu={here}, or give another backend",
        )
    max_batch = _whole("The largest batch", max_batch)
    batch, sequence = warmup
    batch = _whole("The batch of the warm-up", batch, most=max_batch)
    sequence = _whole("The sequence of the warm-up", sequence)
    delay = (
        (BATCHED_DELAY_US if batch > 1 else 0)
        if queue_delay_us is None
        else _whole("The queue delay", queue_delay_us, least=0)
    )
    _require_tensors("inputs", inputs)
    _require_tensors("outputs", outputs)

    # OpenVINO's backend wants batches of exactly `max_batch_size`: without one, the batch is a
    # dimension like the others, and requests are as large as they are.
    batched = backend != OPENVINO_BACKEND
    first = 1 if batched else 0  # of the dimensions that the configuration lists
    platform, file_name = PLATFORMS[backend]
    lines = [
        f"{MARK} {__version__}. Shapes are "
        + ("without the batch, which Triton puts first; " if batched else "with the batch; ")
        + "-1 is dynamic.",
        f"name: {_quoted(name)}",
        *([f'platform: "{platform}"'] if platform else []),
        f'backend: "{backend}"',
        f'default_model_filename: "{file_name}"',
        f"max_batch_size: {max_batch if batched else 0}",
        *_tensors("input", inputs, first),
        *_tensors("output", outputs, first),
        "instance_group [",
        f"  {{ count: 1 kind: {'KIND_GPU' if on_gpu else 'KIND_CPU'} }}",
        "]",
    ]
    if (
        batched and max_batch > 1
    ):  # with batches of one there is nothing to fill, and waiting would only cost
        # A batch goes off at once when it has the size that was measured, or the largest one.
        preferred = sorted({batch, max_batch} - {1})
        lines += [
            "dynamic_batching {",
            f"  preferred_batch_size: [ {', '.join(map(str, preferred))} ]",
            f"  max_queue_delay_microseconds: {delay}",
            "}",
        ]
    if threads is not None:
        threads = _whole("The number of threads", threads)
    parameters: dict[str, object] = {}
    if backend == OPENVINO_BACKEND:  # as it is measured
        parameters = {"NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        parameters |= {"INFERENCE_NUM_THREADS": threads} if threads is not None else {}
    elif backend == "onnxruntime" and threads is not None and not on_gpu:
        parameters = {"intra_op_thread_count": threads}
    lines += [
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
        for key, value in parameters.items()
    ]
    # Zeros and not random data: Triton fills those with random bytes, and a random token is out of
    # any vocabulary.
    lines += [
        "model_warmup [",
        "  {",
        '    name: "measured"',
        f"    batch_size: {batch if batched else 1}",
        f"    count: {WARMUP_COUNT}",
    ]
    for spec in inputs:
        sizes = [batch, *(sequence if d is None else d for d in spec.shape[1:])]
        dims = ", ".join(map(str, sizes[first:]))
        lines += [
            f"    inputs {{ key: {_quoted(spec.name)} value {{ data_type: {TYPES[spec.dtype]} "
            f"dims: [ {dims} ] zero_data: true }} }}"
        ]
    return "\n".join([*lines, "  }", "]"]) + "\n"


def _tensors(field: str, specs: Sequence[TensorSpec], first: int) -> list[str]:
    """Inputs or outputs with their dimensions from the `first` on."""
    rows = []
    for spec in specs:
        dims = ", ".join("-1" if d is None else str(d) for d in spec.shape[first:])
        rows.append(
            f"  {{ name: {_quoted(spec.name)} data_type: {TYPES[spec.dtype]} dims: [ {dims} ] }}"
        )
    return [f"{field} [", ",\n".join(rows), "]"]


def _require_tensors(kind: str, specs: Sequence[TensorSpec]) -> None:
    """What Triton asks of tensors of a model that it batches."""
    names = [s.name for s in specs]
    if not names or "" in names or len(set(names)) < len(names):
        raise UsageError(
            f"The {kind} for Triton need names of their own.",
            got=", ".join(map(repr, names)) or "none",
            next_step="give each of them a name that no other has",
        )
    for spec in specs:
        if spec.dtype not in TYPES:
            raise UsageError(
                "Triton has no such type of tensor.",
                got=f"{spec.name}: {spec.dtype}",
                allowed=", ".join(TYPES),
                next_step="export the model with tensors of one of these types",
            )
        sizes = spec.shape[1:]
        if (
            len(spec.shape) < 2
            or spec.shape[0] is not None
            or any(d is not None and not _is_whole(d, 1) for d in sizes)
        ):
            raise UsageError(
                "Triton cannot batch this tensor.",
                got=f"{spec.name} {list(spec.shape)}",
                allowed="a dynamic batch (None) first and at least one dimension after it, each "
                "at least 1 or dynamic",
                next_step="export the model with a dynamic batch, as rfx does",
            )


def _is_whole(value: object, least: int, most: int = LARGEST) -> bool:
    return (
        isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= most
    )


def _whole(what: str, value: object, *, least: int = 1, most: int = LARGEST) -> int:
    if not _is_whole(value, least, most):
        raise UsageError(
            f"{what} for Triton is not valid.",
            got=repr(value),
            allowed=f"a whole number from {least} to {most}",
            next_step="correct the number",
        )
    return int(value)  # type: ignore[call-overload]


def _quoted(text: str) -> str:
    """A string of protobuf's text format."""
    plain = (
        chr(b) if 32 <= b < 127 and chr(b) not in '"\\' else f"\\{b:03o}"
        for b in text.encode("utf-8")
    )
    return '"' + "".join(plain) + '"'
