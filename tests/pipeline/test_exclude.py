"""Sites that rfx keeps in fp32 of itself: when, which, how it is recorded, and that it can be
repeated."""

import json
import re
import shutil
from types import SimpleNamespace

import onnx
import pytest

import rfx
from rfx.core.errors import UnsupportedModelError, UsageError
from rfx.core.plan import Plan
from rfx.evidence.read import read_evidence
from rfx.evidence.sound import contradictions
from rfx.export.precision.convert import convert_precision
from rfx.export.quantizers.onnxruntime import integer_weights
from rfx.export.quantizers.products import module_of
from rfx.models.families.find import find_sites
from rfx.pipeline import exclude, judge, loop
from rfx.pipeline.require import quantized_options, something_quantized
from rfx.recipe.read import make_recipe
from tests.commands import STANDARD, given, run
from tests.evidences import make_accuracy, make_quantization

QUANTIZED = STANDARD | {"sequence": 32, "batch": 8, "precision": "int8", "flops": 0.7}


@pytest.fixture
def store(closed, cache):
    """A store of the test's own that has the baselines already."""
    shutil.copytree(closed.store, cache, dirs_exist_ok=True)
    return cache


def finished(trained, out, *flags, codes=(0, 1, 7), **more):
    done = run("prune-export", *given(trained, **QUANTIZED | more, out=out), *flags, "--json")
    assert done.exit_code in codes, done.output
    # Every stage is counted, also those that an exclusion adds.
    told = [(int(n), int(of)) for n, of in re.findall(r"Stage (\d+) of (\d+)", done.stderr)]
    assert told and all(n <= of for n, of in told) and told[-1][0] == told[-1][1], told
    return json.loads(done.stdout)


def in_integers(folder) -> set[str]:
    return {module_of(name) for name in integer_weights(onnx.load(folder / "model.onnx"))}


def test_the_site_that_costs_most_is_kept_until_the_limit_holds(trained, store, tmp_path):
    first = finished(trained, tmp_path / "first", "--quantization-by-site")
    part = first["quantization"]
    rows = {row["site"]: row["divergence"] for row in part["by_site"]["sites"]}
    sites = [s.name for s in Plan.from_json(first["plan"]).sites if s.count]
    assert list(rows) == part["sites"] == sites and part["excluded"] == []
    assert all(value >= 0 for value in rows.values()) and part["by_site"]["examples"] >= 32
    page = (tmp_path / "first" / "report.html").read_text(encoding="utf-8")
    assert "What quantizing costs by site" in page

    limit = part["quantization"] / 2
    out = tmp_path / "second"
    second = finished(trained, out, max_quantization_loss=limit)
    own = second["quantization"]
    taken = [x["site"] for x in own["excluded"]]
    assert 1 <= len(taken) <= exclude.MOST and own["quantization"] <= limit == own["max_loss"]
    assert own["sites"] == [name for name in sites if name not in taken]
    assert {tuple(x["why"]) for x in own["excluded"]} == {("quantization",)}
    assert own["kept_fp32"] == [] and own["products"] < part["products"]
    assert second["recipe"]["quantization"]["keep_fp32"] == []  # nobody asked for it
    # Under a budget of FLOPs the plan does not depend on the precision.
    assert second["plan"] == first["plan"]
    outcomes = {g["name"]: g["outcome"] for g in second["gates"]}
    assert outcomes["quantized"] in ("pass", "inconclusive") or own["interval"][0] > 1
    assert list(contradictions(read_evidence(out))) == []
    (said,) = [w for w in second["warnings"] if "kept in fp32" in w]
    assert taken[0] in said and "loss by quantizing" in said
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "kept these sites in fp32 of itself" in card and taken[0] in card
    # What is announced is what is in the file, and `verify` repeats it.
    found = {
        s.name: {*s.inputs, s.output} for s in find_sites(rfx.load_model(trained["model"]).model)
    }
    for site in sites:
        assert (found[site] <= in_integers(out)) == (site not in taken), site
    again = run("verify", out, "--json")
    assert again.exit_code in (0, 1, 7), again.output
    repeated = json.loads(again.stdout)["quantization"]
    for name in ("sites", "excluded", "products", "mismatches", "max_loss", "fp32_metric"):
        assert repeated[name] == own[name], name


