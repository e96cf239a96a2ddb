"""The edge split: shapes packed where the model is, a table measured with NumPy and the runtime
alone, taken back."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import rfx
from benchmarks.blocks import BlockShape, stack
from rfx import board
from rfx.core.environment import split_device
from rfx.core.errors import UsageError
from rfx.core.progress import Silent
from rfx.core.store import Store
from rfx.core.workload import Workload
from rfx.cost.bundle import Bundle, strip
from rfx.cost.curves import DENSE
from rfx.cost.points import possible_points
from rfx.cost.table_file import read_table
from rfx.export.precision.convert import convert_precision
from rfx.pipeline import table as tables
from rfx.pipeline.resolve import open_session, resolve_model
from rfx.pipeline.timed import Timed
from rfx.runtimes.find import runtime, runtime_class
from tests.commands import STANDARD, given, run

ROOT = Path(__file__).parent.parent
NOT_ON_A_BOARD = (
    "torch",
    "transformers",
    "onnx",
    "typer",
    "rich",
    "pydantic",
    "scipy",
    "sklearn",
    "pandas",
    "safetensors",
    "filelock",
)


@pytest.fixture(scope="module")
def shapes(trained, tmp_path_factory):
    """Packed for ONNX Runtime at fp32."""
    folder = tmp_path_factory.mktemp("shapes")
    file, options = (
        folder / "shapes.json",
        ("--target", "ort", "--sequence", 32, "--max-length", 32),
    )
    arguments = ("shapes", trained["model"], *options, "--out", file, "--json")
    result = run(*arguments, RFX_CACHE=str(folder / "cache"))
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert (
        said["graphs"] == len(json.loads(file.read_text())["graphs"])
        and "rfx.board" in said["next"]
    )
    return file


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_stripped_graph_runs_with_weights_of_its_own(precision, tmp_path):
    shape = BlockShape(64, 4, 16, 256)
    model = convert_precision(stack(shape, [(4, 256), (2, 96)]), precision)
    light, sizes = strip(model)
    assert len(light) < model.ByteSize() / 10
    expected = sum(
        int(np.prod(i.dims)) * (2 if i.data_type == 10 else 4)
        for i in model.graph.initializer
        if i.data_type in (1, 10)
    )
    assert 0.95 * expected < sum(sizes.values()) < expected + 4096 * len(model.graph.initializer)
    offsets = [
        (e.value, t.external_data[0].value)
        for t in onnx.load_from_string(light).graph.initializer
        for e in t.external_data
        if e.key == "offset"
    ]
    assert len(offsets) == len(set(offsets)) > 10, "weights share a place"


def test_the_bundle_has_the_graphs_that_a_measurement_asks_for(shapes):
    bundle = Bundle(shapes)
    asked = {DENSE, *possible_points(bundle.shape, runtime("ort"), "fp32")}
    assert asked <= bundle.points and shapes.stat().st_size < 300_000


def test_the_bundle_says_which_sites_compute_one_position_alone(shapes):
    """A classifier reads one token of its last layer, so that units there cost less."""
    bundle = Bundle(shapes)
    last = [s.name for s in bundle.model_sites if s.layer == bundle.layers - 1]
    assert sorted(n for names in bundle.shape.partial.values() for n in names) == sorted(last)
    graphs = json.loads(shapes.read_text())["graphs"]
    assert {f"without/{name}" for name in bundle.shape.partial} <= set(graphs)


def test_a_graph_of_the_bundle_is_the_one_that_would_be_timed_here(shapes, trained, tmp_path):
    bundle = Bundle(shapes)
    recipe = rfx.Recipe(model=str(trained["model"]), target="ort")
    session = open_session(recipe, store=Store(tmp_path / "cache"), progress=Silent(), stages=2)
    recipe, subject = resolve_model(session, recipe)
    timed = Timed(session, recipe, subject, ("logits",), bundle.shape, None)
    assert timed.sites == bundle.sites and timed.layers == bundle.layers
    for point in (("mha", 2), ("ffn", 64), ("mha", 0), DENSE):
        there, here = onnx.load(bundle.file(point, tmp_path)), timed.model(point)
        assert [(n.op_type, list(n.input), list(n.output)) for n in there.graph.node] == [
            (n.op_type, list(n.input), list(n.output)) for n in here.graph.node
        ]
        assert {i.name: tuple(i.dims) for i in there.graph.initializer} == {
            i.name: tuple(i.dims) for i in here.graph.initializer
        }
    engine = runtime("ort").build(bundle.file(("ffn", 64), tmp_path), Workload())
    given = subject.inputs.example(Workload.of_text(batch=2, sequence=8))
    feeds = {name: given[name] for name in engine.input_names}
    assert np.isfinite(engine.run(feeds)["logits"]).all()


def test_a_board_needs_numpy_and_its_runtime_alone(shapes, tmp_path):
    """In a process in which nothing else can be imported."""
    blocked = (
        "import sys, importlib.abc\n"
        f"NO = {NOT_ON_A_BOARD!r}\n"
        "class Block(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in NO: raise ImportError('not on a board: ' + name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "from rfx.cost import effort; effort.SECONDS, effort.MIN_ROUNDS = (0.5, 2.0), 8\n"
        # a tiny model is all noise
        "import rfx.board as board; board.ADDITIVITY_LIMIT = 9.0; sys.exit(board.main())\n"
    )
    command = [
        sys.executable,
        "-c",
        blocked,
        "profile",
        str(shapes),
        "--out",
        "table.json",
        "--sequence",
        "16",
    ]
    env = {**os.environ, "RFX_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    table = read_table(tmp_path / "table.json")
    assert (
        table.key.runtime == "ort"
        and table.key.sequence == 16
        and len(table.additivity) == tables.ADDITIVITY_PLANS
    )
    assert json.loads(done.stdout)["written"] == "table.json"
    partial = Bundle(shapes).shape.partial
    assert sorted(table.shares) == sorted(n for names in partial.values() for n in names)
    assert all(share > 0 for share in table.shares.values())
    # From the board's cache.
    again = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    assert again.returncode == 0 and "measuring" not in again.stderr
    assert read_table(tmp_path / "table.json").costs_ms == table.costs_ms


def group(data, **change):
    """A bundle in which the first group of sites says something else."""
    first, *others = data["shape"]["alike"]
    return {**data, "shape": {**data["shape"], "alike": [{**first, **change}, *others]}}


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda d: "nonsense", "not written by `rfx shapes`"),
        (lambda d: {**d, "schema_version": 4}, "written by a newer rfx"),
        (lambda d: {**d, "schema_version": 2}, "measured other graphs"),
        (lambda d: {k: v for k, v in d.items() if k != "graphs"}, "incomplete"),
        (lambda d: {**d, "graphs": {"dense": "x"}}, "incomplete"),
        (lambda d: {**d, "timed": {**d["timed"], "layers": "many"}}, "incomplete"),
        (lambda d: {**d, "timed": {**d["timed"], "layers": -1}}, "incomplete"),
        (lambda d: {**d, "timed": {**d["timed"], "sites": {"mha": [1, 2]}}}, "incomplete"),
        (lambda d: {**d, "timed": {**d["timed"], "sites": {}}}, "incomplete"),
        (lambda d: {**d, "timed": 3}, "incomplete"),
        (lambda d: {**d, "shape": {**d["shape"], "hidden": 0}}, "incomplete"),
        (lambda d: {**d, "shape": {**d["shape"], "alike": []}}, "incomplete"),
        (lambda d: group(d, partial=["no such site"]), "incomplete"),
        (lambda d: group(d, sites=[]), "incomplete"),
        (lambda d: group(d, kind="conv"), "incomplete"),
        (lambda d: group(d, name="ffn"), "incomplete"),
        (lambda d: group(d, name="../x"), "incomplete"),
        (lambda d: group(d, units=1.5), "incomplete"),
        (lambda d: group(d, more=1), "incomplete"),
    ],
)
def test_a_broken_bundle_is_named(shapes, tmp_path, change, said, capsys):
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(change(json.loads(shapes.read_text()))))
    assert board.main(["profile", str(bad), "--out", str(tmp_path / "t.json")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "t.json").exists()


def test_bad_options_are_named(shapes, tmp_path, capsys, cache):
    out = str(tmp_path / "t.json")
    for arguments, code, said in (
        ([str(tmp_path / "none.json"), "--out", out], 2, "No such file"),
        (
            [str(shapes), "--out", out, "--precision", "fp16"],
            2,
            "rfx shapes MODEL --precision fp16",
        ),
        ([str(shapes), "--out", out, "--sequence", "4096"], 2, "at most 32"),
        ([str(shapes), "--out", str(tmp_path)], 2, "Is a directory"),
    ):
        assert board.main(["profile", *arguments]) == code
        assert said in capsys.readouterr().err
    if not runtime_class("trt").availability().ok:
        assert board.main(["profile", str(shapes), "--out", out, "--target", "trt"]) == 4
    assert not Path(out).exists()
    with pytest.raises(UsageError, match="another grid"):
        Bundle(shapes).file(("ffn", 7), tmp_path)
    assert board.main(["env"]) == 0 and "ort: runs here" in capsys.readouterr().out


@pytest.fixture(scope="module")
def board_table(trained, closed, tmp_path_factory):
    """A table measured here with ONNX Runtime, given the key of a board that is not here."""
    folder = tmp_path_factory.mktemp("table")
    shutil.copytree(closed.store, folder / "cache")
    file, options = folder / "t.json", ("--target", "ort", "--sequence", 16)
    arguments = ("profile", trained["model"], *options, "--out", file, "--quiet")
    made = run(*arguments, RFX_CACHE=str(folder / "cache"))
    assert made.exit_code == 0, made.output
    data = json.loads(file.read_text())

    def of(precision: str, **key) -> Path:
        key = {
            **data["key"],
            "runtime": "trt",
            "version": "tensorrt 11.4.0.106",
            "device": "NVIDIA Orin (sm87)",
            "clock": "GPU compute time",
            "precision": precision,
            **key,
        }
        path = folder / f"{precision}-{key['runtime']}.json"
        path.write_text(json.dumps({**data, "key": key}))
        return path

    return of


def prune(trained, out, table, *more, target="trt"):
    arguments = given(trained, **STANDARD | {"target": target}, table=table, out=out)
    return run("prune-export", *arguments, "--json", "--quiet", *more)


@pytest.mark.skipif(runtime_class("trt").availability().ok, reason="TensorRT runs here")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_boards_table_goes_through_to_onnx_without_the_board(
    trained, board_table, warm, tmp_path, precision
):
    if precision == "bf16" and not runtime_class("openvino").availability().ok:
        pytest.skip("bf16 is checked with OpenVINO, which is not installed")
    ahead = ["--compute-capability", "8.9"] if precision == "fp16" and _has_rtx() else []
    result = prune(
        trained,
        tmp_path / "out",
        board_table(precision),
        "--latency",
        "0.7",
        "--precision",
        precision,
        *ahead,
    )
    assert result.exit_code == 7, result.output
    evidence = json.loads(result.stdout)
    gates = {g["name"]: g for g in evidence["gates"]}
    assert {n: g["outcome"] for n, g in gates.items()} == {
        "shrunk": "pass",
        "same": "pass",
        "accuracy": "not-judged",
        "agreement": "pass",
        "latency": "inconclusive",
    }
    assert 0.5 < gates["latency"]["value"] <= 0.7 and "Orin" in gates["latency"]["detail"]
    assert evidence["latency"] is None and "rfx verify" in evidence["warnings"][0]
    out = tmp_path / "out"
    assert (out / "model.onnx").is_file() and (out / "report.html").is_file()
    types = {
        i.data_type
        for i in onnx.load(out / "model.onnx").graph.initializer
        if len(i.dims) == 2 and i.data_type != 7
    }
    assert types == {{"fp32": 1, "fp16": 10, "bf16": 16}[precision]}
    assert (out / "model.rtx.engine").is_file() == bool(ahead)
    assert list(out.glob("triton/*/1/model.onnx"))
    assert run("gate", out).exit_code == 7
    assert run("gate", out, "--allow-inconclusive").exit_code == 0


@pytest.mark.skipif(runtime_class("trt").availability().ok, reason="TensorRT runs here")
def test_a_table_of_another_model_or_precision_is_refused(trained, board_table, cache, tmp_path):
    result = prune(trained, tmp_path / "out", board_table("fp16"), "--latency", "0.7")
    assert result.exit_code == 2 and "precision" in json.loads(result.stdout)["error"]["got"]
    without = run("prune-export", *given(trained, target="trt", latency=0.7))
    assert without.exit_code == 4 and "--target ort" in without.output
    assert not (tmp_path / "out").exists()


def test_a_table_of_another_cpu_is_the_boards_and_goes_through(
    trained, board_table, warm, tmp_path
):
    """ONNX Runtime runs here too, but not on that processor: its table is for it, and nothing is
    timed here."""
    table = board_table(
        "fp32", runtime="ort", version="onnxruntime 1.23.0", device="ARM Cortex-A78"
    )
    result = prune(trained, tmp_path / "out", table, "--latency", "0.7", target="ort")
    assert result.exit_code == 7, result.output
    evidence = json.loads(result.stdout)
    assert evidence["latency"] is None and "ARM Cortex-A78" in evidence["warnings"][0]
    assert {g["name"]: g["outcome"] for g in evidence["gates"]}["latency"] == "inconclusive"


def test_an_old_table_of_this_machine_is_refused(trained, board_table, warm, tmp_path):
    table = board_table(
        "fp32", runtime="ort", version="onnxruntime 0.1", device=runtime_class("ort")().device()
    )
    result = prune(trained, tmp_path / "out", table, "--latency", "0.7", target="ort")
    assert result.exit_code == 2 and "version" in json.loads(result.stdout)["error"]["got"]


def test_a_table_of_a_cpu_with_other_instruction_sets_is_refused_and_shows_both(
    trained, board_table, warm, tmp_path
):
    """A CPU of the same name is no board that somebody means: other sets run other kernels."""
    here = runtime_class("ort")().device()
    name, _ = split_device(here)
    arguments = (trained, tmp_path / "out")
    for listed in ("avx2, avx512_vnni, i8mm", "avx"):
        there = f"{name} ({listed})"
        table = board_table("fp32", runtime="ort", device=there)
        result = prune(*arguments, table, "--latency", "0.7", target="ort")
        assert result.exit_code == 2, result.output
        error = json.loads(result.stdout)["error"]
        assert f"table: {there}" in error["got"] and f"here: {here}" in error["got"]
        assert ("earlier versions of rfx" in error["got"]) == (listed == "avx")
        assert "rfx profile MODEL --target ort" in error["next_step"]
        assert not (tmp_path / "out").exists()


def test_an_int8_table_of_another_cpu_is_refused(trained, board_table, warm, tmp_path):
    """The file would be quantized for this machine: with weights of 7 or 8 bits by its CPU."""
    table = board_table("int8", runtime="ort", device="ARM Cortex-A78 (asimddp)")
    more = ("--latency", "0.7", "--precision", "int8")
    result = prune(trained, tmp_path / "out", table, *more, target="ort")
    assert result.exit_code == 2, result.output
    error = json.loads(result.stdout)["error"]
    assert "INT8" in error["what"] and "ARM Cortex-A78 (asimddp)" in error["got"]


@pytest.mark.parametrize("capability", ["9.9", "eight"])
def test_a_compute_capability_that_is_unknown_is_said_before_any_work(
    trained, cache, tmp_path, capability
):
    if not _has_rtx():
        pytest.skip("TensorRT-RTX is not installed")
    data = {"train": tmp_path / "none.jsonl", "target": "ort", "flops": 0.5}
    arguments = given(trained, **data, compute_capability=capability, out=tmp_path / "out")
    result = run("prune-export", *arguments, "--json", "--quiet")
    error = json.loads(result.stdout)["error"]
    assert result.exit_code == 2 and error["got"] == capability and "8.9" in error["allowed"]


def _has_rtx() -> bool:
    import importlib.util

    return importlib.util.find_spec("tensorrt_rtx") is not None


def test_numpy_is_loaded_with_one_thread_a_process():
    code = (
        "import importlib.abc, os, runpy, sys\n"
        "seen = []\n"
        "class Watch(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'numpy': seen.append(os.environ.get('OMP_NUM_THREADS'))\n"
        "sys.meta_path.insert(0, Watch())\n"
        "sys.argv = ['rfx.board', 'env']\n"
        "try:\n    runpy.run_module('rfx.board', run_name='__main__')\n"
        "except SystemExit as done:\n    assert seen == ['1'] and done.code == 0, (seen, "
        "done.code)\n"
    )
    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | {
        "PYTHONPATH": str(ROOT)
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_a_bug_does_not_exit_as_a_failed_gate(monkeypatch, capsys, tmp_path):
    def bug(*_, **__):
        raise RuntimeError("not foreseen")

    monkeypatch.setattr(board, "_profile", bug)
    assert board.main(["profile", "shapes.json", "--out", str(tmp_path / "t.json")]) == 6
    assert "not foreseen" in capsys.readouterr().err

    import rfx.export.modelopt.command as quantize

    monkeypatch.setattr(quantize, "quantize", bug)
    arguments = [
        "m.onnx",
        "--calibration",
        "c.npz",
        "--precision",
        "int8",
        "--out",
        str(tmp_path / "q.onnx"),
    ]
    assert quantize.main(arguments) == 6 and "not foreseen" in capsys.readouterr().err


def test_an_argument_of_others_is_shown_safely(capsys):
    with pytest.raises(SystemExit) as ended:
        board.main(["env", "--x\n::error::forged\x1b[31m"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "\x1b" not in said
    assert not any(line.lstrip().startswith("::") for line in said.splitlines())
