"""Triton model folders: the configuration through Triton's own schema, and against the rules its
core and backends load by."""

import os
import re

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfx.core.errors import UsageError
from rfx.core.plan import Plan
from rfx.export.onnx import export_onnx
from rfx.export.triton import MARK, TYPES, TensorSpec, specs_of, triton_name, write_triton
from rfx.models.families.find import find_sites
from rfx.models.shrink import shrink
from tests.families import make, text_inputs

IDS = TensorSpec("input_ids", "int64", (None, None))
MASK = TensorSpec("attention_mask", "int64", (None, None))
LOGITS = TensorSpec("logits", "float32", (None, 2))


@pytest.fixture(scope="module")
def schema():
    """Triton's model_config.proto, as its own client has it."""
    return pytest.importorskip("tritonclient.grpc.model_config_pb2")


@pytest.fixture
def files(tmp_path):
    """Stand-ins for a model of each backend: their contents are nothing to `write_triton`."""
    (tmp_path / "m.onnx").write_bytes(b"onnx")
    (tmp_path / "m.plan").write_bytes(b"plan")
    onnx, plan = tmp_path / "m.onnx", tmp_path / "m.plan"
    return {"onnxruntime": onnx, "openvino": onnx, "tensorrt": plan}


def write(root, files, backend="onnxruntime", **more):
    return write_triton(
        root,
        **{
            "name": "reviews",
            "model_file": files[backend],
            "backend": backend,
            "inputs": [IDS, MASK],
            "outputs": [LOGITS],
            "max_batch": 8,
            "warmup": (1, 128),
            "on_gpu": backend == "tensorrt",
            **more,
        },
    )


def parse(folder, schema):
    from google.protobuf import text_format

    return text_format.Parse(
        (folder / "config.pbtxt").read_text(encoding="utf-8"), schema.ModelConfig()
    )


def refusals(config, folder, schema) -> list[str]:
    """Why Triton would not load the model: the rules of its core (model_config_utils.cc,
    backend_model_instance.cc) and of its onnxruntime and tensorrt backends, without
    auto-completion. [] where it loads."""
    wrong = []

    def must(truth, why):
        if not truth:
            wrong.append(why)

    must(config.name == folder.name, "the name is not the folder's")
    files = {
        "onnxruntime": ("onnxruntime_onnx", "model.onnx"),
        "tensorrt": ("tensorrt_plan", "model.plan"),
        "openvino": ("", "model.xml"),
    }
    must(config.backend in files, "unknown backend")
    platform, default = files.get(config.backend, ("", ""))
    must(config.platform == platform, "unexpected platform and backend pair")
    versions = [p.name for p in folder.iterdir() if p.is_dir()]
    must(
        versions and all(re.fullmatch("[1-9][0-9]*", v) for v in versions),
        "version folders are numbers without leading zeros",
    )
    must(
        all((folder / v / (config.default_model_filename or default)).is_file() for v in versions),
        "no model file",
    )
    must(config.max_batch_size >= 0, "max_batch_size must be non-negative")
    if config.HasField("dynamic_batching"):
        for size in config.dynamic_batching.preferred_batch_size:
            must(
                0 < size <= config.max_batch_size,
                "preferred size must be positive and <= max batch size",
            )
    must(len(config.instance_group) >= 1, "no instance group")
    for group in config.instance_group:
        kind = schema.ModelInstanceGroup.Kind.Name(group.kind)
        must(
            kind
            in {"tensorrt": ("KIND_GPU",), "openvino": ("KIND_CPU",)}.get(
                config.backend, ("KIND_GPU", "KIND_CPU")
            ),
            f"{kind} for {config.backend}",
        )
        must(group.count >= 1, "no instance")
    for tensor in [*config.input, *config.output]:
        must(tensor.name, "a tensor without a name")
        must(tensor.data_type != schema.TYPE_INVALID, "a tensor without a type")
        must(len(tensor.dims) > 0, "dims must not be empty")
        must(all(d == -1 or d > 0 for d in tensor.dims), "dims must be positive or -1")
    for sample in config.model_warmup:
        must(
            1 <= sample.batch_size <= max(config.max_batch_size, 1),
            "the warm-up's batch is over the maximum",
        )
        must(
            set(sample.inputs) == {i.name for i in config.input},
            "the warm-up must have the model's inputs",
        )
        for tensor in config.input:
            value = sample.inputs[tensor.name]
            must(value.data_type == tensor.data_type, "the warm-up's type")
            must(len(value.dims) == len(tensor.dims), "the warm-up's rank")
            must(all(w > 0 for w in value.dims), "the warm-up expects all dimensions to be given")
            must(all(d in (-1, w) for d, w in zip(tensor.dims, value.dims)), "the warm-up's shape")
            must(
                value.WhichOneof("input_data_type"), "the warm-up must say where its data come from"
            )
            random = value.WhichOneof("input_data_type") == "random_data"
            must(
                not (random and schema.DataType.Name(value.data_type).startswith("TYPE_INT")),
                "random bytes are no tokens",
            )
    return wrong


