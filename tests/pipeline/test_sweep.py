"""rfx sweep: the curve is measured point by point, its files are whole, a point is recommended for
the reason it gives."""

import csv
import json
import shutil
from pathlib import Path

import onnx
import pytest

import rfx.pipeline.sweep as sweeps
from rfx.evidence.curve import Curve, Point, Row, recommend
from rfx.evidence.read import read_curve
from rfx.recipe.read import make_recipe, read_recipe
from tests import commands
from tests.commands import STANDARD, given
from tests.evidences import make_evidence

FILES = {"manifest.json", "sweep.json", "sweep.csv", "sweep.html", "sweep.svg", "recipe.yaml"}


@pytest.fixture(autouse=True)
def shared_store(closed, monkeypatch, tmp_path_factory):
    """One store for the tests of this file."""
    folder = tmp_path_factory.getbasetemp() / "sweep-cache"
    if not folder.exists():
        shutil.copytree(closed.store, folder)
    monkeypatch.setenv("RFX_CACHE", str(folder))


def run(trained, out, *more):
    arguments = given(trained, **STANDARD, out=out)
    return commands.run("sweep", *arguments, *more)


def test_a_sweep_over_flops_leaves_the_curve_whole(trained, tmp_path):
    out = tmp_path / "sweep"
    result = run(
        trained, out, "--flops", "0.3,0.6", "--seeds", "2", "--max-drop", "5", "--json", "--quiet"
    )
    assert result.exit_code == 0, result.output
    assert {p.name for p in out.iterdir()} == FILES
    curve = Curve.model_validate_json((out / "sweep.json").read_text())
    assert (
        json.loads(result.stdout)["points"]
        == json.loads((out / "sweep.json").read_text())["points"]
    )
    assert [(p.target, p.seed) for p in curve.points] == [(0.6, 0), (0.3, 0), (0.6, 1), (0.3, 1)]
    for p in curve.points:
        assert (
            p.flops_ratio <= p.target
            and p.latency.ratio < 1
            and p.accuracy.examples == curve.data.evaluation
        )
    assert [r.target for r in curve.rows] == [0.6, 0.3] and all(r.seeds == 2 for r in curve.rows)
    rows = list(csv.DictReader((out / "sweep.csv").open()))
    assert [float(r["latency_ratio"]) for r in rows] == pytest.approx(
        [p.latency.ratio for p in curve.points] + [curve.rival.latency.ratio], rel=1e-4
    )
    page = (out / "sweep.html").read_text()
    best, why = recommend(curve.rows, 5)
    assert (
        why in page and "<svg" in page and not any(s in page for s in ("<script", "<link", "src="))
    )
    recipe = read_recipe(out / "recipe.yaml")
    assert (
        recipe.budget.flops == best.target
        and recipe.limits.max_drop == 5
        and recipe.calibration.examples == 64
    )
    assert recipe.model == str(trained["model"]) and recipe.data.eval == str(trained["eval"])


