"""A whole prune-export in INT8 on a real trained model, by the command line, and everything that
reads what it leaves behind."""

import json
import shutil
import sys
import xml.etree.ElementTree as ET

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import rfx
from rfx.core import manifest
from rfx.core.plan import Plan
from rfx.cost.table_file import read_table
from rfx.evidence.read import read_evidence
from rfx.evidence.report.rival import rival_texts
from rfx.evidence.report.write import files as reports
from rfx.evidence.sound import contradictions
from rfx.export.onnx import site_shapes
from rfx.export.quantizers.onnxruntime import PRODUCT, OnnxRuntimeDynamic
from rfx.models.families.find import find_sites
from rfx.pipeline import loop, rival
from tests.commands import STANDARD, given, run
from tests.conftest import made_once

# Eight sequences at once: products of a size at which integers pay even in a tiny model.
QUANTIZED = STANDARD | {"sequence": 32, "batch": 8, "precision": "int8"}
TIMED = ("latency",)  # gates on which a noisy machine has a say


@pytest.fixture(scope="module")
def built(trained, tmp_path_factory, short_measurements):
    """One run with a latency budget, shared: its output, and a store with its baselines, scores and
    table."""

    def make(folder):
        arguments = given(trained, **QUANTIZED, latency=0.6, max_drop=20, out=folder / "out")
        done = run("prune-export", *arguments, "--json", RFX_CACHE=str(folder / "store"))
        assert done.exit_code in (0, 1, 7), done.output + str(done.exception)

    return made_once(tmp_path_factory, "int8-run", make)


@pytest.fixture
def stored(built, cache):
    """A store of the test's own that has all of that already."""
    shutil.copytree(built / "store", cache, dirs_exist_ok=True)
    return cache


@pytest.fixture
def out(built, tmp_path):
    """A copy of the output that a test may damage."""
    shutil.copytree(built / "out", tmp_path / "out")
    return tmp_path / "out"


def evidence_of(folder) -> dict:
    return json.loads((folder / "evidence.json").read_text(encoding="utf-8"))


def outcomes(evidence: dict) -> dict[str, str]:
    return {g["name"]: g["outcome"] for g in evidence["gates"]}


def stages(evidence: dict) -> list[str]:
    return [s["name"] for s in evidence["stages"]]


def test_all_gates_are_there_and_pass(built):
    evidence = evidence_of(built / "out")
    found = outcomes(evidence)
    assert list(found) == ["shrunk", "same", "quantized", "accuracy", "agreement", "latency"]
    assert {o for name, o in found.items() if name not in TIMED} == {"pass"}, evidence["gates"]
    gate = next(g for g in evidence["gates"] if g["name"] == "quantized")
    assert 0 < gate["value"] < 1 and gate["limit"] == 1 and "half a step" in gate["detail"]
    assert list(contradictions(read_evidence(built / "out"))) == []


def test_evidence_says_how_it_was_quantized_and_what_that_costs(built):
    evidence, folder = evidence_of(built / "out"), built / "out"
    part = evidence["quantization"]
    plain, made = (onnx.load(folder / n) for n in ("model.fp32.onnx", "model.onnx"))
    assert OnnxRuntimeDynamic().compare(plain, made) == (part["products"], [])
    assert part["products"] == sum(n.op_type == PRODUCT for n in made.graph.node) > 5
    assert part["bytes"] == (folder / "model.onnx").stat().st_size
    assert part["fp32_bytes"] == (folder / "model.fp32.onnx").stat().st_size > part["bytes"]
    assert part["mismatches"] == [] and "dynamic" in part["method"]
    assert part["pruning"] >= 0 and part["quantization"] > 0
    assert part["interval"][0] < part["ratio"] < part["interval"][1]
    # It is evaluated at the batch that it is served with, and compared with the model in fp32.
    assert evidence["accuracy"]["batch"] == 8 and evidence["accuracy"]["dense"] > 0.9
    facts = {p.key: p.value for p in made.metadata_props}
    assert facts["rfx.precision"] == "int8"
    assert {p.key: p.value for p in plain.metadata_props}["rfx.precision"] == "fp32"