def against_model(config, session, schema) -> list[str]:
    """What the onnxruntime backend compares with the file: names, types, and shapes after a leading
    batch of -1."""
    wrong = []
    for ours, theirs in (
        (config.input, session.get_inputs()),
        (config.output, session.get_outputs()),
    ):
        found = {t.name: t for t in theirs}
        if {t.name for t in ours} != set(found):
            return [f"names {[t.name for t in ours]}, the model has {sorted(found)}"]
        for tensor in ours:
            model = found[tensor.name]
            numpy_like = {"tensor(float)": "float32", "tensor(float16)": "float16"}.get(
                model.type, model.type[7:-1]
            )
            if TYPES[numpy_like] != schema.DataType.Name(tensor.data_type):
                wrong.append(f"{tensor.name} is {model.type}")
            shape = [d if isinstance(d, int) else -1 for d in model.shape]
            if shape != [-1, *tensor.dims]:
                wrong.append(f"{tensor.name} is {shape}")
    return wrong


def test_every_field_for_onnxruntime_on_the_cpu(tmp_path, files, schema):
    folder = write(tmp_path / "triton", files, threads=4)
    assert folder == tmp_path / "triton" / "reviews"
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*")) == [
        "1",
        "1/model.onnx",
        "config.pbtxt",
    ]
    inputs = {
        n: schema.ModelWarmup.Input(data_type="TYPE_INT64", dims=[128], zero_data=True)
        for n in ("input_ids", "attention_mask")
    }
    assert parse(folder, schema) == schema.ModelConfig(
        name="reviews",
        platform="onnxruntime_onnx",
        backend="onnxruntime",
        default_model_filename="model.onnx",
        max_batch_size=8,
        input=[
            {"name": n, "data_type": "TYPE_INT64", "dims": [-1]}
            for n in ("input_ids", "attention_mask")
        ],
        output=[{"name": "logits", "data_type": "TYPE_FP32", "dims": [2]}],
        instance_group=[{"count": 1, "kind": "KIND_CPU"}],
        dynamic_batching={"preferred_batch_size": [8], "max_queue_delay_microseconds": 0},
        parameters={"intra_op_thread_count": schema.ModelParameter(string_value="4")},
        model_warmup=[{"name": "measured", "batch_size": 1, "count": 3, "inputs": inputs}],
    )


