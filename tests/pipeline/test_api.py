"""Everything is one call in Python, and the examples of the docstrings run."""

import doctest
import inspect
import json
import shutil
from pathlib import Path

import pytest

import rfx

STEPS = (
    "load_model load_examples find_sites score search compensate shrink export_onnx load "
    "write_table read_table"
)
JOBS = "prune_export plan sweep profile shapes build verify gate environment"
LENGTH = 32


@pytest.fixture(scope="module")
def place(trained, closed, tmp_path_factory):
    """A folder with `model/`, train.jsonl and dev.jsonl, as the examples name them."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "model").symlink_to(trained["model"])
    (folder / "train.jsonl").symlink_to(trained["train"])
    (folder / "dev.jsonl").symlink_to(trained["eval"])
    shutil.copytree(closed.store, folder / "cache")
    return folder


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("RFX_CACHE", str(place / "cache"))
    return place


def recipe(**budget):
    return rfx.Recipe(
        model="model",
        target="ort",
        max_length=LENGTH,
        data={"train": "train.jsonl", "eval": "dev.jsonl"},
        budget=budget or {"flops": 0.5},
        workload={"sequence": 16},
        calibration={"examples": 64},
    )


def test_every_job_is_one_call(here):
    evidence = rfx.prune_export(recipe(), "build")
    assert evidence.recipe["task"] == "text-classification"  # read off the checkpoint
    assert evidence.recipe["origin"]["task"] == "the model's architecture"
    assert rfx.plan(recipe()).plan.hash == evidence.plan["hash"]
    assert rfx.gate("build", max_drop=100.0).gates[2].outcome == "pass"
    assert {g.name: g.outcome for g in rfx.verify("build").gates}["same"] == "pass"
    curve = rfx.sweep(recipe(), [0.6], "sweep", by="flops")
    assert [p.target for p in curve.points] == [0.6]
    table = rfx.profile(recipe())
    assert set(table.curve("mha")) == set(range(5))
    assert rfx.shapes(recipe(), "shapes.json") == len(
        json.loads((here / "shapes.json").read_text())["graphs"]
    )
    known = rfx.environment()
    assert {r["name"] for r in known["runtimes"]} >= {"ort", "trt", "openvino"}


def test_the_steps_one_by_one_give_the_plan_of_the_job(here):
    subject = rfx.load_model("model")
    examples = rfx.load_examples(
        subject, train="train.jsonl", eval="dev.jsonl", count=64, max_length=LENGTH
    )
    assert subject.sites == tuple(rfx.find_sites(subject.model))
    for method in ("rfx", "kwon"):
        scores = rfx.score(subject, examples, method=method)
        found = rfx.search(subject, examples, scores, flops=0.5, method=method)
        plan, update, model = rfx.compensate(
            subject, examples, scores, found, method={"name": method, "guard": False}
        )
        assert plan.counts == found.counts and (update.weights or update.scales)
        assert model is subject.model
        small = rfx.shrink(model, subject.sites, plan, update)
        assert sum(p.numel() for p in small.parameters()) < sum(
            p.numel() for p in subject.model.parameters()
        )
        if method == "rfx":
            assert plan.hash == rfx.plan(recipe()).plan.hash
    file = rfx.export_onnx(
        small, here / "small.onnx", inputs=subject.inputs, output_names=("logits",)
    )
    assert file.stat().st_size > 1000


def test_a_search_goes_by_any_cost(here, names):
    class Parameters(rfx.Cost):
        """Weights of a unit: rows and columns of its matrices."""

        unit = "parameters"
        fixed = 0.0

        def curve(self, site):
            each = (4 if site.kind == "mha" else 2) * site.width * 64
            return {rfx.Choice(n): float(n * each) for n in range(site.units + 1)}

        def predict(self, sites, choices):
            return sum(self.of(s, choices[s.name]) for s in sites)

    subject, examples, scores = (names[n] for n in ("subject", "examples", "scores"))
    cost = Parameters()
    found = rfx.search(subject, examples, scores, share=0.5, cost=cost)
    assert cost.share(subject.sites, found.choices) <= 0.5
    assert found.budget == 0.5 * cost.dense(subject.sites)
    plan, _, _ = rfx.compensate(subject, examples, scores, found, cost=cost)
    assert plan.counts == found.counts


@pytest.mark.parametrize(
    "more",
    [{}, {"flops": 0.5, "latency": 0.5}, {"latency": 0.5}, {"share": 0.5}],
    ids=["none", "both", "no table", "no cost"],
)
def test_a_search_without_one_budget_says_what_it_needs(more):
    with pytest.raises(rfx.UserError, match="one budget"):
        rfx.search(None, None, None, **more)


def test_a_sweeps_points_and_seeds_are_recipes_of_their_own(here):
    first = recipe()
    changed = first.changed({"workload.sequence": 8}, origin="a test")
    assert first.workload.sequence == 16 and changed.workload.sequence == 8
    assert changed.origin["workload.sequence"] == "a test"
    with pytest.raises(Exception, match="frozen"):
        first.seed = 3


def examples_of(name):
    """The lines of a docstring's example, without what they print."""
    text = inspect.getdoc(getattr(rfx, name)) or ""
    return [e.source for e in doctest.DocTestParser().get_examples(text)]


