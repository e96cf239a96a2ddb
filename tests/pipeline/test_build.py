"""Engines from ONNX files: what an output's Triton repository serves once there is an engine."""

from types import SimpleNamespace

import pytest

import rfx.pipeline.build as build
from rfx.core.errors import UsageError
from rfx.core.workload import Workload
from rfx.export.onnx import export_onnx
from rfx.export.triton import specs_of, write_triton
from rfx.runtimes.base import EngineOptions
from tests.families import make, text_inputs


@pytest.fixture
def output(tmp_path):
    """An output of prune-export as far as Triton sees it, made without the GPU: its repository
    serves the ONNX file."""
    onnx = export_onnx(
        make("bert"),
        tmp_path / "model.onnx",
        output_names=("logits",),
        inputs=text_inputs(("input_ids", "attention_mask")),
    )
    inputs, outputs = specs_of(onnx)
    write_triton(
        tmp_path / "triton",
        name="reviews",
        model_file=onnx,
        backend="onnxruntime",
        inputs=inputs,
        outputs=outputs,
        max_batch=32,
        warmup=(1, 16),
        on_gpu=True,
    )
    (tmp_path / "model.engine").write_bytes(b"an engine of the board")
    return tmp_path


def serve(folder, backend="tensorrt", engine="model.engine"):
    builder = SimpleNamespace(serving_platform=lambda: backend)
    return build.serve_engine(
        builder,
        folder / "model.onnx",
        folder / engine,
        Workload.of_text(batch=1, sequence=16),
        EngineOptions(max_batch=4, max_sequence=64),
    )


def test_the_repository_serves_the_engine_from_then_on(output):
    folder = serve(output)
    assert folder == output / "triton" / "reviews"
    config = (folder / "config.pbtxt").read_text()
    assert "tensorrt" in config and "max_batch_size: 4" in config
    assert (folder / "1" / "model.plan").read_bytes() == b"an engine of the board"
    assert not (folder / "1" / "model.onnx").exists() and (output / "model.onnx").is_file()


def test_what_triton_cannot_serve_leaves_the_repository_alone(output, tmp_path_factory):
    before = (output / "triton" / "reviews" / "config.pbtxt").read_text()
    assert serve(output, backend=None) is None  # Triton reads no engine of TensorRT-RTX
    # Built beside no output.
    assert serve(output, engine=tmp_path_factory.mktemp("elsewhere") / "other.engine") is None
    assert (output / "triton" / "reviews" / "config.pbtxt").read_text() == before


def test_what_a_file_was_exported_for_is_read_from_its_metadata(output, tmp_path):
    assert build.read_facts(output / "model.onnx") == build.OnnxFacts()
    for wrong, said in ((output, "a folder"), (tmp_path / "no.onnx", "does not exist")):
        with pytest.raises(UsageError, match=said):
            build.read_facts(wrong)
