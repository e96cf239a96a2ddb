"""Each kind of file or folder that rfx knows, given in the place of every other kind: it is said
what it is, and never that the right kind is damaged."""

import json
import shutil
from pathlib import Path

import pytest

from rfx.core.errors import UserError
from rfx.core.recognised import recognised
from rfx.cost.bundle import Bundle
from rfx.cost.table_file import read_table
from rfx.evidence.files import require_files
from rfx.evidence.read import read_curve, read_evidence
from rfx.evidence.report.write import write_reports
from rfx.export.facts import read_model
from rfx.models.place import Place, look_at
from rfx.pipeline.gate import gate
from rfx.pipeline.verify import verify
from rfx.recipe.read import read_recipe
from rfx.tasks.data import load_examples
from tests.commands import run
from tests.conftest import sentences, write_jsonl
from tests.evidences import make_evidence

KEPT = Path(__file__).parents[1] / "golden" / "schema1"
# Of each kind: its place below the folder of the test, and what a message calls it.
KINDS = {
    "evidence": ("out/evidence.json", "the evidence of an rfx output"),
    "plan": ("out/plan.json", "the plan of an rfx output"),
    "manifest": ("out/manifest.json", "the list of files of an rfx output"),
    "output": ("out", "an output folder of rfx"),
    "model": ("out/model", "the folder of a model"),
    "config": ("out/model/config.json", "the configuration of a model"),
    "weights": ("out/model/model.safetensors", "a file of weights of safetensors"),
    "onnx": ("out/model.onnx", "an ONNX file"),
    "facts": ("engine.json", "the facts of an engine of `rfx build`"),
    "sweep": ("sweep/sweep.json", "the result of `rfx sweep`"),
    "sweep folder": ("sweep", "the folder of a sweep"),
    "reports": ("reports", "a folder of reports"),
    "table": ("table.json", "a latency table"),
    "shapes": ("shapes.json", "a file of `rfx shapes`"),
    "recipe": ("recipe.yaml", "a recipe"),
    "recipe in JSON": ("recipe.json", "a recipe"),
    "examples": ("train.jsonl", "a file of examples"),
    "list of examples": ("train.json", "a file of examples"),
    "key": ("key.pem", "a key"),
    "page": ("page.json", "a page of HTML"),
    "pointer": ("pointer.json", "a pointer of Git LFS"),
    "gzip": ("table.json.gz", "compressed by gzip"),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    import gzip

    import numpy
    import yaml
    from onnx import TensorProto, helper
    from safetensors.numpy import save_file

    root = tmp_path_factory.mktemp("kinds")
    out = root / "out"
    write_reports(make_evidence(), out)
    write_reports(make_evidence(), root / "reports")
    shutil.copy(KEPT / "plan.json", out)
    (out / "manifest.json").write_text(
        json.dumps({"schema_version": 1, "kind": "rfx output", "tool": "rfx 1", "files": {}})
    )
    (out / "model").mkdir()
    shutil.copy(KEPT / "config.json", out / "model")
    save_file({"a": numpy.zeros(3, numpy.float32)}, out / "model" / "model.safetensors")
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch"]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    (out / "model.onnx").write_bytes(helper.make_model(graph, ir_version=10).SerializeToString())
    (root / "sweep").mkdir()
    shutil.copy(KEPT / "sweep.json", root / "sweep")
    for name in ("engine.json", "table.json", "shapes.json", "recipe.yaml"):
        shutil.copy(KEPT / name, root)
    recipe = yaml.safe_load((KEPT / "recipe.yaml").read_text())
    (root / "recipe.json").write_text(json.dumps(recipe))
    write_jsonl(root / "train.jsonl", sentences(20, 0))
    (root / "train.json").write_text(json.dumps(sentences(20, 0)))
    (root / "key.pem").write_text(
        "-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----\n"
    )
    (root / "page.json").write_text("\n<!DOCTYPE html>\n<html><body>Sign in</body></html>\n")
    (root / "pointer.json").write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n")
    (root / "table.json.gz").write_bytes(gzip.compress((KEPT / "table.json").read_bytes()))
    return {kind: root / name for kind, (name, _) in KINDS.items()}


READERS = {
    "evidence": (read_evidence, {"evidence", "output", "reports"}),
    "judged evidence": (gate, {"evidence", "output", "reports"}),
    "table": (read_table, {"table"}),
    "recipe": (read_recipe, {"recipe", "recipe in JSON"}),
    "sweep": (read_curve, {"sweep", "sweep folder"}),
    "shapes": (Bundle, {"shapes"}),
    "examples": (load_examples, {"examples", "list of examples", "gzip"}),
    "ONNX file": (read_model, {"onnx"}),
    "model": (lambda path: look_at(Place.of(str(path))), {"model"}),
    "output": (verify, {"output"}),
    "output of --files": (lambda path: require_files(make_evidence(), path), {"output", "reports"}),
}


@pytest.mark.parametrize("wanted", READERS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_given_in_the_place_of_another_kind_is_named(places, kind, wanted):
    read, right = READERS[wanted]
    if kind in right:
        return
    with pytest.raises(UserError) as caught:
        read(places[kind])
    error = caught.value
    assert KINDS[kind][1] in error.what, (kind, wanted, str(error))
    assert error.exit_code == 2 and str(places[kind]) in str(error.got)
    assert error.allowed and error.next_step


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("page", "pointer", "gzip")])
def test_each_kind_is_known_for_what_it_is(places, kind):
    found = recognised(places[kind])
    assert found is not None and found.belongs and KINDS[kind][1] in f"{found.said} {found.kind}"


