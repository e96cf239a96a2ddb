"""A size as the budget, on a real trained model and by the command line: the file that is written
is no larger, and everything that reads it afterwards knows of it."""

import csv
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import rfx.pipeline.size as sizes
from rfx.core.errors import ExitCode, FixedPartError, InfeasibleError
from rfx.core.plan import Choice, Plan
from rfx.core.progress import Silent
from rfx.core.sizes import parse_size
from rfx.core.store import Store
from rfx.cost.size import SizeCost
from rfx.evidence.read import read_curve, read_evidence
from rfx.evidence.sound import contradictions
from rfx.export.size import SiteBytes
from rfx.methods.build import build
from rfx.recipe.read import make_recipe, read_recipe
from tests.commands import STANDARD, given, run
from tests.conftest import made_once
from tests.methods.search.problems import make_scores, make_sites

DONE = (0, 1, 7)  # a busy machine has a say in the latency


@pytest.fixture(scope="module")
def dense_bytes(closed):
    found = [f.stat().st_size for f in (closed.store / "dense").rglob("model.onnx")]
    assert len(found) == 2  # in fp32, and in int8 for the rival
    return {"int8": min(found), "fp32": max(found)}


@pytest.fixture(scope="module")
def built(trained, closed, dense_bytes, tmp_path_factory):
    """One run in fp32 to 0.7 of the dense file, shared."""

    def make(folder):
        shutil.copytree(closed.store, folder / "store")
        size = f"{int(0.7 * dense_bytes['fp32'])}B"
        options = given(trained, **STANDARD, size=size, out=folder / "out")
        done = run("prune-export", *options, "--json", RFX_CACHE=str(folder / "store"))
        assert done.exit_code in DONE, done.output

    return made_once(tmp_path_factory, "size-run", make)


@pytest.fixture
def stored(built, cache):
    shutil.copytree(built / "store", cache, dirs_exist_ok=True)
    return cache


def test_the_finished_file_has_the_size_that_was_asked_for(built, dense_bytes):
    evidence = read_evidence(built / "out")
    part, limit = evidence.size, int(0.7 * dense_bytes["fp32"])
    file = built / "out" / "model.onnx"
    assert part.files == {"model.onnx": file.stat().st_size} and part.bytes <= limit == part.limit
    assert part.dense_bytes == dense_bytes["fp32"] and part.predicted == pytest.approx(
        part.bytes, rel=0.01
    )
    assert 0.9 * limit < part.bytes  # a grid of 8 filters is what is left over at most
    gate = next(g for g in evidence.gates if g.name == "size")
    assert (gate.outcome, gate.value, gate.limit) == ("pass", part.bytes, limit)
    assert evidence.gates[-1] is gate and evidence.search.budget_unit == "bytes"
    assert 1 <= len(part.rounds) <= sizes.ROUNDS and part.rounds[-1].bytes <= limit
    assert evidence.table is None and evidence.latency.target is None
    assert list(contradictions(evidence)) == []
    assert evidence.flops_ratio < 1 and evidence.recipe["budget"]["size"] == f"{limit}B"


def test_it_is_judged_and_measured_again(built, stored, tmp_path):
    out = shutil.copytree(built / "out", tmp_path / "out")
    judged = run("gate", out, "--files", out, "--min-agreement", 0)
    assert judged.exit_code in DONE and "size" in judged.output, judged.output
    again = run("verify", out, "--out", tmp_path / "again", "--json")
    assert again.exit_code in DONE, again.output
    before, after = read_evidence(out), read_evidence(tmp_path / "again")
    assert after.size == before.size
    assert next(g for g in after.gates if g.name == "size").outcome == "pass"
    # A recorded size that is not the file's is found out.
    data = json.loads((out / "evidence.json").read_text())
    smaller = data["size"]["bytes"] - 10
    data["size"] |= {"bytes": smaller, "files": {"model.onnx": smaller}}
    data["gates"][-1]["value"] = smaller
    (out / "evidence.json").write_text(json.dumps(data))
    assert run("gate", out, "--min-agreement", 0).exit_code in DONE  # by itself it is sound
    refused = run("gate", out, "--files", out)
    assert refused.exit_code == ExitCode.USAGE and "the evidence says" in refused.output


