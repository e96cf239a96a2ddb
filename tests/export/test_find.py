"""Exporters and quantizers, by name."""

import onnx
import pytest

from rfx.core.errors import UsageError
from rfx.export.find import default_quantizer, exporter, quantizer_class
from rfx.export.one_position import PROPERTY, modules_at_one_position
from rfx.export.quantizers.onnxruntime import OnnxRuntimeDynamic
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
    facts = dict(artefact.metadata)
    assert facts.pop(PROPERTY).split() == sorted(modules_at_one_position([artefact.file]))
    assert facts == {"rfx.precision": "fp16", "rfx.source": "here"}


def test_parts_of_other_names_are_refused():
    assert quantizer_class("onnxruntime") is OnnxRuntimeDynamic
    assert default_quantizer("int8") == "onnxruntime" and default_quantizer("fp16") is None
    with pytest.raises(UsageError, match="There is no exporter of this name"):
        exporter("onyx")
    with pytest.raises(UsageError, match="did you mean 'onnxruntime'"):
        quantizer_class("onnxrunime")
