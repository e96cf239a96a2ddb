"""Quantization: what it refuses, that it writes whole files or none, and in an environment that has
modelopt the real thing.

The latter runs where RFX_MODELOPT_PYTHON names the python of an environment with
nvidia-modelopt[onnx].
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.blocks import BlockShape, stack
from rfx.core.errors import InternalCheckError, UsageError
from rfx.core.plan import Plan
from rfx.core.workload import Workload
from rfx.export.modelopt import quantize as quantization
from rfx.export.modelopt.command import main
from rfx.export.modelopt.files import PROPERTY, quantized_products, read_model
from rfx.export.modelopt.proof import check
from rfx.export.onnx import export_onnx, plan_metadata, shape_mismatches
from rfx.export.precision.convert import convert_precision
from rfx.models.families.find import find_sites
from rfx.models.shrink import shrink
from rfx.runtimes.base import EngineOptions
from tests.conftest import sentences, tokenizer, write_jsonl
from tests.families import make, text_inputs

ROOT = Path(__file__).parents[2]
MODELOPT = os.environ.get("RFX_MODELOPT_PYTHON", "")
needs_modelopt = pytest.mark.skipif(
    not MODELOPT,
    reason="set RFX_MODELOPT_PYTHON to the python of an environment with nvidia-modelopt[onnx]",
)
NAMES = ("input_ids", "attention_mask", "token_type_ids")
TOKENS = 24


def with_qdq(model: onnx.ModelProto, leave_out=(), weights_int8: bool = True) -> onnx.ModelProto:
    """Q/DQ by hand around every linear: int8, one scale for what enters, one a column for the
    weight."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    weights = {i.name: i for i in result.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    done: dict[str, str] = {}

    def constant(name: str, value: np.ndarray) -> str:
        if name not in weights:
            weights[name] = numpy_helper.from_array(value, name)
            result.graph.initializer.append(weights[name])
        return name

    def pair(name: str, scale: np.ndarray, zero: np.ndarray, q_from: str | None, **axis) -> str:
        extra = [constant(f"{name}_scale", scale), constant(f"{name}_zero_point", zero)]
        if q_from:
            nodes.append(
                helper.make_node("QuantizeLinear", [q_from, *extra], [f"{name}_q"], **axis)
            )
        nodes.append(
            helper.make_node(
                "DequantizeLinear",
                [f"{name}_q" if q_from else name, *extra],
                [f"{name}_dq"],
                **axis,
            )
        )
        return f"{name}_dq"

    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.op_type == "MatMul" and node.input[1] in weights and node.name not in leave_out:
            x, w = node.input
            if x not in done:
                done[x] = pair(x, np.float32(5 / 127), np.int8(0), x)
            if w not in done:
                value = numpy_helper.to_array(weights[w])
                scale = np.abs(value).max(0) / np.float32(127)  # [columns]
                if weights_int8:
                    weights[w].CopyFrom(
                        numpy_helper.from_array(np.rint(value / scale).astype(np.int8), w)
                    )
                done[w] = pair(
                    w, scale, np.zeros(len(scale), np.int8), None if weights_int8 else w, axis=1
                )
            copy.input[:] = [done[x], done[w]]
        nodes.append(copy)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    onnx.checker.check_model(result, full_check=True)
    return result


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A pruned BERT as rfx exports it, with an emptied sublayer, and inputs to calibrate with."""
    folder = tmp_path_factory.mktemp("quantize")
    model = make("bert", hidden_size=64, intermediate_size=128)
    sites = find_sites(model)
    plan = Plan.of(sites, {s.name: range(s.units // 2) for s in sites} | {"layer.1.ffn": ()})
    file = export_onnx(
        shrink(model, sites, plan),
        folder / "model.onnx",
        inputs=text_inputs(NAMES),
        output_names=("logits",),
        metadata=plan_metadata(plan, precision="fp32", max_length=64),
    )
    rng = np.random.default_rng(0)
    mask = np.ones((20, TOKENS), np.int64)
    mask[3:9, 15:] = 0
    arrays = {
        "input_ids": rng.integers(4, 120, (20, TOKENS)),
        "attention_mask": mask,
        "token_type_ids": np.zeros_like(mask),
    }
    np.savez(folder / "inputs.npz", **arrays)
    return types.SimpleNamespace(
        file=file, npz=folder / "inputs.npz", arrays=arrays, sites=sites, plan=plan
    )


def arguments(exported, out: Path, *more: str, model=None, npz=None) -> list[str]:
    return [
        str(model or exported.file),
        "--calibration",
        str(npz or exported.npz),
        "--precision",
        "int8",
        "--out",
        str(out),
        *more,
    ]


def in_a_process(python: str, code: str, *argv: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [python, "-c", code, *argv],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", **env},
    )


def run_without(blocked: tuple[str, ...]) -> str:
    return (
        f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
        "from rfx.export.modelopt.command import main; sys.exit(main(sys.argv[1:]))"
    )


class FakeModelopt:
    """In place of modelopt: `act(arguments)` returns the model to write, or raises."""

    def __init__(self, monkeypatch, act):
        self.said: dict = {}

        def quantize(onnx_path, **options):
            self.said = {"onnx_path": onnx_path, **options}
            print("chatter of modelopt on standard output")
            tempfile.mkstemp(suffix=".onnx")  # as modelopt does, and forgets it when it fails
            onnx.save(act(onnx.load(onnx_path), options), options["output_path"])
            Path(onnx_path).write_bytes(b"written over")  # as modelopt does

        inner = types.ModuleType("modelopt.onnx.quantization")
        inner.quantize = quantize
        outer = types.ModuleType("modelopt")
        outer.__version__, outer.__spec__ = "0.0", types.SimpleNamespace()
        for name, module in {
            "modelopt": outer,
            "modelopt.onnx": types.ModuleType("modelopt.onnx"),
            "modelopt.onnx.quantization": inner,
        }.items():
            monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def scratch(tmp_path, monkeypatch) -> Path:
    """The system's folder for temporary files, watched."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_help_says_what_it_is():
    done = subprocess.run(
        [sys.executable, "-m", "rfx.quantize", "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert (
        done.returncode == 0
        and "environment of its own" in done.stdout
        and "nvidia-modelopt[onnx]" in done.stdout
    )
    assert "--calibration" in done.stdout and "Faster is not promised" in done.stdout


def test_without_modelopt_it_says_how_to_get_it(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "modelopt", None)
    assert main(arguments(exported, tmp_path / "new" / "out.onnx")) == 4
    said = capsys.readouterr()
    assert (
        'pip install "nvidia-modelopt[onnx]"' in said.err
        and "environment of its own" in said.err
        and "pins" in said.err
    )
    assert said.out == "" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "numpy"])
