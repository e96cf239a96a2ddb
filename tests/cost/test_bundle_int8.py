"""Shapes of quantized models on their way to a board: no weight in integers travels."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from benchmarks.blocks import BlockShape, stack
from rfx.cost.bundle import INLINE_BYTES, Bundle, strip
from rfx.cost.table import LatencyTable
from rfx.cost.table_file import read_table
from rfx.export.precision.convert import convert_precision
from rfx.export.quantizers.onnxruntime import PRODUCT
from tests.commands import run


def test_integer_weights_are_left_out_and_zero_points_stay():
    plain = stack(BlockShape(64, 4, 16, 256), [(4, 256)] * 2)
    model = convert_precision(plain, "int8")
    graph, sizes = strip(model)
    products = [n for n in model.graph.node if n.op_type == PRODUCT]
    dims = {i.name: list(i.dims) for i in model.graph.initializer}
    whole = sum(int(np.prod(dims[n.input[1]])) for n in products)
    assert whole <= sizes["weights.s8.bin"] < whole + 4096 * len(products)
    light = onnx.load_from_string(graph)
    outside = onnx.TensorProto.EXTERNAL
    by_name = {i.name: i for i in light.graph.initializer}
    for node in products:
        assert by_name[node.input[1]].data_location == outside
        assert by_name[node.input[3]].data_location != outside  # its zero points
    inline = sum(len(i.raw_data) for i in light.graph.initializer if i.data_location != outside)
    assert inline < 64 * INLINE_BYTES and len(graph) < model.ByteSize() / 3


@pytest.fixture(scope="module")
def shapes(trained, tmp_path_factory, short_measurements):
    folder = tmp_path_factory.mktemp("shapes-int8")
    options = ("--task", "text-classification", "--target", "ort", "--precision", "int8")
    done = run(
        *("shapes", trained["model"], *options, "--sequence", 16, "--max-length", 32),
        *("--out", folder / "shapes.json", "--json"),
        RFX_CACHE=str(folder / "cache"),
    )
    assert done.exit_code == 0, done.output
    return folder / "shapes.json"


def test_a_file_of_shapes_stays_small_and_its_graphs_run(shapes, tmp_path):
    bundle = Bundle(shapes)
    assert bundle.precision == "int8" and shapes.stat().st_size < 400_000
    for name in ("dense", "emptied", "plan/0"):
        file = bundle.model(name, tmp_path)
        session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        ids = np.ones((1, 16), np.int64)
        (logits,) = session.run(None, {i.name: ids for i in session.get_inputs()})
        assert logits.shape == (1, 2) and np.isfinite(logits).all()
        assert any(n.op_type == PRODUCT for n in onnx.load(file).graph.node)
    session = ort.InferenceSession(
        str(bundle.file(("ffn", 64), tmp_path)), providers=["CPUExecutionProvider"]
    )
    (logits,) = session.run(None, {i.name: ids for i in session.get_inputs()})
    assert logits.shape == (1, 2) and np.isfinite(logits).all()


def test_a_board_measures_a_table_of_them(shapes, tmp_path, monkeypatch):
    from rfx import board

    monkeypatch.setattr(board, "ADDITIVITY_LIMIT", 9.0)  # a tiny model is all noise
    monkeypatch.setattr("rfx.cost.effort.SECONDS", (0.5, 2.0))
    out = tmp_path / "table.json"
    assert board.main(["profile", str(shapes), "--out", str(out)]) == 0
    table = read_table(out)
    assert isinstance(table, LatencyTable) and table.key.precision == "int8"