def test_a_sweep_goes_on_where_it_stopped(trained, tmp_path, monkeypatch):
    first = run(trained, tmp_path / "a", "--flops", "0.5,0.4", "--json", "--quiet")
    assert first.exit_code == 0, first.output
    import rfx.pipeline.judge as check

    def none_is_measured_again(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(check, "latency", none_is_measured_again)
    again = run(trained, tmp_path / "a", "--flops", "0.5,0.4", "--json", "--quiet")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["points"] == json.loads(first.stdout)["points"]
    with pytest.raises(AssertionError, match="measured again"):
        # A limit is part of what a point says.
        other = run(
            trained, tmp_path / "a", "--flops", "0.5,0.4", "--max-drop", "3", "--json", "--quiet"
        )
        raise other.exception


def test_a_sweep_in_int8_goes_by_the_quantized_dense_model(trained, tmp_path, monkeypatch):
    """The latency table is that of quantized models, and what budgets are shares of is the dense
    model in fp32: the search gets both. A second sweep measures nothing again, and one in fp32
    takes no point of it."""
    given_to_search, real = [], sweeps.search_counts

    def seen(session, recipe, subject, examples, scores, dense, tables, quantized):
        given_to_search.append((dense.artefact.file, quantized and quantized.artefact.file))
        return real(session, recipe, subject, examples, scores, dense, tables, quantized)

    monkeypatch.setattr(sweeps, "search_counts", seen)
    args = ("--flops", "0.65,0.45", "--quiet", "--json")
    first = run(trained, tmp_path / "a", "--precision", "int8", *args)
    assert first.exit_code == 0, first.output
    curve = read_curve(tmp_path / "a")
    assert len(given_to_search) == 2
    for dense, quantized in given_to_search:
        assert products(dense) == 0 and products(quantized) > 0
    assert {p.latency.workload["precision"] for p in curve.points} == {"int8"}
    rival = curve.rival
    assert rival.precision == "int8" and rival.bytes == given_to_search[0][1].stat().st_size
    assert rival.drop == pytest.approx(100 * (curve.points[0].accuracy.dense - rival.metric))
    assert rival.divergence > 0 and rival.latency.interval[0] <= rival.latency.ratio
    assert "dense in int8" in (tmp_path / "a" / "sweep.html").read_text()

    again = run(trained, tmp_path / "b", "--precision", "int8", *args)
    assert again.exit_code == 0 and len(given_to_search) == 2, again.output
    before, after = json.loads(first.stdout), json.loads(again.stdout)
    assert (before["points"], before["rival"]) == (after["points"], after["rival"])

    plain = run(trained, tmp_path / "c", *args)
    assert plain.exit_code == 0, plain.output
    assert [quantized for _, quantized in given_to_search[2:]] == [None, None]
    other = read_curve(tmp_path / "c")
    assert {p.latency.workload["precision"] for p in other.points} == {"fp32"}
    # Of the same model and the same examples, evaluated alike: only the timing is another.
    assert other.rival.model_copy(update={"latency": None}) == rival.model_copy(
        update={"latency": None}
    )


def test_a_rival_that_cannot_be_measured_costs_no_sweep(trained, tmp_path, monkeypatch):
    import rfx.pipeline.rival as rivals

    def breaks(*_, **__):
        raise RuntimeError("the clock stood still")

    monkeypatch.setattr(rivals, "measure_pair", breaks)
    args = ("--flops", "0.5", "--seed", "7", "--json", "--quiet")
    result = run(trained, tmp_path / "a", *args)
    assert result.exit_code == 0, result.output
    curve = read_curve(tmp_path / "a")
    assert curve.rival is None and curve.points[0].accuracy is not None
    assert any("the clock stood still" in warning for warning in curve.warnings)
    # In int8 the sweep goes by it.
    with pytest.raises(RuntimeError, match="stood still"):
        run(trained, tmp_path / "b", "--precision", "int8", *args)
    assert not (tmp_path / "b").exists()


def products(file):
    """How many matrix products of a file are in integers."""
    return sum(n.op_type == "MatMulInteger" for n in onnx.load(file).graph.node)


def test_a_resumed_point_brings_its_table_and_searches_no_more(trained, tmp_path, monkeypatch):
    args = ("--latency", "0.8", "--json", "--quiet")
    first = run(trained, tmp_path / "a", *args)
    assert first.exit_code == 0, first.output

    def none_is_searched_again(*_):
        raise AssertionError("searched again")

    monkeypatch.setattr(sweeps, "search_counts", none_is_searched_again)
    again = run(trained, tmp_path / "b", *args)
    assert again.exit_code == 0, again.output
    before, after = json.loads(first.stdout), json.loads(again.stdout)
    assert (
        after["points"] == before["points"]
        and after["table"] == before["table"]
        and after["table"]["additivity_error"] is not None
    )


def test_what_is_out_of_reach_is_said_and_the_rest_goes_on(trained, tmp_path):
    table = tmp_path / "table.json"
    options = ("--target", "ort", "--sequence", 16)
    made = commands.run("profile", trained["model"], *options, "--out", table, "--quiet")
    assert made.exit_code == 0, made.output
    result = run(trained, tmp_path / "some", "--latency", "0.8,0.01", "--table", str(table))
    assert result.exit_code == 0, result.output
    curve = Curve.model_validate_json((tmp_path / "some" / "sweep.json").read_text())
    reached, missed = curve.points
    assert reached.accuracy and not missed.accuracy and "fastest reachable point" in missed.note
    assert "No --max-drop was given" in result.stdout and "fastest reachable" in result.stdout
    none = run(
        trained, tmp_path / "none", "--latency", "0.01", "--table", str(table), "--json", "--quiet"
    )
    assert none.exit_code == 3 and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "more, said",
    [
        (["--latency", "fast"], "not a number"),
        (["--latency", "0.5,1.2"], "1.2"),
        (["--flops", ""], "none"),
        (["--latency", "0.5", "--flops", "0.5"], "one of them"),
    ],
)
def test_targets_that_are_none_are_refused(trained, tmp_path, more, said):
    result = run(trained, tmp_path / "out", *more)
    assert result.exit_code == 2 and said in result.output and not (tmp_path / "out").exists()


def test_a_sweep_that_keeps_no_limit_fails_in_ci(trained, tmp_path):
    result = run(
        trained, tmp_path / "a", "--flops", "0.05", "--method", "random", "--max-drop", "0"
    )
    assert result.exit_code == 1 and "No point keeps the drop within 0 points" in result.output, (
        result.output
    )
    assert {p.name for p in (tmp_path / "a").iterdir()} == FILES - {"recipe.yaml"}
    quiet = run(
        trained, tmp_path / "a", "--flops", "0.05", "--method", "random", "--max-drop", "0", "-q"
    )
    assert (quiet.exit_code, quiet.stdout) == (1, "")
    assert quiet.stderr.startswith("sweep: No point keeps the drop within 0 points")


