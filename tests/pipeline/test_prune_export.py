"""A whole prune-export on a real trained model, by the command line, and what it leaves behind."""

import json
import shutil
import xml.etree.ElementTree as ET

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import rfx
from rfx.core.files import file_hash
from rfx.core.plan import Plan, Site
from rfx.cost.table_file import read_table
from rfx.export.onnx import site_shapes
from rfx.pipeline import judge as check
from rfx.pipeline import loop, table
from tests.commands import STANDARD, given, run


def options(trained):
    return given(trained, **STANDARD)


@pytest.fixture(scope="module")
def built(trained, closed, tmp_path_factory):
    """One FLOPs-budget run, shared: no latency table, so it takes seconds."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(closed.store, folder / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RFX_CACHE", str(folder / "cache"))
        result = run(
            "prune-export",
            *options(trained),
            "--flops",
            "0.5",
            "--max-drop",
            "20",
            "--out",
            folder / "out",
            "--json",
        )
    assert result.exit_code in (0, 1, 7), result.output + str(result.exception)
    return folder, json.loads(result.stdout)


def dense_file(folder):
    """The dense model in fp32: the store has it in int8 too."""
    files = (folder / "cache" / "dense").rglob("model.onnx")
    facts = {f: {p.key: p.value for p in onnx.load(f).metadata_props} for f in files}
    (found,) = (f for f, told in facts.items() if told["rfx.precision"] == "fp32")
    return found


def test_the_model_is_smaller_in_every_form(built, trained):
    folder, evidence = built
    assert evidence["flops_ratio"] < 0.55 and evidence["params_ratio"] < 1
    plan = Plan.from_json(json.loads((folder / "out" / "plan.json").read_text()))
    config = json.loads((folder / "out" / "model" / "config.json").read_text())
    assert config["pruned_layers"] == plan.layers
    sites = [
        Site.from_json({k: v for k, v in s.items() if k != "count"}) for s in config["rfx"]["sites"]
    ]
    for name, modules in site_shapes(folder / "out" / "model.onnx", sites).items():
        assert set(modules.values()) == {plan[name].count * plan[name].width}
    facts = (
        ort.InferenceSession(str(folder / "out" / "model.onnx")).get_modelmeta().custom_metadata_map
    )
    assert (
        int(facts["rfx.positions"])
        == json.loads((trained["model"] / "config.json").read_text())["max_position_embeddings"]
    )
    assert (folder / "out" / "model.onnx").stat().st_size < (
        trained["model"] / "model.safetensors"
    ).stat().st_size * 1.2


def test_the_gates_that_need_no_clock_pass(built):
    _, evidence = built
    outcome = {g["name"]: g["outcome"] for g in evidence["gates"]}
    assert outcome["shrunk"] == outcome["same"] == outcome["agreement"] == "pass"
    assert outcome["accuracy"] == "pass"
    assert set(outcome) == {"shrunk", "same", "accuracy", "agreement", "latency"}
    assert evidence["data"]["overlap"] == 0
    assert evidence["accuracy"]["dense"] > 0.9


def test_the_checkpoint_and_the_engine_agree(built, trained):
    import torch
    import transformers

    folder, _ = built
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "out" / "model")
    inputs = tokenizer(
        ["a good great film", "bad awful sad plot with a very sad scene"],
        padding=True,
        return_tensors="pt",
    )
    session = ort.InferenceSession(
        str(folder / "out" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    fed = {i.name: inputs[i.name].numpy() for i in session.get_inputs()}
    with torch.no_grad():
        logits = rfx.load(folder / "out")(**inputs).logits
    assert np.allclose(session.run(["logits"], fed)[0], logits.numpy(), atol=1e-4)
    assert logits.argmax(-1).tolist() == [1, 0]


def test_every_report_is_there(built):
    folder, _ = built
    out = folder / "out"
    assert {
        "evidence.json",
        "report.html",
        "junit.xml",
        "README.md",
        "plan.json",
        "model.onnx",
    } <= {p.name for p in out.iterdir()}
    assert len(ET.parse(out / "junit.xml").getroot().findall(".//testcase")) == 5
    assert "<svg" in (out / "report.html").read_text()
    assert not [p for p in folder.iterdir() if "tmp" in p.name]


def test_no_file_but_the_recipe_tells_where_the_model_lies(built, trained):
    folder, evidence = built
    place = str(trained["model"]).encode()
    told = ("evidence.json", "report.html")  # they have the recipe
    files = [f for f in (folder / "out").rglob("*") if f.is_file() and f.name not in told]
    assert len(files) > 8
    assert [f.name for f in files if place in f.read_bytes()] == []
    assert evidence["model"]["source"] == "model" and evidence["model"]["local"]
    assert place.decode() in json.dumps(evidence["recipe"])  # which verify needs
    assert place.decode() not in json.dumps({**evidence, "recipe": {}})


def test_a_second_run_takes_scores_and_baseline_from_the_store(built, trained, monkeypatch):
    folder, first = built
    monkeypatch.setenv("RFX_CACHE", str(folder / "cache"))
    evaluated, evaluate = [], check.evaluate
    monkeypatch.setattr(check, "evaluate", lambda *a: evaluated.append(a[3]) or evaluate(*a))
    result = run(
        "prune-export", *options(trained), "--flops", "0.3", "--out", folder / "second", "--json"
    )
    evidence = json.loads(result.stdout)
    stages = {s["name"]: s["cached"] for s in evidence["stages"]}
    assert stages["score"] and stages["dense baseline"]
    assert evaluated == ["evaluating the pruned model"]  # the dense one's outputs are in the store
    assert evidence["accuracy"]["dense"] == first["accuracy"]["dense"]
    # Half of the FLOPs kept, and 0.3.
    assert 0 < first["accuracy"]["divergence"] < evidence["accuracy"]["divergence"]


def test_verify_measures_again(built, monkeypatch):
    folder, _ = built
    monkeypatch.setenv("RFX_CACHE", str(folder / "cache"))
    result = run("verify", folder / "out", "--json")
    assert result.exit_code in (0, 1, 7), result.output + str(result.exception)
    evidence = json.loads(result.stdout)
    assert {g["name"]: g["outcome"] for g in evidence["gates"]}["shrunk"] == "pass"


def test_verify_judges_another_file_of_the_same_model(built, monkeypatch, tmp_path):
    """As a quantized one; here the dense one, which is slower and as accurate as itself."""
    folder, _ = built
    monkeypatch.setenv("RFX_CACHE", str(folder / "cache"))
    dense = dense_file(folder)
    evidence = json.loads(run("verify", folder / "out", "--onnx", dense, "--json").stdout)
    assert (
        evidence["accuracy"]["drop"] == 0
        and evidence["accuracy"]["divergence"] < 1e-9
        and any("keep model.onnx" in w for w in evidence["warnings"])
    )
    assert evidence["files"]["model.onnx"] == file_hash(dense)  # what the numbers are of
    assert 0.8 < evidence["latency"]["ratio"] < 1.25
    gates = {g["name"]: g for g in evidence["gates"]}
    # Of the same name: it is the dense one.
    assert gates["shrunk"]["outcome"] == "fail" and gates["shrunk"]["detail"].startswith(
        "model.onnx: "
    )
    assert gates["same"]["outcome"] == "pass" and gates["same"]["detail"].startswith("model.onnx: ")
    missing = run("verify", folder / "out", "--onnx", tmp_path / "no.onnx")
    assert missing.exit_code == 2 and "no.onnx" in missing.output


def test_verify_finds_a_model_that_is_not_shrunk(built, monkeypatch, tmp_path):
    """The regression that broke others: an exported file whose shapes are not smaller."""
    folder, _ = built
    monkeypatch.setenv("RFX_CACHE", str(folder / "cache"))
    shutil.copytree(folder / "out", tmp_path / "out")
    dense = dense_file(folder)
    shutil.copy(dense, tmp_path / "out" / "model.onnx")
    result = run("verify", tmp_path / "out", "--json")
    assert result.exit_code == 6
    assert json.loads(result.stdout)["files"]["model.onnx"] == file_hash(dense)
    gates = {g["name"]: g for g in json.loads(result.stdout)["gates"]}
    assert gates["shrunk"]["outcome"] == "fail" and "the plan keeps" in gates["shrunk"]["detail"]


def test_verify_writes_reports_only_where_nothing_else_is(built, monkeypatch, tmp_path):
    folder, _ = built
    monkeypatch.setenv("RFX_CACHE", str(folder / "cache"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine")
    before = {p: p.stat().st_mtime_ns for p in (folder / "out").rglob("*")}
    for place in (folder / "out", tmp_path / "mine"):
        refused = run("verify", folder / "out", "--out", place)
        assert refused.exit_code == 2, refused.output
    assert {p: p.stat().st_mtime_ns for p in (folder / "out").rglob("*")} == before
    assert (tmp_path / "mine" / "README.md").read_text() == "mine"
    result = run("verify", folder / "out", "--out", tmp_path / "new" / "reports")
    assert (
        result.exit_code in (0, 1, 7) and "model.onnx" not in result.stdout.split("written to")[1]
    )
    assert (tmp_path / "new" / "reports" / "evidence.json").is_file()


def test_verify_proves_masked_and_shrunk_and_finds_other_weights(built, monkeypatch, tmp_path):
    """A checkpoint and an engine that agree with one another, but not with the plan."""
    from safetensors.numpy import load_file, save_file

    folder, _ = built
    monkeypatch.setenv("RFX_CACHE", str(folder / "cache"))
    same = json.loads(run("verify", folder / "out", "--json").stdout)
    assert set(same["parity"]) == {"masked-shrunk", "shrunk-engine"}
    shutil.copytree(folder / "out", tmp_path / "out")
    update = load_file(tmp_path / "out" / "update.safetensors")
    save_file({k: v * 1.5 for k, v in update.items()}, tmp_path / "out" / "update.safetensors")
    assert run("verify", tmp_path / "out").exit_code == 6


@pytest.mark.parametrize("damage", ["recipe", "plan", "sites"])
def test_verify_names_evidence_that_is_damaged(built, monkeypatch, tmp_path, damage):
    folder, _ = built
    monkeypatch.setenv("RFX_CACHE", str(folder / "cache"))
    shutil.copytree(folder / "out", tmp_path / "out")
    data = json.loads((tmp_path / "out" / "evidence.json").read_text())
    if damage == "recipe":
        data["recipe"]["no_such_key"] = 1
    elif damage == "plan":
        data["plan"] = {}
    else:
        data["plan"]["sites"] = data["plan"]["sites"][:-1]
    (tmp_path / "out" / "evidence.json").write_text(json.dumps(data))
    result = run("verify", tmp_path / "out")
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), result.exception


def test_scores_depend_on_labels_and_not_on_where_the_model_lies(
    built, trained, monkeypatch, tmp_path
):
    folder, evidence = built
    monkeypatch.setenv("RFX_CACHE", str(folder / "cache"))
    shutil.copytree(trained["model"], tmp_path / "elsewhere")
    rows = [json.loads(line) for line in trained["train"].read_text().splitlines()]
    (tmp_path / "flipped.jsonl").write_text(
        "".join(json.dumps({**r, "label": 1 - r["label"]}) + "\n" for r in rows)
    )

    def scored(*more):
        arguments = options(trained)
        arguments[0] = tmp_path / "elsewhere"
        result = run(
            "prune-export", *arguments, "--flops", "0.5", "--out", tmp_path / "out", "--json", *more
        )
        found = json.loads(result.stdout)
        return found["model"]["hash"], {s["name"]: s["cached"] for s in found["stages"]}["score"]

    assert scored() == (evidence["model"]["hash"], True)
    assert scored("--train", tmp_path / "flipped.jsonl") == (evidence["model"]["hash"], False)


@pytest.mark.parametrize(
    "family",
    [
        "ernie",
        "esm",
        "token-classification",  # of a DistilBERT
        *(pytest.param(f, marks=pytest.mark.slow) for f in ("roberta", "electra", "distilbert")),
    ],
)
def test_every_family_goes_through(family, trained, tmp_path, cache):
    """Untrained models of each family, and the task that has no recipe, from the checkpoint to the
    engine."""
    import torch

    from rfx.models.families.find import find_sites, layout
    from tests.conftest import tokenizer, write_jsonl
    from tests.families import make

    tok = tokenizer(tmp_path)
    task = "token-classification" if family == "token-classification" else "text-classification"
    torch.manual_seed(0)
    model = make(
        "distilbert" if task == family else family,
        task,
        vocab_size=len(tok),
        pad_token_id=tok.pad_token_id,
    )
    assert layout(find_sites(model)) == ("pre-ln" if family == "esm" else "post-ln")
    model.save_pretrained(tmp_path / "model")
    tok.save_pretrained(tmp_path / "model")
    files = {}
    for name in ("train", "eval"):
        rows = [json.loads(line) for line in trained[name].read_text().splitlines()[:40]]
        if task == family:
            rows = [
                {"tokens": r["text"].split(), "tags": [len(w) % 2 for w in r["text"].split()]}
                for r in rows
            ]
        files[name] = write_jsonl(tmp_path / f"{name}.jsonl", rows)
    result = run(
        "prune-export",
        tmp_path / "model",
        "--task",
        task,
        "--train",
        files["train"],
        "--eval",
        files["eval"],
        "--target",
        "ort",
        "--sequence",
        "16",
        "--flops",
        "0.6",
        "--out",
        tmp_path / "out",
        "--allow-weak-baseline",  # it is untrained
        "--json",
    )
    assert result.exit_code in (0, 1, 7), result.output + str(result.exception)
    gates = {g["name"]: g["outcome"] for g in json.loads(result.stdout)["gates"]}
    assert gates["shrunk"] == gates["same"] == "pass"


def test_gate_judges_by_new_limits(built):
    folder, _evidence = built
    file = folder / "out" / "evidence.json"
    assert run("gate", file, "--min-speedup", "1000").exit_code == 1
    strict = run("gate", file, "--max-drop", "50", "--json", "--junit", folder / "gate.xml")
    assert json.loads(strict.stdout)["gates"]
    assert ET.parse(folder / "gate.xml").getroot() is not None


def test_plan_writes_nothing(built, trained, monkeypatch, tmp_path):
    folder, _ = built
    monkeypatch.setenv("RFX_CACHE", str(folder / "cache"))
    monkeypatch.chdir(tmp_path)
    result = run("plan", *options(trained), "--flops", "0.5", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["search"]["budget_unit"] == "flops" and not list(tmp_path.iterdir())


def test_a_latency_target_closes_its_loop(trained, closed, warm, tmp_path):
    """The real runtime, a real table; what the clock says is for the benchmark, what is recorded is
    tested here."""
    evidence = closed.evidence
    assert len(evidence["table"]["additivity"]) == table.ADDITIVITY_PLANS
    assert not evidence["table"]["from_cache"]
    assert 1 <= len(evidence["search"]["rounds"]) <= loop.ROUNDS
    counts = {int(n) for n in evidence["table"]["costs_ms"]["mha"]}
    assert counts == set(range(5))
    assert evidence["latency"]["target"] == 0.8 and evidence["latency"]["clock"]
    profile = run(
        "profile",
        trained["model"],
        "--target",
        "ort",
        "--sequence",
        "16",
        "--out",
        tmp_path / "table.json",
        "--json",
    )
    assert profile.exit_code == 0, profile.output
    assert json.loads((tmp_path / "table.json").read_text())["key"] == evidence["table"]["key"]
    again = run(
        "plan", *options(trained), "--latency", "0.8", "--table", tmp_path / "table.json", "--json"
    )
    assert again.exit_code == 0 and json.loads(again.stdout)["predicted_ratio"] <= 0.8
    # A sequential plan's counts are its own, not those of the search it began with: so is what is
    # predicted of it.
    made = run(
        "prune-export",
        *options(trained),
        "--latency",
        "0.6",
        "--method",
        "kprune",
        "--table",
        tmp_path / "table.json",
        "--out",
        tmp_path / "kprune",
        "--json",
    )
    assert made.exit_code in (0, 1, 7), made.output
    evidence, read = json.loads(made.stdout), read_table(tmp_path / "table.json")
    sites = Plan.from_json(evidence["plan"]).sites
    counts, dense = {s.name: s.count for s in sites}, {s.name: s.units for s in sites}
    predicted = read.predict_ms(sites, counts) / read.predict_ms(sites, dense)
    assert evidence["latency"]["predicted_ratio"] == pytest.approx(predicted)
    hopeless = run("plan", *options(trained), "--latency", "0.001", "--json")
    assert hopeless.exit_code == 3 and "fastest reachable" in hopeless.stdout
