"""What an exporter is.

A new exporter is a class registered with `@register("exporter", "name")` (rfx/core/registry.py).
The key `exporter` of a recipe chooses what jobs export with. What a quantizer is stands in
`rfx/export/quantizers/base.py`.

A second graph (an encoder and its decoder, say) is a second role in the artefact that an exporter
gives. Runtimes say by `Capabilities.roles` which roles they run, and make one engine of them in
`build_artefact`; all of today's run "model" alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

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

        An exporter may also take `opset` and `ir_version`, integers; `keep_fp32`, paths of modules
        that a quantized precision leaves in fp32; and `quantizer` and `calibration`, the name of
        what quantizes and the inputs that it chooses its scales by. They are given to it only where
        they are others than the default ones.

        Raises:
            UsageError: there is no such precision.
            UnsupportedModelError: the model cannot be written.
            InternalCheckError: what was written does not pass the checker.
        """
        ...