def test_the_rival_is_the_dense_model_quantized_alone(built):
    evidence = evidence_of(built / "out")
    part, latency = evidence["rival"], evidence["latency"]
    assert part["precision"] == "int8" and part["method"] == evidence["quantization"]["method"]
    assert part["drop"] == pytest.approx(100 * (evidence["accuracy"]["dense"] - part["metric"]))
    assert part["agreement"] > 0.9 and 0 < part["divergence"] < 0.01
    own = part["latency"]
    assert own["ratio"] == pytest.approx(own["ms"] / latency["dense_ms"])
    assert own["pruned_ratio"] == pytest.approx(latency["pruned_ms"] / own["ms"])
    low, high = own["pruned_interval"]
    assert low <= own["pruned_ratio"] <= high
    assert "dense model at int8" in stages(evidence)
    assert "accuracy of the dense model at int8" in stages(evidence)


def test_the_loop_is_of_quantized_models_and_the_table_of_those_in_fp32(
    trained, built, stored, tmp_path
):
    """On a CPU, where latency is near linear in the counts, that table is as good."""
    evidence = evidence_of(built / "out")
    assert evidence["table"]["key"]["precision"] == "fp32"
    rounds = evidence["search"]["rounds"]
    assert 1 <= len(rounds) <= loop.ROUNDS
    assert evidence["latency"]["workload"]["precision"] == "int8"
    # What was predicted is a share of the dense model in fp32, as the budget is: all the plans of a
    # table have one factor between that and their share of the dense model in int8.
    table = profiled(trained, QUANTIZED | {"precision": "fp32"}, tmp_path / "fp32.json")
    sites = Plan.from_json(evidence["plan"]).sites
    whole = table.predict_ms(sites, {s.name: s.units for s in sites})
    own = table.predict_ms(sites, {s.name: s.count for s in sites})
    assert rounds[-1]["predicted_ms"] >= own * (1 - 1e-9)
    assert evidence["latency"]["predicted_ratio"] < own / whole


def test_the_plan_is_proved_on_the_file_in_fp32(built, trained):
    folder, plan = built / "out", Plan.from_json(evidence_of(built / "out")["plan"])
    sites = find_sites(rfx.load_model(trained["model"]).model)
    for name, modules in site_shapes(folder / "model.fp32.onnx", sites).items():
        assert set(modules.values()) == {plan[name].count * plan[name].width}
    ids = np.array([[2, 5, 6, 7, 3]])
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    logits = []
    for name in ("model.onnx", "model.fp32.onnx"):
        session = ort.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
        own = {i.name: feeds.get(i.name, np.zeros_like(ids)) for i in session.get_inputs()}
        logits.append(session.run(["logits"], own)[0])
    assert 0 < np.abs(logits[0] - logits[1]).max() < 0.1 * np.abs(logits[1]).max()


def test_every_file_is_listed_and_the_quantized_one_is_served(built):
    evidence, folder = evidence_of(built / "out"), built / "out"
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    own = {*reports(), manifest.FILE}
    assert set(evidence["files"]) == there - own
    _, sealed = manifest.read(folder)
    assert {"model.onnx", "model.fp32.onnx"} <= set(sealed)
    assert {"model.onnx", "model.fp32.onnx"} <= set(evidence["files"])
    served = [n for n in evidence["files"] if n.startswith("triton/") and n.endswith(".onnx")]
    assert [evidence["files"][n] for n in served] == [evidence["files"]["model.onnx"]]


def test_every_report_has_the_rival_and_the_quantization(built):
    folder = built / "out"
    texts = rival_texts(read_evidence(folder))
    assert len(texts) == 3 and "The dense model in int8, not pruned" in texts[0]
    for name in ("README.md", "report.html"):
        written = (folder / name).read_text(encoding="utf-8")
        assert "The dense model in int8, not pruned" in written, name
        assert f"{read_evidence(folder).quantization.products} quantized products" in written
    said = ET.parse(folder / "junit.xml").getroot().findtext("testsuite/system-out")
    assert "as fast as the dense model in int8 alone" in said
    cases = [c.get("name") for c in ET.parse(folder / "junit.xml").iter("testcase")]
    assert "quantized" in cases


