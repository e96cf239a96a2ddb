"""The closed loop's arithmetic, with the clock replaced by a formula; real clocks are in
test_prune_export."""

from types import SimpleNamespace

import numpy as np
import pytest

import rfx.pipeline.loop as close
from rfx.core.errors import InfeasibleError
from rfx.core.progress import Silent
from rfx.core.store import Store
from rfx.cost.latency_cost import LatencyCost
from rfx.cost.table import LatencyTable, TableKey
from rfx.methods.build import build
from rfx.recipe.read import make_recipe
from tests.methods.search.problems import make_scores, make_sites

SITES = make_sites(4, 8, 256)


@pytest.fixture(autouse=True)
def as_many_rounds_as_users_get(monkeypatch):
    monkeypatch.setattr(close, "ROUNDS", 3)


def table():
    curves = {
        "mha": {n: 0.05 + 0.1 * n for n in range(9)},
        "ffn": {n: 0.05 + 0.005 * n for n in range(0, 257, 16)},
    }
    key = TableKey("ort", "v", "d", "c", 1, "fp32", 1, 128, 64, 8, 8, 256, "post-ln/gelu")
    return LatencyTable(key, curves, 0.5, 4)


def loop(monkeypatch, tmp_path, target, truth):
    """`truth` maps a predicted ratio to the one that the clock would show."""
    recipe = make_recipe({"budget": {"latency": target}})
    session = SimpleNamespace(
        store=Store(tmp_path), progress=Silent(), target=SimpleNamespace(absent=False)
    )
    subject = SimpleNamespace(sites=SITES)
    t = table()
    dense = t.predict_ms(SITES, {s.name: s.units for s in SITES})
    monkeypatch.setattr(
        close,
        "_measure",
        lambda *given: truth(t.predict_ms(SITES, given[5].counts) / dense),
    )
    result, rounds = close.close_loop(
        session,
        recipe,
        subject,
        make_scores(SITES),
        build(recipe.method, seed=0, labelled=True).searcher(LatencyCost(t)),
        t,
        None,
        ("logits",),
    )
    return SimpleNamespace(
        predicted_ratio=t.predict_ms(SITES, result.counts) / dense, rounds=rounds
    )


@pytest.mark.parametrize("target", [0.8, 0.7, 0.5, 0.3])
@pytest.mark.parametrize(
    "truth",
    [
        lambda r: r,
        lambda r: 0.08 + 0.92 * r,
        lambda r: r - 0.06 * r * (1 - r) - 0.03,
        lambda r: 1.12 * r,
        lambda r: 0.85 * r,
        lambda r: r**1.3,
    ],
    ids=["true", "flatter", "lower", "steeper", "faster", "bent"],
)
def test_the_finished_engine_lands_on_the_target(monkeypatch, tmp_path, target, truth):
    closed = loop(monkeypatch, tmp_path, target, truth)
    landed = truth(closed.predicted_ratio)
    near = close.scale(target)
    assert target - close.WINDOW * near <= landed <= target - close.NEAR * near
    assert 1 <= len(closed.rounds) <= close.ROUNDS and closed.rounds[
        -1
    ].measured_ratio == pytest.approx(landed)
    assert not list((tmp_path / "scratch").iterdir())


def test_the_best_from_below_is_taken_where_no_round_lands(monkeypatch, tmp_path):
    shown = iter([0.75, 0.60, 0.76])
    closed = loop(monkeypatch, tmp_path, 0.7, lambda r: next(shown))
    assert [r.measured_ratio for r in closed.rounds] == [0.75, 0.60, 0.76]
    dense = table().predict_ms(SITES, {s.name: s.units for s in SITES})
    assert closed.predicted_ratio * dense == pytest.approx(closed.rounds[1].predicted_ms)


def test_nothing_from_below_gives_the_nearest(monkeypatch, tmp_path):
    shown = iter([0.9, 0.8, 0.85])
    closed = loop(monkeypatch, tmp_path, 0.7, lambda r: next(shown))
    dense = table().predict_ms(SITES, {s.name: s.units for s in SITES})
    assert closed.predicted_ratio * dense == pytest.approx(closed.rounds[1].predicted_ms)


def test_a_target_beyond_reach_is_said_at_once(monkeypatch, tmp_path):
    with pytest.raises(InfeasibleError, match="fastest reachable"):
        loop(monkeypatch, tmp_path, 0.05, lambda r: r)


def test_a_correction_beyond_reach_ends_the_loop(monkeypatch, tmp_path):
    least = table()
    dense = least.predict_ms(SITES, {s.name: s.units for s in SITES})
    floor = least.predict_ms(SITES, {s.name: 0 for s in SITES}) / dense
    closed = loop(monkeypatch, tmp_path, floor + 0.05, lambda r: r + 0.3)
    assert "no plan is faster" in closed.rounds[-1].note and np.isfinite(closed.predicted_ratio)


def test_a_target_between_the_aim_and_the_fastest_point_is_reached(monkeypatch, tmp_path):
    dense = table().predict_ms(SITES, {s.name: s.units for s in SITES})
    floor = table().predict_ms(SITES, {s.name: 0 for s in SITES}) / dense
    closed = loop(monkeypatch, tmp_path, floor + close.AIM / 2, lambda r: r)
    assert (
        closed.predicted_ratio == pytest.approx(floor)
        or closed.predicted_ratio <= floor + close.AIM / 2
    )
    assert all(r.predicted_ms <= r.budget_ms * (1 + 1e-9) for r in closed.rounds)


def test_the_loop_ends_well_within_the_window_that_is_promised():
    assert (
        close.on_target(0.67, 0.7)
        and not close.on_target(0.662, 0.7)
        and not close.on_target(0.695, 0.7)
    )
    assert close.WINDOW < close.LANDING
    assert close.scale(0.8) == 1 and close.scale(0.2) == pytest.approx(0.4)
    assert close.aim_at(0.2) == pytest.approx(0.2 - 0.4 * close.AIM)  # a small target is met nearer
    assert close.on_target(0.19, 0.2) and not close.on_target(0.18, 0.2)