def test_a_plan_says_what_its_file_will_have(trained, built, stored):
    limit = read_evidence(built / "out").size.limit
    options = given(trained, **STANDARD, size=f"{limit}B")
    said = json.loads(run("plan", *options, "--json").stdout)
    assert said["predicted_ratio"] is None and said["search"]["budget_unit"] == "bytes"
    real = read_evidence(built / "out").size.bytes
    assert said["predicted_bytes"] <= limit and said["predicted_bytes"] == pytest.approx(real, 0.01)
    assert "Its file will have about" in run("plan", *options).stdout


def test_in_int8_it_is_the_size_of_the_quantized_file(trained, stored, dense_bytes, tmp_path):
    limit = int(0.85 * dense_bytes["int8"])
    options = given(
        trained, **STANDARD, precision="int8", keep_fp32="layer.1.mha", size=f"{limit}B"
    )
    done = run("prune-export", *options, "--out", tmp_path / "out", "--json")
    assert done.exit_code in DONE, done.output
    evidence = read_evidence(tmp_path / "out")
    assert evidence.size.bytes == evidence.quantization.bytes <= limit
    assert evidence.size.bytes == (tmp_path / "out" / "model.onnx").stat().st_size
    assert evidence.size.dense_bytes == dense_bytes["fp32"]
    assert list(contradictions(evidence)) == []


def test_what_cannot_be_pruned_is_named_where_it_is_too_large(trained, stored, tmp_path):
    for command in ("prune-export", "plan"):
        options = given(trained, **STANDARD, size="20kB")
        more = () if command == "plan" else ("--out", tmp_path / "out")
        done = run(command, *options, *more)
        assert done.exit_code == ExitCode.UNSUPPORTED_MODEL, done.output
        for said in ("what cannot be pruned is larger", "embeddings", "graph", "--precision int8"):
            assert said in done.output, done.output
        assert "Traceback" not in done.output and not (tmp_path / "out").exists()
        assert ": score" not in done.output  # it is said before that work


def test_where_the_whole_model_is_small_enough_nothing_is_pruned(trained, stored, tmp_path):
    options = given(trained, **STANDARD, size="1GB", out=tmp_path / "out")
    done = run("prune-export", *options, "--json")
    assert done.exit_code in DONE, done.output
    evidence = read_evidence(tmp_path / "out")
    assert evidence.kept_layers == evidence.dense_layers
    assert [r.note for r in evidence.size.rounds] == [sizes.WHOLE]


def test_a_sweep_over_sizes(trained, stored, dense_bytes, tmp_path):
    whole = dense_bytes["fp32"]
    targets = [f"{int(share * whole)}B" for share in (0.5, 0.8)]
    options = given(trained, **STANDARD, max_drop=50, out=tmp_path / "sweep")
    done = run("sweep", *options, "--size", ",".join([*targets, "10kB"]))
    assert done.exit_code == 0, done.output
    curve = read_curve(tmp_path / "sweep")
    assert (curve.budget, curve.dense_bytes) == ("size", whole)
    reached = [p for p in curve.points if p.accuracy is not None]
    assert [p.target for p in reached] == sorted(map(float, map(parse_size, targets)))[::-1]
    assert all(0.9 * p.target < p.bytes <= p.target for p in reached)
    (missed,) = (p for p in curve.points if p.accuracy is None)
    assert "cannot be pruned" in missed.note and "size 10kB" in done.output
    rows = list(csv.DictReader((tmp_path / "sweep" / "sweep.csv").open()))
    assert [r["bytes"] for r in rows][:2] == [str(p.bytes) for p in reached]
    recipe = read_recipe(tmp_path / "sweep" / "recipe.yaml")
    assert recipe.budget.size_bytes in [p.target for p in reached]
    alone = run("sweep", *options, "--size", "10kB,20kB")
    assert alone.exit_code == ExitCode.UNSUPPORTED_MODEL and ": score" not in alone.output
    assert "--size 20kB" in alone.output


@pytest.mark.parametrize("wrong", ["0.5", "25", "MB", "-1MB", "25MB,x", "0MB"])
def test_targets_that_are_no_sizes_are_refused(trained, cache, tmp_path, wrong):
    options = given(trained, **STANDARD, out=tmp_path / "out")
    done = run("sweep", *options, "--size", wrong)
    assert done.exit_code == ExitCode.USAGE and "such as 25MB" in done.output, done.output
    if "," not in wrong:
        done = run("prune-export", *options, "--size", wrong)
        assert done.exit_code == ExitCode.USAGE and "such as 25MB" in done.output, done.output
    assert not (tmp_path / "out").exists()