def test_a_limit_that_nothing_keeps_ends_with_the_best_and_a_gate_that_fails(
    trained, store, tmp_path
):
    out = tmp_path / "out"
    made = finished(trained, out, codes=(1,), max_quantization_loss=0)
    part = made["quantization"]
    gate = next(g for g in made["gates"] if g["name"] == "quantized")
    assert gate["outcome"] == "fail" and "the limit is 0" in gate["detail"]
    assert part["sites"] and list(contradictions(read_evidence(out))) == []
    plain, served = (onnx.load(out / n) for n in ("model.fp32.onnx", "model.onnx"))
    assert part["products"] == len(integer_weights(served)) > 0
    whole = convert_precision(plain, "int8")
    assert len(integer_weights(whole)) >= part["products"]


def attempt_of(pruned: float, **part):
    accuracy = make_accuracy(drop=pruned, half=0.3)
    found = SimpleNamespace(part=make_quantization(**part), between={})
    recipe = make_recipe({"limits": {"max_drop": 1.0}})
    return SimpleNamespace(recipe=recipe, accuracy=accuracy, quantized=found, excluded=())


@pytest.mark.parametrize(
    ("quantized", "plain", "why"),
    [
        (3.0, 0.5, ["accuracy"]),  # fails in integers alone
        (3.0, 3.0, []),  # fails in fp32 too: quantizing is not to blame
        (0.5, 0.5, []),
        (1.1, 0.5, []),  # cannot be told: it does not fail
    ],
)
def test_only_a_gate_that_quantizing_fails_is_a_reason(monkeypatch, quantized, plain, why):
    monkeypatch.setattr(judge, "compared", lambda *_: make_accuracy(drop=plain, half=0.3))
    job = SimpleNamespace(examples=None, before=None)
    assert exclude.reasons(job, attempt_of(quantized)) == why
    over = attempt_of(quantized, max_loss=0.001)
    assert exclude.reasons(job, over) == ["quantization", *why]
    none = SimpleNamespace(quantized=None)
    assert exclude.reasons(job, none) == []


def test_of_attempts_that_fail_the_one_of_the_fewest_losses_counts():
    both = attempt_of(3.0, max_loss=0.001)
    one = attempt_of(3.0)
    assert exclude._loss(one) < exclude._loss(both)
    nearer = attempt_of(3.0)
    nearer.accuracy = make_accuracy(drop=3.0, half=0.3, divergence=0.01)
    one.accuracy = make_accuracy(drop=3.0, half=0.3, divergence=0.02)
    assert exclude._loss(nearer) < exclude._loss(one)