def test_nor_does_a_bare_python_get_a_traceback(exported, tmp_path, missing):
    done = in_a_process(
        sys.executable, run_without((missing,)), *arguments(exported, tmp_path / "out.onnx")
    )
    assert (
        done.returncode == 4
        and "Traceback" not in done.stderr
        and f"{missing} not installed" in done.stderr
    )


def test_it_asks_for_nothing_of_the_rest_of_rfx(exported, tmp_path):
    """Everything up to modelopt, in a process that has none of what rfx needs elsewhere."""
    blocked = (
        "torch",
        "transformers",
        "typer",
        "rich",
        "pydantic",
        "scipy",
        "sklearn",
        "pandas",
        "safetensors",
        "yaml",
        "filelock",
        "psutil",
        "matplotlib",
        "jinja2",
        "modelopt",
    )
    done = in_a_process(
        sys.executable, run_without(blocked), *arguments(exported, tmp_path / "out.onnx")
    )
    assert done.returncode == 4 and "error: Quantization needs nvidia-modelopt[onnx]" in done.stderr
    assert "Traceback" not in done.stderr


def bad_models(exported, folder: Path) -> dict[str, bytes | None]:
    model = onnx.load(exported.file)
    bare = onnx.ModelProto()
    bare.CopyFrom(convert_precision(model, "bf16"))
    del bare.metadata_props[:]
    quantized = with_qdq(model)
    return {
        "missing": None,
        "empty": b"",
        "text": b"not a model\n" * 50,
        "cut": exported.file.read_bytes()[:5000],
        "fp16": convert_precision(model, "fp16").SerializeToString(),
        "bf16, unnamed": bare.SerializeToString(),
        "quantized": quantized.SerializeToString(),
    }


