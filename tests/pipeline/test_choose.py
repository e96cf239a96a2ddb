"""`--precision auto`: made at each precision, and what stays nearest to the dense model kept."""

import json
import shutil

import pytest

from rfx.core.errors import InfeasibleError
from rfx.core.store import Store
from rfx.cost.table import LatencyTable, TableKey
from rfx.cost.table_file import write_table
from rfx.evidence.check import check
from rfx.evidence.gates import accuracy_gate, latency_gate
from rfx.evidence.report.rival import rival_texts
from rfx.pipeline.choose import at_precision, best, candidates
from rfx.pipeline.require import quantized_options
from rfx.recipe.read import make_recipe
from rfx.recipe.spec import Recipe
from rfx.runtimes.find import runtime_class
from tests.commands import STANDARD, given, run
from tests.evidences import make_accuracy, make_evidence, make_latency, make_quantization

RECIPE = Recipe(model="m", budget={"latency": 0.4})


def made(divergence, *, fails=False):
    accuracy, latency = make_accuracy(divergence=divergence), make_latency()
    limit = -50.0 if fails else 1.0
    gates = [accuracy_gate(accuracy, limit), latency_gate(latency, target=0.7, min_speedup=None)]
    return make_evidence(accuracy=accuracy, latency=latency, gates=gates)


def choose(tmp_path, found):
    """`best` among evidences by precision; None is a budget out of reach."""
    said = []

    def make(recipe, folder):
        precision = recipe.workload.precision
        evidence = found[precision]
        if evidence is None:
            raise InfeasibleError("No plan is that fast.", got=precision)
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_text(precision)
        return evidence

    store = Store(tmp_path / "cache")
    evidence, folder = best(RECIPE, tuple(found), store, make, said.append)
    kept = (folder / "model.onnx").read_text()
    shutil.rmtree(folder)
    assert list((store.root / "scratch").iterdir()) == []
    return evidence, kept, said


def test_of_those_that_pass_the_nearest_to_the_dense_model_is_kept(tmp_path):
    evidence, kept, _ = choose(tmp_path, {"fp32": made(0.03), "int8": made(0.01)})
    assert kept == "int8"
    assert [(c.precision, c.divergence) for c in evidence.considered] == [
        ("fp32", 0.03),
        ("int8", 0.01),
    ]
    said = rival_texts(evidence)[-1]
    assert "fp32 (gates: pass, 0.680 of the dense latency, divergence 0.03)" in said
    assert [g.outcome for g in check(evidence)]  # it can be judged again


def test_one_whose_gates_fail_is_kept_only_where_all_fail(tmp_path):
    nearer = made(0.001, fails=True)
    assert choose(tmp_path, {"fp32": made(0.03), "int8": nearer})[1] == "fp32"
    assert choose(tmp_path, {"fp32": made(0.03, fails=True), "int8": nearer})[1] == "int8"


def test_a_budget_that_only_one_reaches_and_one_that_none_does(tmp_path):
    evidence, kept, said = choose(tmp_path, {"fp32": None, "int8": made(0.01)})
    assert kept == "int8" and said == ["fp32 cannot reach the budget"]
    assert evidence.considered[0].outcome is None and evidence.considered[0].note
    assert "fp32 was not made (No plan is that fast." in rival_texts(evidence)[-1]
    with pytest.raises(InfeasibleError):
        choose(tmp_path, {"fp32": None, "int8": None})
    assert list((tmp_path / "cache" / "scratch").iterdir()) == []


def test_what_is_tried_is_what_the_target_runs():
    assert candidates(RECIPE, runtime_class("ort")()) == ("fp32", "int8")


@pytest.mark.parametrize("interval", [None, (0.97, 1.01), (1.1, 1.2)])
def test_one_that_was_not_measured_faster_than_itself_in_fp32_is_not_chosen(tmp_path, interval):
    ratio = None if interval is None else sum(interval) / 2
    part = make_quantization(ratio=ratio or 0.5, interval=interval)
    slow = made(0.001).model_copy(update={"quantization": part})
    assert choose(tmp_path, {"fp32": made(0.03), "int8": slow})[1] == "fp32"
    fast = slow.model_copy(update={"quantization": make_quantization()})
    assert choose(tmp_path, {"fp32": made(0.03), "int8": fast})[1] == "int8"
    assert choose(tmp_path, {"fp32": None, "int8": slow})[1] == "int8"


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        ("prune-export", ["--flops", "0.5"], "Precisions are compared at the same latency."),
        ("plan", ["--flops", "0.5"], "Only rfx prune-export chooses the precision."),
        ("sweep", ["--latency", "0.5"], "Only rfx prune-export chooses the precision."),
        ("profile", [], "Only rfx prune-export chooses the precision."),
    ],
)
def test_where_nothing_can_be_chosen_it_is_said(command, options, said, trained, cache, tmp_path):
    out = ["--out", tmp_path / "out"] if command not in ("plan", "profile") else []
    own = ["--target", "ort"]
    own += given(trained) if command != "profile" else [trained["model"]]
    result = run(command, *own, *options, *out, "--precision", "auto")
    assert result.exit_code == 2 and said in result.output, result.output
    assert not (tmp_path / "out").exists()


def test_a_table_is_refused_before_any_work(trained, tmp_path):
    key = TableKey(
        *("ort", "onnxruntime 1", "a CPU", "wall", 1, "int8", 1, 16, 32, 4, 8, 64, "post-ln/gelu")
    )
    curves = {"mha": {0: 0.1, 4: 0.2}, "ffn": {0: 0.1, 64: 0.2}}
    file = tmp_path / "table.json"
    write_table(LatencyTable(key, curves, 0.1, 2), file)
    asked = given(trained, **STANDARD, latency=0.6, table=file, out=tmp_path / "out")
    result = run("prune-export", *asked, "--precision", "auto")
    assert result.exit_code == 2 and "takes no latency table" in result.output, result.output
    assert "a table of int8 for ort" in result.output and "--precision int8" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_whole_run_keeps_one_output_and_says_what_was_tried(trained, cache, tmp_path):
    out = tmp_path / "out"
    asked = ["--precision", "auto", "--latency", "0.6", "--max-drop", "50", "--out", out, "--json"]
    result = run("prune-export", *given(trained, **STANDARD), *asked)
    assert result.exit_code in (0, 1, 7), result.output
    evidence = json.loads(result.stdout)
    assert {c["precision"] for c in evidence["considered"]} == {"fp32", "int8"}
    taken = evidence["recipe"]["workload"]["precision"]
    assert (out / "model.fp32.onnx").exists() == (taken == "int8")
    assert run("gate", out, "--files", out, "--max-drop", "50").exit_code in (0, 1, 7)
    assert list((cache / "scratch").iterdir()) == []


def test_what_is_asked_of_quantized_models_is_not_asked_of_the_others():
    asked = {
        "workload": {"precision": "auto"},
        "quantization": {"keep_fp32": ["layer.0.ffn"], "cpu_portable": True},
        "limits": {"max_quantization_loss": 0.01, "max_drop": 1},
    }
    plain = at_precision(make_recipe(asked), "fp32")
    quantized_options(plain)
    assert plain.quantization.keep_fp32 == () and plain.limits.max_drop == 1
    at = at_precision(make_recipe(asked), "int8")
    assert at.quantization.keep_fp32 == ("layer.0.ffn",) and at.quantization.cpu_portable
    assert at.limits.max_quantization_loss == 0.01