OPTIONS = {
    "--keep-fp32": {"quantization": {"keep_fp32": ["layer.0.ffn"]}},
    "--max-quantization-loss": {"limits": {"max_quantization_loss": 0.1}},
    "--quantization-by-site": {"quantization": {"by_site": True}},
    "--cpu-portable": {"quantization": {"cpu_portable": True}},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options_of_quantized_models_are_refused_in_fp32(option):
    with pytest.raises(UsageError, match="[Qq]uantiz") as refused:
        quantized_options(make_recipe(OPTIONS[option]))
    assert option in refused.value.got and option in refused.value.next_step
    quantized_options(make_recipe({**OPTIONS[option], "workload": {"precision": "int8"}}))


def test_something_has_to_be_left_to_quantize(trained, store, tmp_path):
    with pytest.raises(UnsupportedModelError, match="No site is left") as refused:
        something_quantized(["a", "b"], ["b", "a"], "sites")
    assert refused.value.exit_code == 5 and "--keep-fp32" in refused.value.next_step
    something_quantized(["a", "b"], ["a"], "sites")
    sites = [f"layer.{n}.{kind}" for n in range(2) for kind in ("mha", "ffn")]
    flags = [part for name in sites for part in ("--keep-fp32", name)]
    done = run("prune-export", *given(trained, **QUANTIZED, out=tmp_path / "out"), *flags)
    assert done.exit_code == 5 and "No site is left to quantize" in done.output, done.output
    assert not (tmp_path / "out").exists()


def test_weights_of_seven_bits_are_made_and_said(trained, store, tmp_path):
    made = finished(trained, tmp_path / "out", "--cpu-portable")
    assert "7 bits" in made["quantization"]["method"] and "7 bits" in made["rival"]["method"]
    assert made["quantization"]["mismatches"] == []
    model = onnx.load(tmp_path / "out" / "model.onnx")
    integers = [
        onnx.numpy_helper.to_array(i)
        for i in model.graph.initializer
        if i.name.endswith("_quantized")
    ]
    assert integers and all(abs(int(a.min())) <= 64 and int(a.max()) <= 64 for a in integers)


def test_a_site_that_there_is_not_is_named(trained, store, tmp_path):
    arguments = given(trained, **QUANTIZED, keep_fp32="layer.7.ffn", out=tmp_path / "out")
    done = run("prune-export", *arguments)
    assert done.exit_code == 2 and "layer.7.ffn" in done.output and "layer.1.ffn" in done.output
    assert not (tmp_path / "out").exists()


def test_activations_that_are_not_finite_are_refused(trained, store, tmp_path):
    """The weights are finite, what they make of the examples is not."""
    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    shutil.copytree(trained["model"], model)
    weights = load_file(model / "model.safetensors")
    name = next(n for n in weights if n.endswith("layer.1.intermediate.dense.weight"))
    weights[name] = weights[name] * 1e38
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    arguments = given(trained | {"model": model}, **QUANTIZED, out=tmp_path / "out")
    done = run("prune-export", *arguments)
    assert done.exit_code == 5, done.output
    assert "not finite" in done.output and "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["it fails", "its result does not pass the checker"])
def test_a_quantizer_that_fails_leaves_no_file(trained, store, tmp_path, monkeypatch, how):
    import onnxruntime.quantization as library

    real = library.quantize_dynamic

    def fails(model, file, **options):
        if how == "it fails":
            raise RuntimeError("no shape was inferred")
        real(model, file, **options)
        made = onnx.load(file)
        made.graph.node[0].input[0] = "nothing that there is"
        onnx.save(made, file)

    monkeypatch.setattr(library, "quantize_dynamic", fails)
    monkeypatch.setenv("RFX_CACHE", str(tmp_path / "empty"))
    done = run("prune-export", *given(trained, **QUANTIZED, out=tmp_path / "out"))
    assert done.exit_code == 6 and "Traceback" not in done.output, done.output
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_an_interrupt_while_sites_are_chosen_leaves_nothing(trained, store, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(exclude, "measure_pair", interrupted)
    arguments = given(trained, **QUANTIZED, max_quantization_loss=0, out=tmp_path / "out")
    done = run("prune-export", *arguments)
    assert done.exit_code == 130 and not (tmp_path / "out").exists(), done.output
    assert not list(tmp_path.glob(".out*"))
    assert not any((store / "scratch").glob("*")) if (store / "scratch").exists() else True


def test_the_loop_finds_the_budget_again_where_a_site_leaves_the_integers(
    trained, store, tmp_path, monkeypatch, short_measurements
):
    """Latencies of mixed models do not add up, so that what the first loop found no longer holds:
    it is closed again on models with the site in fp32. No limit of 0 is kept; one site is tried."""
    loops = []

    def planned(job, recipe):
        kept, before = recipe.quantization.keep_fp32, len(files)
        found = real(job, recipe)
        loops.append((kept, files[before:], found.found.search.rounds))
        return found

    def measured(session, recipe, *rest):
        ratio = timed(session, recipe, *rest)
        files.append((recipe.quantization.keep_fp32, ratio))
        return ratio

    real, timed, files = exclude.planned, loop._measure, []
    monkeypatch.setattr(exclude, "planned", planned)
    monkeypatch.setattr(loop, "_measure", measured)
    monkeypatch.setattr(exclude, "MOST", 1)
    options = QUANTIZED | {"latency": 0.85, "max_quantization_loss": 0, "max_drop": 50}
    del options["flops"]
    done = run("prune-export", *given(trained, **options, out=tmp_path / "out"), "--json")
    assert done.exit_code == 1, done.output
    (second,) = loops
    kept, timed_files, rounds = second
    assert len(kept) == 1 and f"{kept[0]} is kept in fp32: quantization fails" in done.output
    assert rounds and [r.measured_ratio for r in rounds] == [ratio for _, ratio in timed_files]
    assert {sites for sites, _ in timed_files} == {kept}  # of models with it in fp32
    evidence = read_evidence(tmp_path / "out")
    excluded = [x.site for x in evidence.quantization.excluded]
    assert excluded in ([], list(kept)) and list(contradictions(evidence)) == []
    if excluded:
        assert evidence.search.rounds == rounds