def test_every_field_for_tensorrt(tmp_path, files, schema):
    folder = write(
        tmp_path / "triton",
        files,
        "tensorrt",
        inputs=[TensorSpec("input_ids", "int32", (None, None))],
        outputs=[TensorSpec(n, "float16", (None, None)) for n in ("start_logits", "end_logits")],
        max_batch=64,
        warmup=(32, 384),
        threads=4,
    )
    assert (folder / "1" / "model.plan").read_bytes() == b"plan"
    assert parse(folder, schema) == schema.ModelConfig(
        name="reviews",
        platform="tensorrt_plan",
        backend="tensorrt",
        default_model_filename="model.plan",
        max_batch_size=64,
        input=[{"name": "input_ids", "data_type": "TYPE_INT32", "dims": [-1]}],
        output=[
            {"name": n, "data_type": "TYPE_FP16", "dims": [-1]}
            for n in ("start_logits", "end_logits")
        ],
        instance_group=[{"count": 1, "kind": "KIND_GPU"}],
        dynamic_batching={"preferred_batch_size": [32, 64], "max_queue_delay_microseconds": 500},
        model_warmup=[
            {
                "name": "measured",
                "batch_size": 32,
                "count": 3,
                "inputs": {
                    "input_ids": schema.ModelWarmup.Input(
                        data_type="TYPE_INT32", dims=[384], zero_data=True
                    )
                },
            }
        ],
    )


def test_every_field_for_openvino(tmp_path, files, schema):
    """The batch is a dimension of its own: OpenVINO's backend takes batches of exactly
    `max_batch_size`."""
    folder = write(tmp_path / "triton", files, "openvino", warmup=(4, 128), threads=2)
    assert (folder / "1" / "model.onnx").read_bytes() == b"onnx"
    inputs = {
        n: schema.ModelWarmup.Input(data_type="TYPE_INT64", dims=[4, 128], zero_data=True)
        for n in ("input_ids", "attention_mask")
    }
    config = parse(folder, schema)
    assert config == schema.ModelConfig(
        name="reviews",
        backend="openvino",
        default_model_filename="model.onnx",
        input=[
            {"name": n, "data_type": "TYPE_INT64", "dims": [-1, -1]}
            for n in ("input_ids", "attention_mask")
        ],
        output=[{"name": "logits", "data_type": "TYPE_FP32", "dims": [-1, 2]}],
        instance_group=[{"count": 1, "kind": "KIND_CPU"}],
        parameters={
            k: schema.ModelParameter(string_value=v)
            for k, v in (
                ("NUM_STREAMS", "1"),
                ("PERFORMANCE_HINT", "LATENCY"),
                ("INFERENCE_NUM_THREADS", "2"),
            )
        },
        model_warmup=[{"name": "measured", "batch_size": 1, "count": 3, "inputs": inputs}],
    )
    assert refusals(config, folder, schema) == []
    with pytest.raises(UsageError, match="CPUs alone"):
        write(tmp_path / "triton", files, "openvino", on_gpu=True)


@pytest.mark.parametrize(
    "backend, on_gpu", [("onnxruntime", False), ("onnxruntime", True), ("tensorrt", True)]
)
@pytest.mark.parametrize(
    "max_batch, warmup",
    [(1, (1, 1)), (2, (1, 7)), (8, (8, 128)), (65535, (4, 512)), (np.int64(3), (2, np.int32(5)))],
)
def test_triton_would_load_it(backend, on_gpu, max_batch, warmup, tmp_path, files, schema):
    fixed = TensorSpec("pixels", "float32", (None, 3, 8, None))
    folder = write(
        tmp_path / "r",
        files,
        backend,
        inputs=[IDS, fixed],
        max_batch=max_batch,
        warmup=warmup,
        on_gpu=on_gpu,
        threads=2,
    )
    config = parse(folder, schema)
    assert refusals(config, folder, schema) == []
    assert config.max_batch_size == max_batch and config.model_warmup[0].batch_size == warmup[0]
    assert list(config.input[1].dims) == [3, 8, -1]
    assert list(config.model_warmup[0].inputs["pixels"].dims) == [3, 8, warmup[1]]
    assert bool(config.parameters) == (backend == "onnxruntime" and not on_gpu)
    assert config.HasField("dynamic_batching") == (max_batch > 1)
    assert not config.HasField("optimization")


