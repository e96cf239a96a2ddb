"""What an exporter and a quantizer are.

A new exporter is a class registered with `@register("exporter", "name")`, a new quantizer is a
function registered with `@register("quantizer", "name")` (rfx/core/registry.py). The key `exporter`
of a recipe chooses what jobs export with; `python -m rfx.quantize` quantizes with "modelopt".

A second graph (an encoder and its decoder, say) is a second role in the artefact that an exporter
gives. Runtimes say by `Capabilities.roles` which roles they run, and make one engine of them in
`build_artefact`; all of today's run "model" alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rfx.core.artefact import Artefact
from rfx.core.inputs import InputSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Exporter(Protocol):
    """Writes a model as one ONNX file or several."""

    def export(
        self,
        model: PreTrainedModel,
        folder: Path,
        *,
        inputs: InputSpec,
        outputs: Sequence[str],
        metadata: Mapping[str, str],
        precision: str,
        name: str = "model.onnx",
    ) -> Artefact:
        """Write `model` (eval mode, fp32) into `folder`.

        Args:
            inputs: names, types and axes of what the model is fed; named axes are dynamic.
            outputs: fields of the model's output that are wanted, in this order.
            metadata: facts that are written into each file, under keys that begin with `rfx.`.
            precision: of the matrix products.
            name: of the file; with several roles each file's name begins with its role.

        Raises:
            UsageError: there is no such precision.
            UnsupportedModelError: the model cannot be written.
            InternalCheckError: what was written does not pass the checker.
        """
        ...


class Quantizer(Protocol):
    """Writes an ONNX file with explicit quantization (Q/DQ) of its matrix products."""

    def __call__(
        self,
        source: Path,
        calibration: Path,
        out: Path,
        *,
        precision: str,
        attention: bool = False,
        method: str = "max",
        note: Callable[[str], None] = ...,
        chatter: Any = None,
    ) -> dict[str, Any]:
        """Write `source` quantized to `out`, whole or not at all.

        Args:
            calibration: an npz file with an int64 array [examples, tokens] for every input.
            precision: of the products, "int8" say.
            attention: quantize the products of two activations too.
            method: how ranges are chosen from what was seen.
            note: told what is being done.
            chatter: a stream for the messages of the library behind it; None: they are dropped.

        Returns:
            What was done, in JSON's types; "difference" has how far each output is from the
            unquantized one's.

        Raises:
            UsageError: a file is not what it should be, or the calibration does not fit the model.
            EnvironmentMissingError: the library behind it is not installed.
            UnsupportedModelError: nothing in the model can be quantized.
            InternalCheckError: the result does not pass the checks.
        """
        ...