@pytest.mark.parametrize("kind", ["evidence", "table", "onnx", "examples", "page"])
def test_a_signing_key_is_told_apart_too(places, kind):
    pytest.importorskip("cryptography")
    from rfx.evidence.signature import private_key, public_key

    for read in (private_key, public_key):
        with pytest.raises(UserError) as caught:
            read(places[kind])
        assert KINDS[kind][1] in caught.value.what and "key" in str(caught.value.allowed)


def test_what_was_meant_is_named_where_it_lies_beside(places):
    for kind, read, near in (
        ("plan", read_evidence, places["evidence"]),
        ("model", read_evidence, places["evidence"]),
        ("evidence", verify, places["output"]),
        ("model", verify, places["output"]),
        ("output", read_model, places["onnx"]),
        ("evidence", read_model, places["onnx"]),
        ("weights", lambda p: look_at(Place.of(str(p))), places["model"]),
    ):
        with pytest.raises(UserError) as caught:
            read(places[kind])
        assert f"give {near}" in caught.value.next_step, (kind, caught.value.next_step)
    with pytest.raises(UserError, match="the model that this output was made from"):
        look_at(Place.of(str(places["output"])))


def test_the_command_line_says_it_before_anything_else_is_asked_for(places, tmp_path):
    for arguments, said in (
        (["plan", places["output"], "--flops", "0.5"], "an output folder of rfx, not a model"),
        (["plan", places["plan"], "--flops", "0.5"], "the plan of an rfx output, not a model"),
        (["plan", places["examples"], "--flops", "0.5"], "a file of examples, not a model"),
        (["plan", places["table"], "--latency", "0.5"], "a latency table, not a model"),
        (["plan", places["model"], "--table", places["evidence"]], "not a latency table"),
        (["gate", places["plan"]], "the plan of an rfx output, not evidence"),
        (["gate", places["evidence"], "--baseline", places["table"]], "a latency table, not evid"),
        (["build", places["output"]], "an output folder of rfx, not an ONNX file"),
        (["build", places["output"]], str(places["onnx"])),
        (["verify", places["sweep folder"]], "the folder of a sweep, not an output folder"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2 and said in " ".join(result.output.split()), result.output


def test_a_recipe_in_json_is_a_recipe(places, tmp_path):
    result = run("plan", places["recipe in JSON"], "--flops", "2")
    assert result.exit_code == 2 and "--flops" in result.output and "2" in result.output
    assert "a file, where" not in result.output