@pytest.mark.parametrize(
    "break_it, why",
    [
        (lambda c: c.input[0].dims.insert(0, 0), "positive"),
        (lambda c: setattr(c, "name", "other"), "folder"),
        (lambda c: setattr(c, "platform", "tensorrt_plan"), "platform"),
        (lambda c: setattr(c, "default_model_filename", "other.onnx"), "model file"),
        (lambda c: c.dynamic_batching.preferred_batch_size.append(9), "preferred"),
        (lambda c: setattr(c.model_warmup[0], "batch_size", 9), "maximum"),
        (lambda c: c.model_warmup[0].inputs.pop("attention_mask"), "inputs"),
        (lambda c: setattr(c.model_warmup[0].inputs["input_ids"], "random_data", True), "random"),
        (lambda c: c.model_warmup[0].inputs["input_ids"].dims.__setitem__(0, -1), "given"),
        (lambda c: c.output[0].ClearField("dims"), "empty"),
        (lambda c: c.instance_group.pop(), "instance"),
    ],
)
def test_the_rules_of_these_tests_see_what_is_wrong(break_it, why, tmp_path, files, schema):
    folder = write(tmp_path / "r", files)
    config = parse(folder, schema)
    assert refusals(config, folder, schema) == []
    break_it(config)
    assert why in " ".join(refusals(config, folder, schema))


@pytest.mark.parametrize(
    "given, warmup, expected", [(None, 1, 0), (None, 4, 500), (250, 1, 250), (0, 4, 0)]
)
def test_a_lone_request_waits_only_where_batches_were_measured(
    given, warmup, expected, tmp_path, files, schema
):
    config = parse(write(tmp_path / "r", files, warmup=(warmup, 16), queue_delay_us=given), schema)
    assert config.dynamic_batching.max_queue_delay_microseconds == expected
    assert list(config.dynamic_batching.preferred_batch_size) == sorted({warmup, 8} - {1})


def test_types_are_tritons(schema):
    from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

    for numpy_like, triton in TYPES.items():
        assert triton in set(schema.DataType.keys())
        if numpy_like != "bfloat16":  # none of numpy's own
            assert "TYPE_" + np_to_triton_dtype(np.dtype(numpy_like)) == triton
            assert np.dtype(triton_to_np_dtype(triton.removeprefix("TYPE_"))) == np.dtype(
                numpy_like
            )


def test_strings_of_any_kind_come_back(tmp_path, files, schema):
    odd = 'a"b\\c\nd\té'
    folder = write(tmp_path / "r", files, inputs=[TensorSpec(odd, "int64", (None, None))])
    config = parse(folder, schema)
    assert config.input[0].name == odd and list(config.model_warmup[0].inputs) == [odd]


@pytest.mark.parametrize(
    "given_name, expected",
    [
        ("reviews", "reviews"),
        ("someone/bert-base", "someone_bert-base"),
        ("/a b/c", "a_b_c"),
        ("v1.2", "v1.2"),
        ("../x", "x"),
        (".hidden", "hidden"),
        ("", "model"),
        ("///", "model"),
        ("größe", "gr_e"),
        ("a" * 300, "a" * 100),
        ("a" * 99 + "._b", "a" * 99),
    ],
)
def test_names_are_made_valid(given_name, expected):
    assert triton_name(given_name) == expected


@given(st.text())
def test_every_name_becomes_one_of_a_url_and_stays_it(text):
    name = triton_name(text)
    assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,98}[A-Za-z0-9])?", name)
    assert triton_name(name) == name


def test_the_folder_has_the_valid_name(tmp_path, files, schema):
    folder = write(tmp_path / "r", files, name="someone/my bert")
    assert (
        folder == tmp_path / "r" / "someone_my_bert" and parse(folder, schema).name == folder.name
    )