@pytest.fixture(scope="module")
def names(place):
    """What the examples take for known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        subject = rfx.load_model("model")
        examples = rfx.load_examples(
            subject, train="train.jsonl", eval="dev.jsonl", count=64, max_length=LENGTH
        )
        scores = rfx.score(subject, examples)
        found = rfx.search(subject, examples, scores, flops=0.5)
    return {
        "rfx": rfx,
        "Path": Path,
        "recipe": recipe(),
        "subject": subject,
        "examples": examples,
        "scores": scores,
        "found": found,
        "plan": rfx.Plan.dense(subject.sites),
    }


@pytest.mark.parametrize("name", f"{JOBS} {STEPS}".split())
def test_the_example_of_a_docstring_runs(name, here, names, monkeypatch):
    lines = examples_of(name)
    assert lines, f"rfx.{name} has no example in its docstring"
    if name == "build":
        pytest.importorskip("tensorrt_rtx")
    small = {"target": "ort", "max_length": LENGTH, "workload": {"sequence": 16}}
    small["calibration"] = {"examples": 64}
    quick = {"budget": {"flops": 0.5}}  # needs no latency table
    made = rfx.Recipe
    monkeypatch.setattr(rfx, "Recipe", lambda **given: made(**{**small, **given, **quick}))
    if name in ("verify", "gate", "build", "load") and not (here / "build").is_dir():
        rfx.prune_export(recipe(), "build")
    known = dict(names)
    for line in lines:
        exec(line, known)  # what they print differs by machine


@pytest.mark.parametrize("given", [None, "recipe.yaml", {"model": "m"}])
def test_a_job_without_a_recipe_says_what_it_takes(given, tmp_path):
    jobs = (
        lambda: rfx.plan(given),
        lambda: rfx.prune_export(given, tmp_path / "out"),
        lambda: rfx.sweep(given, [0.5], tmp_path / "out"),
        lambda: rfx.profile(given),
        lambda: rfx.shapes(given, tmp_path / "out.json"),
    )
    for job in jobs:
        with pytest.raises(rfx.UserError, match="takes a recipe") as error:
            job()
        assert "rfx.Recipe" in error.value.next_step and not list(tmp_path.iterdir())


def test_an_option_that_an_engine_does_not_have_is_named(tmp_path):
    import onnx

    from benchmarks.blocks import BlockShape, stack

    onnx.save(stack(BlockShape(32, 4, 8, 64), [(4, 64)]), tmp_path / "m.onnx")
    with pytest.raises(rfx.UserError, match="no such option of an engine") as error:
        rfx.build(tmp_path / "m.onnx", nonsense=1)
    assert error.value.got == "nonsense" and "builder_level" in error.value.allowed


def test_a_model_that_is_not_there_and_a_folder_without_one_are_told_apart(tmp_path):
    with pytest.raises(rfx.UserError, match="no folder of this name here") as error:
        rfx.load_model("nowhere")
    assert "check the path" in error.value.next_step
    assert "text-classification" in error.value.allowed
    with pytest.raises(rfx.UserError, match=r"config\.json") as error:
        rfx.load_model(tmp_path)
    assert error.value.next_step and "no folder" not in error.value.what