def test_verify_repeats_it_and_gate_judges_it_again(built, stored, tmp_path):
    again = tmp_path / "again"
    done = run("verify", built / "out", "--out", again, "--json")
    assert done.exit_code in (0, 1, 7), done.output
    first, second = evidence_of(built / "out"), evidence_of(again)
    assert json.loads(done.stdout)["rival"] == second["rival"]
    found = outcomes(second)
    assert list(found) == list(outcomes(first))
    assert {o for name, o in found.items() if name not in TIMED} == {"pass"}, second["gates"]
    for name in ("products", "method", "bytes", "fp32_bytes", "mismatches"):
        assert second["quantization"][name] == first["quantization"][name]
    for name in ("metric", "drop", "agreement", "bytes", "precision"):  # evaluated again
        assert second["rival"][name] == pytest.approx(first["rival"][name], abs=1e-9)
    assert {"model.onnx", "model.fp32.onnx"} <= set(second["files"])
    assert second["accuracy"]["predictions_hash"] == first["accuracy"]["predictions_hash"]
    judged = run("gate", again, "--min-speedup", 1.01, "--json")
    assert judged.exit_code in (0, 1, 7), judged.output
    gates = {g["name"]: g for g in json.loads(judged.stdout)["gates"]}
    assert gates["quantized"]["outcome"] == "pass"


def test_verify_says_that_the_fp32_file_is_gone(out, stored):
    (out / "model.fp32.onnx").unlink()
    done = run("verify", out)
    assert done.exit_code == 2, done.output
    assert "model.fp32.onnx" in done.output and "gone" in done.output


def test_a_weight_in_integers_that_was_edited_is_found(out, stored):
    model = onnx.load(out / "model.onnx")
    name = next(n.input[1] for n in model.graph.node if n.op_type == PRODUCT)
    weight = next(i for i in model.graph.initializer if i.name == name)
    whole = numpy_helper.to_array(weight).copy()
    whole.flat[0] += -3 if whole.flat[0] > 0 else 3
    weight.CopyFrom(numpy_helper.from_array(whole, name))
    onnx.save(model, out / "model.onnx")
    done = run("verify", out, "--json")
    assert done.exit_code == 6, done.output
    gates = {g["name"]: g for g in json.loads(done.stdout)["gates"]}
    assert gates["quantized"]["outcome"] == "fail"
    assert "lies more than half a step" in gates["quantized"]["detail"]


def test_a_file_that_was_never_quantized_is_found(out, stored):
    shutil.copy(out / "model.fp32.onnx", out / "model.onnx")
    done = run("verify", out, "--json")
    assert done.exit_code == 6, done.output
    gates = {g["name"]: g for g in json.loads(done.stdout)["gates"]}
    assert gates["quantized"]["outcome"] == "fail"
    assert "not in integers" in gates["quantized"]["detail"]


def test_a_latency_that_the_whole_model_reaches_keeps_everything(trained, stored, tmp_path):
    arguments = given(trained, **QUANTIZED, latency=0.99, out=tmp_path / "out")
    done = run("prune-export", *arguments, "--json")
    assert done.exit_code in (0, 1, 7), done.output
    evidence = json.loads(done.stdout)
    (only,) = evidence["search"]["rounds"]
    assert only["note"] == loop.WHOLE and only["measured_ratio"] < 0.99
    assert evidence["kept_layers"] == evidence["dense_layers"]
    assert outcomes(evidence)["quantized"] == "pass"
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "nothing is pruned" in page
    cached = {s["name"]: s["cached"] for s in evidence["stages"]}
    assert cached["latency table"] and cached["dense baseline"] and cached["dense model at int8"]
    # As fast as the rival, which it is: the two files are equal but for what was noted in them.
    own = evidence["rival"]["latency"]
    low, high = own["pruned_interval"]
    assert low <= own["pruned_ratio"] <= high
    assert evidence["rival"]["bytes"] == pytest.approx(evidence["quantization"]["bytes"], rel=0.01)