def test_the_file_is_linked_where_it_can_be_and_never_symbolically(tmp_path, files, monkeypatch):
    file = write(tmp_path / "r", files) / "1" / "model.onnx"
    assert (file).samefile(files["onnxruntime"]) and not file.is_symlink()

    (tmp_path / "link.onnx").symlink_to(files["onnxruntime"])
    file = write(tmp_path / "r", files, model_file=tmp_path / "link.onnx") / "1" / "model.onnx"
    assert (file).samefile(files["onnxruntime"]) and not file.is_symlink()

    monkeypatch.setattr(
        os, "link", lambda *a, **k: (_ for _ in ()).throw(OSError(18, "Invalid cross-device link"))
    )
    file = write(tmp_path / "r", files) / "1" / "model.onnx"
    assert (
        not (file).samefile(files["onnxruntime"])
        and not file.is_symlink()
        and file.read_bytes() == b"onnx"
    )


def test_what_rfx_wrote_is_replaced_and_nothing_else(tmp_path, files):
    folder = write(tmp_path / "r", files)
    assert (folder / "config.pbtxt").read_text(encoding="utf-8").startswith(MARK)
    again = write(tmp_path / "r", files, "tensorrt")
    assert again == folder and [p.name for p in (folder / "1").iterdir()] == ["model.plan"]
    (folder / "config.pbtxt").write_text('name: "reviews"\n', encoding="utf-8")
    with pytest.raises(UsageError, match="did not write"):
        write(tmp_path / "r", files)
    assert (folder / "config.pbtxt").read_text(encoding="utf-8") == 'name: "reviews"\n'
    (tmp_path / "r" / "empty").mkdir()
    assert write(tmp_path / "r", files, name="empty").name == "empty"


@pytest.mark.parametrize(
    "more",
    [
        *(
            {"max_batch": bad}
            for bad in (0, -1, 2.5, float("nan"), float("inf"), True, "8", None, 2**31)
        ),
        *(
            {"warmup": bad}
            for bad in ((0, 16), (9, 16), (1, 0), (1, float("nan")), (1.0, 16), (1, None))
        ),
        *({"threads": bad} for bad in (0, -2, 1.5, float("nan"), True)),
        *({"queue_delay_us": bad} for bad in (-1, 0.5, float("nan"))),
        {"inputs": []},
        {"outputs": []},
        {"inputs": [IDS, IDS]},
        {"inputs": [TensorSpec("", "int64", (None, None))]},
        {"inputs": [TensorSpec("x", "string", (None, None))]},
        {"outputs": [TensorSpec("x", "float32", (None,))]},
        {"outputs": [TensorSpec("x", "float32", ())]},
        {"inputs": [TensorSpec("x", "int64", (4, None))]},
        {"inputs": [TensorSpec("x", "int64", (None, 0))]},
        {"inputs": [TensorSpec("x", "int64", (None, -1))]},
        {"backend": "tensorrt", "on_gpu": False},
        {"model_file": "m.plan"},
        {"model_file": "gone.onnx"},
        {"model_file": "."},
    ],
)
def test_what_triton_would_refuse_is_refused_with_nothing_written(more, tmp_path, files):
    if "model_file" in more:
        more = {"model_file": tmp_path / more["model_file"]}
    with pytest.raises(UsageError) as raised:
        write(tmp_path / "new" / "r", files, **more)
    assert raised.value.got is not None and "Triton" in raised.value.what
    assert not (tmp_path / "new").exists()


