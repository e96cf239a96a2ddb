"""Engines from ONNX files: what an output's Triton repository serves once there is an engine."""

import pytest

import rfx.runtimes.tensorrt.runtime as tensorrt
from rfx.core.workload import Workload
from rfx.export.onnx import export_onnx
from rfx.export.triton import specs_of, write_triton
from rfx.pipeline.build import serve_engine
from rfx.runtimes.base import EngineOptions
from rfx.runtimes.tensorrt.runtime import TensorRT
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


def serve(folder, engine="model.engine"):
    compiler = TensorRT(EngineOptions(max_batch=4, max_sequence=64))
    return serve_engine(
        folder / "model.onnx", folder / engine, Workload.of_text(batch=1, sequence=16), compiler
    )


def test_the_repository_serves_the_engine_from_then_on(output, monkeypatch):
    monkeypatch.setattr(tensorrt, "module_name", lambda target: "tensorrt")
    folder = serve(output)
    assert folder == output / "triton" / "reviews"
    config = (folder / "config.pbtxt").read_text()
    assert "tensorrt" in config and "max_batch_size: 4" in config
    assert (folder / "1" / "model.plan").read_bytes() == b"an engine of the board"
    assert not (folder / "1" / "model.onnx").exists() and (output / "model.onnx").is_file()


def test_what_triton_cannot_serve_leaves_the_repository_alone(
    output, monkeypatch, tmp_path_factory
):
    before = (output / "triton" / "reviews" / "config.pbtxt").read_text()
    monkeypatch.setattr(
        tensorrt, "module_name", lambda target: "tensorrt_rtx"
    )  # Triton reads no engine of it
    assert serve(output) is None
    monkeypatch.setattr(tensorrt, "module_name", lambda target: "tensorrt")
    assert (
        serve(output, tmp_path_factory.mktemp("elsewhere") / "other.engine") is None
    )  # built beside no output
    assert (output / "triton" / "reviews" / "config.pbtxt").read_text() == before