def test_a_sweep_times_the_dense_model_in_int8_against_fp32_once(
    trained, stored, tmp_path, monkeypatch
):
    timed, real = [], loop.anchored_at

    def seen(*given):
        timed.append(given)
        return real(*given)

    monkeypatch.setattr(loop, "anchored_at", seen)
    done = run(
        *("sweep", *given(trained, **QUANTIZED, out=tmp_path / "out"), "--latency", "0.7,0.6"),
        "--json",
    )
    assert done.exit_code == 0, done.output
    points = json.loads(done.stdout)["points"]
    assert [p["accuracy"] is not None for p in points] == [True, True] and len(timed) == 1


def profiled(trained, options: dict, file):
    """The latency table of these options, written to a file."""
    named = {k: v for k, v in options.items() if k in ("target", "sequence", "batch", "precision")}
    flags = [part for k, v in named.items() for part in ("--" + k.replace("_", "-"), v)]
    done = run("profile", trained["model"], *flags, "--out", file, "--json")
    assert done.exit_code == 0, done.output
    return read_table(file)


def test_plan_and_profile_take_the_precision_and_its_table(trained, stored, built, tmp_path):
    file = tmp_path / "int8.json"
    table = profiled(trained, QUANTIZED, file)
    assert table.key.precision == "int8"
    own = evidence_of(built / "out")["table"]["key"]
    assert json.loads(file.read_text())["key"] != own == {**own, "precision": "fp32"}

    def planned(latency):
        asked = given(trained, **QUANTIZED, latency=latency, table=file)
        done = run("plan", *asked, "--json")
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        sites = Plan.from_json(found["plan"]).sites
        return found["predicted_ratio"], all(s.count == s.units for s in sites)

    # Shares of the dense model in fp32: in int8 it is within 0.99 of it as it is.
    (ratio, whole), (dense, all_kept) = planned(0.6), planned(0.99)
    assert ratio <= 0.6 and ratio < dense < 0.99 and all_kept and not whole
    # And one of the fp32 model's is refused, before any work.
    asked = QUANTIZED | {"precision": "fp32", "latency": 0.6, "table": file}
    refused_for_its_precision(trained, asked, tmp_path)


@pytest.mark.parametrize(("free", "paid"), [("mha", "ffn"), ("ffn", "mha")])
def test_what_is_free_in_the_table_of_int8_is_kept_whole(trained, stored, tmp_path, free, paid):
    """What the search goes by is the table of quantized models: where heads cost nothing in it, all
    of them stay, whatever they cost in fp32; and filters likewise."""
    file = tmp_path / "int8.json"
    profiled(trained, QUANTIZED, file)
    document = json.loads(file.read_text())
    costs = document["costs_ms"]
    span = {kind: max(curve.values()) - min(curve.values()) for kind, curve in costs.items()}
    # The others cost as much more, so that the dense model costs what it did.
    least, factor = min(costs[paid].values()), (span["mha"] + span["ffn"]) / span[paid]
    # A table in which a whole sublayer takes no time at all is refused.
    costs[free] = dict.fromkeys(costs[free], max(min(costs[free].values()), 1e-6))
    costs[paid] = {n: least + factor * (ms - least) for n, ms in costs[paid].items()}
    file.write_text(json.dumps(document))
    done = run("plan", *given(trained, **QUANTIZED, latency=0.6, table=file), "--json")
    assert done.exit_code == 0, done.output
    sites = Plan.from_json(json.loads(done.stdout)["plan"]).sites
    whole = {kind: [s.count == s.units for s in sites if s.kind == kind] for kind in (free, paid)}
    assert all(whole[free]) and whole[free] and not all(whole[paid])


def refused_for_its_precision(trained, asked: dict, folder) -> None:
    done = run("prune-export", *given(trained, **asked, out=folder / "out"))
    assert done.exit_code == 2, done.output
    assert "fp32" in done.output and "int8" in done.output and "Stage 2" not in done.output
    assert not (folder / "out").exists()