def test_an_unknown_backend_and_a_place_that_is_a_file_are_refused(tmp_path, files):
    with pytest.raises(UsageError, match="backend") as error:
        write(tmp_path / "r", files | {"pytorch": files["onnxruntime"]}, "pytorch")
    assert "onnxruntime" in error.value.allowed and "tensorrt" in error.value.allowed
    with pytest.raises(UsageError, match="cannot be made"):
        write(files["onnxruntime"], files)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Two families as rfx exports them: a pruned BERT classifier with an emptied sublayer, a
    DistilBERT for questions."""
    folder = tmp_path_factory.mktemp("exported")
    bert = make("bert")
    sites = find_sites(bert)
    plan = Plan.of(sites, {s.name: range(s.units // 2) for s in sites} | {"layer.1.ffn": ()})
    return {
        "bert": export_onnx(
            shrink(bert, sites, plan),
            folder / "bert.onnx",
            output_names=("logits",),
            inputs=text_inputs(("input_ids", "attention_mask", "token_type_ids")),
        ),
        "distilbert": export_onnx(
            make("distilbert", "question-answering"),
            folder / "distilbert.onnx",
            inputs=text_inputs(("input_ids", "attention_mask")),
            output_names=("start_logits", "end_logits"),
        ),
    }


@pytest.mark.parametrize(
    "family, names, shapes",
    [
        ("bert", ["input_ids", "attention_mask", "token_type_ids"], {"logits": (None, 2)}),
        (
            "distilbert",
            ["input_ids", "attention_mask"],
            {"start_logits": (None, None), "end_logits": (None, None)},
        ),
    ],
)
def test_real_models_are_described_and_run_from_the_triton_folder(
    family, names, shapes, exported, tmp_path, schema
):
    inputs, outputs = specs_of(exported[family])
    assert inputs == [TensorSpec(n, "int64", (None, None)) for n in names]
    assert outputs == [TensorSpec(n, "float32", s) for n, s in shapes.items()]
    folder = write_triton(
        tmp_path / "triton",
        name=f"rfx/{family}",
        model_file=exported[family],
        backend="onnxruntime",
        inputs=inputs,
        outputs=outputs,
        max_batch=4,
        warmup=(2, 16),
        on_gpu=False,
        threads=1,
    )
    config = parse(folder, schema)
    session = ort.InferenceSession(
        str(folder / "1" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    assert refusals(config, folder, schema) == [] and against_model(config, session, schema) == []

    # Triton joins `batch_size` requests of one example into a batch.
    sample = config.model_warmup[0]
    zeros = {
        n: np.zeros((sample.batch_size, *v.dims), dtype="int64") for n, v in sample.inputs.items()
    }
    assert all(np.isfinite(out).all() for out in session.run(None, zeros))

    reference = ort.InferenceSession(str(exported[family]), providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(0).integers(4, 120, (config.max_batch_size, 9))
    feed = {n: ids if n == "input_ids" else np.full_like(ids, n == "attention_mask") for n in names}
    for ours, theirs in zip(session.run(None, feed), reference.run(None, feed), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
        assert len(ours) == config.max_batch_size


def test_a_configuration_of_another_model_is_seen(exported, tmp_path, files, schema):
    folder = write(
        tmp_path / "r", files, inputs=[IDS, TensorSpec("attention_mask", "int32", (None, None))]
    )
    session = ort.InferenceSession(str(exported["distilbert"]), providers=["CPUExecutionProvider"])
    assert against_model(parse(folder, schema), session, schema)


def value(name, kind, shape):
    return onnx.helper.make_tensor_value_info(name, kind, shape)


@pytest.mark.parametrize(
    "kind, numpy_like",
    [
        (onnx.TensorProto.FLOAT16, "float16"),
        (onnx.TensorProto.BFLOAT16, "bfloat16"),
        (onnx.TensorProto.INT32, "int32"),
        (onnx.TensorProto.BOOL, "bool"),
    ],
)
def test_specs_leave_weights_out_and_know_the_types(kind, numpy_like, tmp_path):
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [value("x", kind, ["batch", None, 3]), value("w", kind, [2])],
        [value("y", kind, ["batch", None, 3])],
        [onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])],
    )
    onnx.save(onnx.helper.make_model(graph), tmp_path / "m.onnx")
    assert specs_of(tmp_path / "m.onnx") == (
        [TensorSpec("x", numpy_like, (None, None, 3))],
        [TensorSpec("y", numpy_like, (None, None, 3))],
    )


@pytest.mark.parametrize("content", [None, b"", b"no model", b"\x0a\xff\xff"])
def test_specs_of_what_is_no_model_are_refused(content, tmp_path):
    if content is not None:
        (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read"):
        specs_of(tmp_path / "m.onnx")
