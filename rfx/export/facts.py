"""What an exported file asks of the runtime that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rfx.core.errors import UsageError, first_line
from rfx.core.recognised import ONNX, told_apart
from rfx.core.signs import refuse_saved

if TYPE_CHECKING:
    from onnx import ModelProto

_ALLOWED = "an ONNX file, e.g. model.onnx of an output of prune-export"


def read_model(file: Path) -> ModelProto:
    """An ONNX file, whatever its name ends in; weights are not read where they lie in files of
    their own.

    Raises:
        UsageError: no such file, not a valid ONNX file, one without outputs, or one whose weights
            beside it are a pointer of Git LFS.
    """
    with told_apart(file, ONNX):
        model = _read(file)
    for beside in _beside(model, file):
        refuse_saved(beside, what="the weights of the ONNX file beside it")
    return model


def _read(file: Path) -> ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    if not file.is_file():
        raise UsageError(
            "This is a folder, not an ONNX file."
            if file.is_dir()
            else "The ONNX file does not exist.",
            got=str(file),
            allowed=_ALLOWED,
            next_step="correct the path",
        )
    try:
        if not file.stat().st_size:  # which protobuf reads as a model with nothing in it
            raise ValueError("the file is empty, and has no outputs")
        model = onnx.load(str(file), format="protobuf", load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise UsageError(
            "This is not a valid ONNX file.",
            got=f"{file}: {first_line(error)}",
            allowed=_ALLOWED,
            next_step="name the ONNX file, or copy or export it again where it is damaged",
        ) from None
    if not model.graph.output:
        raise UsageError(
            "This ONNX file has no outputs.",
            got=str(file),
            allowed="a model",
            next_step="copy it again from where it is whole, or export it again",
        )
    return model


def format_facts(files: Sequence[Path]) -> dict[str, int]:
    """The IR version and the opset of ONNX files, the newest of each; weights are not read where
    they lie in files of their own."""
    models = [read_model(file) for file in files]
    opsets = (o.version for m in models for o in m.opset_import if o.domain in ("", "ai.onnx"))
    return {"ir_version": max(m.ir_version for m in models), "opset": max(opsets, default=0)}


def weight_files(file: Path) -> list[Path]:
    """The files beside an ONNX file in which its weights lie; none where it holds them itself.

    Raises:
        UsageError: as `read_model`.
    """
    return _beside(read_model(file), file)


def _beside(model: ModelProto, file: Path) -> list[Path]:
    from onnx.external_data_helper import uses_external_data

    names = {
        entry.value
        for tensor in model.graph.initializer
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [file.parent / name for name in sorted(names) if (file.parent / name).is_file()]