@pytest.mark.parametrize(
    "what, says",
    [
        ("missing", "does not exist"),
        ("empty", "not a valid ONNX file"),
        ("text", "not a valid ONNX file"),
        ("cut", "not a valid ONNX file"),
        ("fp16", "half precision"),
        ("bf16, unnamed", "half precision"),
        ("quantized", "quantized already"),
    ],
)
def test_a_model_that_is_none_is_refused(exported, tmp_path, capsys, what, says):
    file = tmp_path / "bad.onnx"
    data = bad_models(exported, tmp_path)[what]
    if data is not None:
        file.write_bytes(data)
    assert main(arguments(exported, tmp_path / "out.onnx", model=file)) == 2
    said = capsys.readouterr()
    assert says in said.err and "allowed:" in said.err and said.out == ""
    assert {p.name for p in tmp_path.iterdir()} <= {"bad.onnx"}


def test_weights_beside_the_file_are_refused(exported, tmp_path):
    onnx.save(
        onnx.load(exported.file),
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="m.data",
        size_threshold=0,
    )
    with pytest.raises(UsageError, match="outside"):
        read_model(tmp_path / "m.onnx")


def changed(arrays: dict, **changes) -> dict:
    return {k: v for k, v in {**arrays, **changes}.items() if v is not None}


BAD_CALIBRATION = {
    "lacks": (lambda a: changed(a, attention_mask=None), "lacks an input"),
    "float": (lambda a: changed(a, input_ids=a["input_ids"].astype(np.float32)), "wrong type"),
    "int32": (
        lambda a: changed(a, token_type_ids=a["token_type_ids"].astype(np.int32)),
        "wrong type",
    ),
    "no examples": (lambda a: {k: v[:0] for k, v in a.items()}, "empty"),
    "no tokens": (lambda a: {k: v[:, :0] for k, v in a.items()}, "empty"),
    "flat": (lambda a: {k: v.ravel() for k, v in a.items()}, "wrong shape"),
    "unequal": (lambda a: changed(a, attention_mask=a["attention_mask"][:5]), "differ in shape"),
    "negative": (lambda a: changed(a, input_ids=a["input_ids"] - 60), "negative"),
    "objects": (lambda a: changed(a, input_ids=np.array([{}, 1], dtype=object)), "cannot be read"),
}


@pytest.mark.parametrize("what", BAD_CALIBRATION)
def test_calibration_that_does_not_fit_is_refused(exported, tmp_path, capsys, what):
    change, says = BAD_CALIBRATION[what]
    np.savez(tmp_path / "bad.npz", **change(exported.arrays))
    assert main(arguments(exported, tmp_path / "out.onnx", npz=tmp_path / "bad.npz")) == 2
    said = capsys.readouterr()
    assert (
        says in said.err
        and "input_ids, attention_mask, token_type_ids" in said.err
        and "next:" in said.err
    )
    assert said.out == "" and [p.name for p in tmp_path.iterdir()] == ["bad.npz"]


