"""Exporters and quantizers, by name."""

import onnx
import pytest

from rfx.core.errors import UsageError
from rfx.export.find import exporter, quantizer
from rfx.export.modelopt.quantize import quantize
from tests.families import make, text_inputs

NAMES = ("input_ids", "attention_mask")


def test_the_exporter_gives_an_artefact_of_one_graph(tmp_path):
    inputs = text_inputs(NAMES)
    artefact = exporter().export(
        make("bert"),
        tmp_path / "out",
        inputs=inputs,
        outputs=("logits",),
        metadata={"source": "here"},
        precision="fp16",
        name="small.onnx",
    )
    assert artefact.roles == ("model",) and artefact.file == tmp_path / "out" / "small.onnx"
    graph = artefact.graphs["model"]
    assert graph.inputs is inputs and graph.outputs == ("logits",)
    proto = onnx.load(artefact.file)
    assert [i.name for i in proto.graph.input] == list(NAMES)
    assert {p.key: p.value for p in proto.metadata_props} == dict(artefact.metadata)
    assert artefact.metadata == {"rfx.precision": "fp16", "rfx.source": "here"}


def test_parts_of_other_names_are_refused():
    assert quantizer() is quantize
    with pytest.raises(UsageError, match="There is no exporter of this name"):
        exporter("onyx")
    with pytest.raises(UsageError, match="did you mean 'modelopt'"):
        quantizer("modelpot")