# The loop's arithmetic, with the file replaced by a formula.

SITES = make_sites(4, 8, 256)


def cost():
    by_site = {s.name: SiteBytes(1000.0 if s.units == 8 else 40.0, 500.0) for s in SITES}
    return SizeCost(by_site, {"embeddings": 20_000.0, "graph": 1000.0})


def closed_loop(monkeypatch, tmp_path, limit, real):
    """`real` maps the size that is computed to that of the file."""
    made = cost()
    recipe = make_recipe({"budget": {"size": f"{limit}B"}})
    target = SimpleNamespace(absent=True)
    session = SimpleNamespace(store=Store(tmp_path), progress=Silent(), target=target)
    searches = []

    def written(recipe, subject, outputs, plan, update, folder, metadata, quantizing):
        file = folder / "model.onnx"
        size = real(made.predict(SITES, plan.choices("fp32")))
        file.write_bytes(b"\0" * int(size))
        searches.append(int(size))
        return None, SimpleNamespace(files=(file,), remove=file.unlink)

    monkeypatch.setattr(sizes, "export", written)
    result, rounds = sizes.close_on_size(
        session,
        recipe,
        SimpleNamespace(sites=SITES, vocabulary=None, as_served=None),
        make_scores(SITES),
        build(recipe.method, seed=0, labelled=True).searcher(made),
        ("logits",),
    )
    return made, result, rounds, searches


@pytest.mark.parametrize("limit", [30_000, 60_000, 90_000])
@pytest.mark.parametrize(
    "real",
    [
        lambda size: size,
        lambda size: size + 300,
        lambda size: size - 2500,
        lambda size: 1.02 * size,
        lambda size: 0.97 * size,
    ],
    ids=["true", "more", "less", "steeper", "flatter"],
)
def test_the_loop_ends_within_the_size_and_near_it(monkeypatch, tmp_path, limit, real):
    made, result, rounds, written = closed_loop(monkeypatch, tmp_path, limit, real)
    size = int(real(made.predict(SITES, result.choices)))
    assert size <= limit and size in written and [r.bytes for r in rounds] == written
    assert limit - size < 1500  # a head, with what a first unit brings
    assert rounds[-1].note in (sizes.FITS, sizes.ROOM, sizes.TOO_LARGE)


def test_the_loop_says_where_nothing_fits_and_where_all_does(monkeypatch, tmp_path):
    with pytest.raises(FixedPartError) as refused:
        closed_loop(monkeypatch, tmp_path, 20_999, lambda size: size)
    assert isinstance(refused.value, InfeasibleError) and "21.0 kB" in str(refused.value)
    assert refused.value.exit_code == ExitCode.UNSUPPORTED_MODEL
    made, result, rounds, _ = closed_loop(monkeypatch, tmp_path, 21_000, lambda size: size)
    assert set(result.counts.values()) == {0} and made.fixed == 21_000
    _, result, rounds, _ = closed_loop(monkeypatch, tmp_path, 10**6, lambda size: size)
    assert [r.note for r in rounds] == [sizes.WHOLE] and result.counts == Plan.dense(SITES).counts


def test_the_search_keeps_what_matters_under_the_size():
    made, scores = cost(), make_scores(SITES)
    recipe = make_recipe({})
    searcher = build(recipe.method, seed=0, labelled=True).searcher(made)
    found = searcher(SITES, scores, 60_000.0)
    assert found.cost <= 60_000 and found.optimality_gap < 0.02
    assert found.choices[SITES[0].name] == Choice(found.counts[SITES[0].name], "fp32")
    every = sum(float(np.sum(i)) for i in scores.importance.values())
    assert 0 < found.value < every


@pytest.mark.parametrize(
    ("count", "said"), [(12_865_718, "12.9MB"), (20_999, "21kB"), (10**6, "1MB")]
)
def test_a_size_that_is_offered_is_large_enough(count, said):
    assert sizes.size_up(count) == said and parse_size(said) >= count