@pytest.mark.parametrize("what", ["missing", "folder", "empty", "text", "npy", "cut", "damaged"])
def test_a_calibration_file_that_is_none_is_refused(exported, tmp_path, capsys, what):
    file, whole = tmp_path / "bad.npz", exported.npz.read_bytes()
    if what == "folder":
        file.mkdir()
    elif what == "npy":
        with file.open("wb") as stream:
            np.save(stream, exported.arrays["input_ids"])
    elif what != "missing":
        middle = len(whole) // 2
        file.write_bytes(
            {
                "empty": b"",
                "text": b"[[1, 2]]",
                "cut": whole[:middle],
                "damaged": whole[: middle - 40] + bytes(80) + whole[middle + 40 :],
            }[what]
        )
    assert main(arguments(exported, tmp_path / "out.onnx", npz=file)) == 2
    said = capsys.readouterr()
    assert (
        "calibration file" in said.err
        and "Traceback" not in said.err
        and not (tmp_path / "out.onnx").exists()
    )


def test_the_output_may_not_be_an_input_or_a_folder(exported, tmp_path, capsys):
    before = exported.file.read_bytes()
    assert (
        main(arguments(exported, exported.file)) == 2
        and main(arguments(exported, exported.npz)) == 2
    )
    assert main(arguments(exported, tmp_path)) == 2
    assert (
        "would overwrite the model" in capsys.readouterr().err
        and exported.file.read_bytes() == before
    )


@pytest.mark.parametrize(
    "change, says",
    [
        (
            lambda a: changed(a, input_ids=a["input_ids"] + 1000),
            "does not run on the calibration inputs",
        ),
        (
            lambda a: {k: np.tile(v, (1, 4)) for k, v in a.items()},
            "not more tokens than it takes (64)",
        ),
    ],
)
def test_inputs_that_the_model_does_not_take_are_found_before_the_work(
    exported, tmp_path, monkeypatch, capsys, change, says
):
    fake = FakeModelopt(monkeypatch, lambda model, options: model)
    np.savez(tmp_path / "bad.npz", **change(exported.arrays))
    assert main(arguments(exported, tmp_path / "out.onnx", npz=tmp_path / "bad.npz")) == 2
    assert says in capsys.readouterr().err and not fake.said


def test_a_file_is_written_whole_with_its_metadata(
    exported, tmp_path, scratch, monkeypatch, capsys
):
    fake = FakeModelopt(
        monkeypatch,
        lambda model, options: with_qdq(
            stripped(model),
            leave_out=[
                n.name
                for n in model.graph.node
                if any(re.match(p, n.name) for p in options["nodes_to_exclude"])
            ],
        ),
    )
    before, out = exported.file.read_bytes(), tmp_path / "new" / "out.onnx"
    assert main(arguments(exported, out, "--quiet")) == 0
    said = capsys.readouterr()
    assert said.err == "" and said.out.count("\n") == 1
    facts = json.loads(said.out)
    model = onnx.load(out)
    assert (
        facts["quantized_products"] == len(quantized_products(model)) == 16
        and facts["products"] == 24
    )
    assert facts["bytes"] == out.stat().st_size < facts["bytes_before"] == len(before)
    assert 0 < facts["difference"]["logits"]["mean"] <= facts["difference"]["logits"]["largest"] < 1
    kept = {p.key: p.value for p in onnx.load_from_string(before).metadata_props}
    assert {p.key: p.value for p in model.metadata_props}.items() >= kept.items() | {
        ("rfx.quantization", "int8")
    }
    assert shape_mismatches(out, exported.sites, exported.plan) == []
    assert (
        exported.file.read_bytes() == before
        and not list(scratch.iterdir())
        and str(scratch).encode() not in out.read_bytes()
    )
    assert fake.said["calibration_eps"] == ["cpu"] and fake.said["quantize_mode"] == "int8"
    assert len(fake.said["nodes_to_exclude"]) == 6, "the products of the attention are left out"
    # As modelopt reads them: each is one node, and none whose name begins so.
    names = [n.name for n in onnx.load(exported.file).graph.node if n.op_type == "MatMul"]
    left_out = [n for n in names if any(re.match(p, n) for p in fake.said["nodes_to_exclude"])]
    assert len(left_out) == 6
    assert not any(re.match(p, f"{n}0") for p in fake.said["nodes_to_exclude"] for n in names)
    assert (
        main(arguments(exported, out, "--attention", "--quiet")) == 0
        and fake.said["nodes_to_exclude"] == []
    )