def test_a_table_of_fp32_serves_the_search_of_int8_models(trained, warm, tmp_path):
    """On a CPU, where rfx would take such a table by itself; but not one of another CPU, since the
    file is written for this one."""
    file = tmp_path / "fp32.json"
    table = profiled(trained, STANDARD, file)
    assert table.key.precision == "fp32"
    asked = STANDARD | {"precision": "int8", "latency": 0.9, "table": file}
    done = run("prune-export", *given(trained, **asked, out=tmp_path / "out"), "--json")
    assert done.exit_code in (0, 1, 7), done.output
    said = json.loads(done.stdout)
    assert said["table"]["key"]["precision"] == "fp32" and said["table"]["hash"] == table.hash
    assert said["quantization"]["products"] > 0
    data = json.loads(file.read_text())
    data["key"]["device"] = "Another CPU (avx2)"
    file.write_text(json.dumps(data))
    refused = run("prune-export", *given(trained, **asked, out=tmp_path / "other"))
    assert refused.exit_code == 2 and "CPU" in refused.output and "Stage 2" not in refused.output
    assert not (tmp_path / "other").exists()


def test_a_run_in_fp32_is_shown_beside_the_dense_model_in_int8(closed):
    evidence = closed.evidence
    part = evidence["rival"]
    assert part["precision"] == "int8" and evidence["quantization"] is None
    assert part["latency"]["pruned_ratio"] > 0 and "quantized" not in outcomes(evidence)
    assert evidence["accuracy"]["batch"] == 32 and not (closed.out / "model.fp32.onnx").exists()
    for name in ("README.md", "report.html", "junit.xml"):
        assert "dense model in int8" in (closed.out / name).read_text(encoding="utf-8")


FAILURES = {
    "of rfx": rfx.UserError("It cannot be.", got="a reason"),
    "of another library": RuntimeError("a reason\nand more"),
}


@pytest.mark.parametrize(
    ("step", "kind"), [("dense_at", "of another library"), ("dense_outputs", "of rfx")]
)
def test_a_rival_that_fails_never_fails_the_run(trained, warm, tmp_path, monkeypatch, step, kind):
    def fails(*_, **__):
        raise FAILURES[kind]

    monkeypatch.setattr(rival, step, fails)
    arguments = given(trained, **STANDARD, flops=0.5, out=tmp_path / "out")
    done = run("prune-export", *arguments, "--json")
    assert done.exit_code in (0, 1, 7), done.output
    evidence = json.loads(done.stdout)
    assert evidence["rival"] is None
    (said,) = [w for w in evidence["warnings"] if "dense model could not be" in w]
    assert "a reason" in said and "is not compared with it" in said and "\n" not in said


def test_an_interrupt_of_the_rival_ends_the_run(trained, warm, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise RuntimeError("stopped") from KeyboardInterrupt()

    monkeypatch.setattr(rival, "dense_at", interrupted)
    done = run("prune-export", *given(trained, **STANDARD, flops=0.5, out=tmp_path / "out"))
    assert done.exit_code == 130 and not (tmp_path / "out").exists()


def test_a_runtime_that_cannot_run_it_says_which_can(trained, cache, tmp_path):
    asked = STANDARD | {"target": "ort", "precision": "bf16", "flops": 0.5}
    done = run("prune-export", *given(trained, **asked, out=tmp_path / "out"))
    assert done.exit_code == 2, done.output
    assert "--target openvino" in done.output and "fp32, int8" in done.output
    assert not (tmp_path / "out").exists()


def test_a_missing_quantizer_is_named_before_any_work(trained, cache, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    asked = QUANTIZED | {"flops": 0.5}
    done = run("prune-export", *given(trained, **asked, out=tmp_path / "out"))
    assert done.exit_code == 4, done.output
    assert "rfx-exporter[cpu]" in done.output and not (tmp_path / "out").exists()


def test_a_model_that_is_quantized_already_is_refused(trained, cache, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(trained["model"], model)
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (model / "config.json").write_text(json.dumps(config))
    asked = given(trained | {"model": model}, **QUANTIZED, flops=0.5, out=tmp_path / "out")
    done = run("prune-export", *asked)
    assert done.exit_code == 5 and "quantized already" in done.output
    assert not (tmp_path / "out").exists()