def test_a_sweep_of_ruined_points_fails_without_any_limit(trained, tmp_path):
    """As prune-export does: a model that no longer answers as the dense one is of no use."""
    asked = ("--flops", "0.05", "--method", "random")
    ruined = run(trained, tmp_path / "a", *asked)
    assert {row.alike for row in read_curve(tmp_path / "a").rows} == {"fail"}
    assert ruined.exit_code == 1, ruined.output
    why = "No point still answers as the dense model does"
    assert why in ruined.output and "larger shares" in ruined.output
    assert why in (tmp_path / "a" / "sweep.html").read_text(encoding="utf-8")
    allowed = run(trained, tmp_path / "b", *asked, "--min-agreement", "0")
    assert allowed.exit_code == 0, allowed.output


def test_a_strangers_folder_is_left_alone(trained, tmp_path):
    for name in (
        "mine.txt",
        "recipe.yaml",
    ):
        # The second has the name of a file of a sweep, and no sweep is there.
        folder = tmp_path / name.split(".")[0]
        folder.mkdir()
        (folder / name).write_text("mine")
        result = run(trained, folder, "--flops", "0.5")
        assert result.exit_code == 2 and "did not write" in result.output
        assert [(p.name, p.read_text()) for p in Path(folder).iterdir()] == [(name, "mine")]


def test_every_seed_draws_its_own_sample_from_the_recipes_on(trained):
    recipe = make_recipe({"seed": 3, "calibration": {"seed": 7, "examples": 64}})
    assert [
        (r.seed, r.calibration.seed) for r in (recipe, sweeps._reseeded(recipe, recipe, 1))
    ] == [
        (3, 7),
        (4, 8),
    ]
    assert sweeps._at(recipe, 0.5, "flops").calibration == recipe.calibration


def test_other_gold_labels_are_another_point(trained, tmp_path):
    first = run(trained, tmp_path / "a", "--flops", "0.5", "--json", "--quiet")
    assert first.exit_code == 0, first.output
    rows = [json.loads(line) for line in Path(trained["eval"]).read_text().splitlines()]
    rows[0]["label"] = 1 - rows[0]["label"]
    other = tmp_path / "eval.jsonl"
    other.write_text("".join(json.dumps(r) + "\n" for r in rows))
    again = run({**trained, "eval": other}, tmp_path / "b", "--flops", "0.5", "--json", "--quiet")
    assert again.exit_code == 0, again.output
    before, after = (json.loads(r.stdout)["points"][0]["accuracy"] for r in (first, again))
    assert before["dense"] != after["dense"]


def row(target, drop, bound, cost=None):
    return Row(
        target=target,
        seeds=1,
        cost=cost or target,
        drop=drop,
        lowest=drop,
        highest=drop,
        bound=bound,
    )


def test_the_recommended_point_is_the_cheapest_that_is_sure_and_else_the_cheapest_that_is_likely():
    rows = [row(0.8, 0.0, 0.4), row(0.7, 0.2, 0.9), row(0.6, 0.8, 1.6), row(0.5, 2.0, 3.0)]
    assert recommend(rows, 1.0)[0].target == 0.7
    best, why = recommend(rows[2:], 1.0)
    assert best.target == 0.6 and "1.60" in why
    assert recommend(rows[3:], 1.0)[0] is None and recommend(rows, None)[0] is None
    assert recommend([row(0.5, float("nan"), 0.1)], 1.0)[0] is None
    both, once = (
        row(target, 0.0, 0.4).model_copy(update={"seeds": n, "asked": 2})
        for target, n in ((0.8, 2), (0.7, 1))
    )
    # The cheaper one was out of reach for a seed.
    assert recommend([both, once], 1.0)[0].target == 0.8
    assert recommend([once], 1.0)[0] is None


def test_dominated_targets_are_marked():
    evidence = make_evidence()

    def point(target, ratio, drop):
        latency = evidence.latency.model_copy(update={"ratio": ratio})
        accuracy = evidence.accuracy.model_copy(update={"drop": drop})
        return Point(target=target, seed=0, latency=latency, accuracy=accuracy)

    curve = Curve(
        tool="t",
        created="c",
        recipe={},
        model={},
        environment={},
        data=evidence.data,
        budget="latency",
        points=[point(0.8, 0.79, 1.0), point(0.7, 0.69, 0.5), point(0.6, 0.59, 0.9)],
    )
    assert {r.target: r.dominated for r in curve.rows} == {0.8: True, 0.7: False, 0.6: False}