def stripped(model: onnx.ModelProto) -> onnx.ModelProto:
    """modelopt drops the metadata."""
    del model.metadata_props[:]
    return model


def without_a_weight(model: onnx.ModelProto) -> onnx.ModelProto:
    model = with_qdq(model)
    name = "bert.encoder.layer.0.intermediate.dense.weight.T"
    for thing in (*model.graph.node, *model.graph.initializer):
        if isinstance(thing, onnx.TensorProto):
            thing.name = thing.name.replace(name, "onnx::MatMul_1")
        else:
            thing.input[:] = [x.replace(name, "onnx::MatMul_1") for x in thing.input]
            thing.output[:] = [x.replace(name, "onnx::MatMul_1") for x in thing.output]
    return model


def with_other_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    model = with_qdq(model)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    return model


def not_a_number(model: onnx.ModelProto) -> onnx.ModelProto:
    model = with_qdq(model)
    bias = next(i for i in model.graph.initializer if i.name == "classifier.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(2, np.nan, np.float32), "classifier.bias"))
    return model


def invalid(model: onnx.ModelProto) -> onnx.ModelProto:
    model = with_qdq(model)
    del model.graph.node[5]
    return model


def raises(error: BaseException):
    def act(model, options):
        raise error

    return act


@pytest.mark.parametrize(
    "act, code, says",
    [
        (lambda m, o: m, 5, "Nothing in this model was quantized"),
        (lambda m, o: without_a_weight(m), 6, "lacks weights"),
        (lambda m, o: with_other_inputs(m), 6, "other inputs or outputs"),
        (lambda m, o: invalid(m), 6, "does not pass the checker"),
        (lambda m, o: not_a_number(m), 6, "not finite"),
        (raises(AssertionError()), 6, "modelopt could not quantize the model"),
        (raises(RuntimeError("two\nlines")), 6, "got:     two\n"),
        (raises(OSError(28, "No space left on device", "there")), 6, "No space left"),
        (raises(KeyboardInterrupt()), 130, "Nothing was written"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_whatever_modelopt_does_nothing_half_is_left(
    exported, tmp_path, scratch, monkeypatch, capsys, act, code, says
):
    FakeModelopt(monkeypatch, act)
    out, before = tmp_path / "out.onnx", exported.file.read_bytes()
    earlier = PROPERTY.encode() + b": what rfx wrote there before"
    out.write_bytes(earlier)
    assert main(arguments(exported, out)) == code
    said = capsys.readouterr()
    assert says in said.err and "Traceback" not in said.err and said.out == ""
    assert out.read_bytes() == earlier and {p.name for p in tmp_path.iterdir()} == {
        "out.onnx",
        "scratch",
    }
    assert not list(scratch.iterdir()) and exported.file.read_bytes() == before


def test_modelopt_without_its_onnx_extra_is_said(exported, tmp_path, monkeypatch, capsys):
    FakeModelopt(monkeypatch, None)
    monkeypatch.delitem(sys.modules, "modelopt.onnx.quantization")
    assert main(arguments(exported, tmp_path / "out.onnx")) == 4
    assert "modelopt does not import" in capsys.readouterr().err


def test_verbose_passes_the_chatter_on_to_stderr(exported, tmp_path, monkeypatch, capsys):
    FakeModelopt(monkeypatch, lambda model, options: with_qdq(model))
    assert main(arguments(exported, tmp_path / "out.onnx", "--verbose")) == 0
    said = capsys.readouterr()
    assert "chatter of modelopt" in said.err and "chatter" not in said.out


def test_products_are_counted_where_both_sides_are_quantized():
    model = stack(BlockShape(64, 4, 16, 256), [(4, 256), (2, 96)])
    assert quantized_products(model) == []
    done = with_qdq(model)
    assert len(quantized_products(done)) == 12
    one_side = next(n for n in done.graph.node if n.op_type == "MatMul")
    one_side.input[0] = "hidden"
    assert len(quantized_products(done)) == 11


@pytest.mark.parametrize(
    "weights_int8", [True, False], ids=["weights in int8", "Q and DQ of weights"]
)
def test_tensorrt_rtx_builds_what_is_quantized(tmp_path, weights_int8):
    pytest.importorskip("tensorrt_rtx")
    from rfx.runtimes.tensorrt.file import build_ahead

    shape = BlockShape(256, 4, 64, 1024)
    plain = stack(shape, [(4, 1024), (2, 384)])
    workload, options = Workload.of_text(batch=1, sequence=32), EngineOptions(max_sequence=64)
    built = {}
    for name, model in (("plain", plain), ("int8", with_qdq(plain, weights_int8=weights_int8))):
        onnx.save(model, tmp_path / f"{name}.onnx")
        built[name], facts = build_ahead(tmp_path / f"{name}.onnx", workload, options, ("8.9",))
        assert (
            facts["compute_capabilities"] == ["8.9"]
            and len(built[name].engine) == facts["engine_bytes"]
        )
    # Three bytes less for each weight: the products are of int8 in the engine, whatever the file
    # stores.
    weights = sum(np.prod(i.dims) for i in plain.graph.initializer if len(i.dims) == 2)
    saved = len(built["plain"].engine) - len(built["int8"].engine)
    assert saved > 2 * weights, (saved, weights)


@needs_modelopt
@pytest.mark.parametrize(
    "precision, more, products",
    [
        ("int8", [], 16),
        ("int8", ["--attention"], 20),  # but for those of the last layer, which are of one row
        ("fp8", [], 16),
        ("int8", ["--method", "entropy"], 16),
    ],
)
def test_modelopt_quantizes_a_file_of_rfx(exported, tmp_path, precision, more, products):
    out, before = tmp_path / "out" / "model.onnx", exported.file.read_bytes()
    (tmp_path / "scratch").mkdir()
    done = in_a_process(
        MODELOPT,
        run_without(("typer", "transformers")),
        str(exported.file),
        "--calibration",
        str(exported.npz),
        "--precision",
        precision,
        "--out",
        str(out),
        *more,
        TMPDIR=str(tmp_path / "scratch"),
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1 and "Traceback" not in done.stderr
    assert (
        facts["quantized_products"] == products
        and facts["products"] == 24
        and facts["examples"] == 20
    )
    assert (
        facts["bytes"] == out.stat().st_size < 0.7 * len(before)
        and exported.file.read_bytes() == before
    )
    assert not list((tmp_path / "scratch").iterdir()) and [
        p.name for p in out.parent.iterdir()
    ] == ["model.onnx"]
    model = onnx.load(out)
    found = {p.key: p.value for p in model.metadata_props}
    assert found["rfx.quantization"] == precision and found["rfx.plan"] == exported.plan.hash
    assert shape_mismatches(out, exported.sites, exported.plan) == []
    stored = {i.data_type for i in model.graph.initializer if i.name.endswith("dense.weight.T")}
    assert stored == {TensorProto.INT8 if precision == "int8" else TensorProto.FLOAT8E4M3FN}
    # The newer ONNX Runtime of this environment says the same of it, and it takes shapes it was not
    # calibrated with.
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    sessions = [
        ort.InferenceSession(f, options, providers=["CPUExecutionProvider"])
        for f in (exported.file, out)
    ]
    was, now = (s.run(None, exported.arrays)[0] for s in sessions)
    assert abs(np.abs(now - was).max() - facts["difference"]["logits"]["largest"]) < 0.02
    assert np.isfinite(
        sessions[1].run(None, {k: v[:1, :5] for k, v in exported.arrays.items()})[0]
    ).all()
    print(precision, more, done.stdout)


@needs_modelopt
@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_tensorrt_rtx_builds_what_modelopt_quantized(exported, tmp_path, precision):
    pytest.importorskip("tensorrt_rtx")
    from rfx.runtimes.tensorrt.file import build_ahead

    done = in_a_process(
        MODELOPT,
        run_without(()),
        str(exported.file),
        "--calibration",
        str(exported.npz),
        "--precision",
        precision,
        "--out",
        str(tmp_path / "out.onnx"),
    )
    assert done.returncode == 0, done.stderr
    built, facts = build_ahead(
        tmp_path / "out.onnx",
        Workload.of_text(batch=1, sequence=16),
        EngineOptions(max_sequence=32),
        ("8.9",),
    )
    assert len(built.engine) == facts["engine_bytes"] > 0


@needs_modelopt
def test_modelopt_leaves_nothing_when_the_inputs_do_not_fit(exported, tmp_path):
    np.savez(
        tmp_path / "bad.npz",
        **changed(exported.arrays, input_ids=exported.arrays["input_ids"] + 1000),
    )
    done = in_a_process(
        MODELOPT,
        run_without(()),
        *arguments(exported, tmp_path / "out.onnx", npz=tmp_path / "bad.npz"),
    )
    assert (
        done.returncode == 2
        and "does not run on the calibration inputs" in done.stderr
        and "Traceback" not in done.stderr
    )
    assert [p.name for p in tmp_path.iterdir()] == ["bad.npz"]


def test_a_check_that_fails_is_an_internal_error(exported):
    model = onnx.load(exported.file)
    with pytest.raises(InternalCheckError, match="matrix products"):
        more = onnx.ModelProto()
        more.CopyFrom(model)
        more.graph.node.append(
            helper.make_node("MatMul", ["classifier.weight", "twice"], ["product"])
        )
        more.graph.initializer.append(
            numpy_helper.from_array(np.ones((64, 1), np.float32), "twice")
        )
        check(more, model)


def documented(language: str) -> str:
    import re

    text = (ROOT / "docs" / "pages" / "how-to" / "quantization.md").read_text(encoding="utf-8")
    return "".join(re.findall(rf"```{language}\n(.*?)```", text, re.S))


def test_the_documented_lines_write_calibration_inputs(tmp_path, monkeypatch):
    (tmp_path / "build" / "model").mkdir(parents=True)
    tokenizer(tmp_path / "build" / "model").save_pretrained(tmp_path / "build" / "model")
    write_jsonl(tmp_path / "train.jsonl", sentences(300, 0))
    monkeypatch.chdir(tmp_path)
    exec(documented("python"), {})
    assert len(documented("python").splitlines()) <= 8  # short enough to copy
    arrays = quantization.read_calibration(tmp_path / "inputs.npz", NAMES)
    assert {a.shape for a in arrays.values()} == {(256, 128)} and arrays[
        "attention_mask"
    ].min() == 0


def test_the_documented_commands_are_those_there_are():
    from rfx.export.modelopt.command import _parser

    lines = [
        line.split("-m rfx.quantize ")[1].split()
        for line in documented("bash").splitlines()
        if "rfx.quantize" in line
    ]
    assert [_parser().parse_args(line).precision for line in lines] == ["int8", "fp8"]
    text = (ROOT / "docs" / "pages" / "how-to" / "quantization.md").read_text(encoding="utf-8")
    for action in _parser()._actions:
        assert action.dest in ("help", "model") or action.option_strings[0] in text, action.dest
