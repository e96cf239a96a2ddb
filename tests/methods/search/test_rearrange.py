"""Rearrangement: counts stay, the damage never rises, and small cases reach what brute force
reaches."""

import itertools

import numpy as np
import pytest

from rfx.core.errors import UsageError
from rfx.core.registry import find
from rfx.methods.scores.base import Scores
from rfx.methods.search.rearrange import best_swaps, damage, one_pass, rearrange


def site(rows, count):
    """Scores of one site and its `count` most important units."""
    rows = np.asarray(rows, dtype=np.float32)
    importance = (rows.astype(np.float64) ** 2).sum(axis=0)
    return Scores({"s": importance}, {"s": rows}), {
        "s": tuple(np.argsort(-importance, kind="stable")[:count])
    }


def correlated(rng, samples=20, units=12):
    return (
        rng.normal(size=(samples, units))
        + rng.normal(size=(samples, 2)) @ rng.normal(size=(2, units)) * 2
    )


@pytest.mark.parametrize("swaps", [best_swaps, one_pass])
def test_damage_never_rises_and_counts_stay(swaps):
    rng = np.random.default_rng(0)
    fell = 0
    for _ in range(60):
        units = int(rng.integers(2, 30))
        rows = correlated(rng, int(rng.integers(1, 40)), units)
        scores, kept = site(rows, int(rng.integers(0, units + 1)))
        result = rearrange(kept, scores, swaps=swaps)
        removed = sorted(set(range(units)) - set(result.kept["s"]))
        assert len(result.kept["s"]) == len(kept["s"]) == len(set(result.kept["s"]))
        assert result.after["s"] <= result.before["s"]
        assert result.after["s"] == pytest.approx(
            damage(scores.gradients["s"], removed), rel=1e-6, abs=1e-6
        )
        fell += result.after["s"] < result.before["s"]
    assert fell > 20


def test_best_ends_where_no_swap_helps():
    rng = np.random.default_rng(1)
    for _ in range(20):
        scores, kept = site(correlated(rng), 6)
        result = rearrange(kept, scores)
        rows, inside = scores.gradients["s"], set(result.kept["s"])
        outside = set(range(12)) - inside
        for i, j in itertools.product(outside, inside):
            assert damage(rows, sorted(outside - {i} | {j})) >= result.after["s"] * (1 - 1e-5)


def test_equals_brute_force_where_one_unit_goes():
    """With one removed unit a single swap reaches every set, so the optimum is certain."""
    rng = np.random.default_rng(2)
    for _ in range(20):
        rows = correlated(rng)
        scores, _ = site(rows, 11)
        kept = {"s": tuple(range(1, 12))}
        best = min(damage(scores.gradients["s"], [u]) for u in range(12))
        for swaps in (best_swaps, one_pass):
            assert rearrange(kept, scores, swaps=swaps).after["s"] == pytest.approx(best)


def test_units_whose_gradients_cancel_go_together():
    """Their joint damage is 0, which the diagonal does not see; one swap away, it is found."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(16, 6))
    rows[:, 4] = -rows[:, 3]
    rows[:, 0] *= 5
    scores, _ = site(rows, 4)
    best = min(damage(rows, list(pair)) for pair in itertools.combinations(range(6), 2))
    result = rearrange({"s": (1, 2, 4, 5)}, scores)  # 0 and 3 are gone
    assert best == pytest.approx(0, abs=1e-9)
    assert result.kept["s"] == (0, 1, 2, 5)
    assert result.after["s"] == pytest.approx(0, abs=1e-9)


def test_reference_follows_the_papers_pass_step_by_step():
    rng = np.random.default_rng(4)
    for _ in range(10):
        scores, kept = site(correlated(rng), 7)
        rows = scores.gradients["s"].astype(np.float64)
        order = np.argsort((rows**2).sum(axis=0), kind="stable")
        members = list(order[:5])
        for u in order[5:]:
            trial = [*members, u]
            total = rows[:, members].sum(axis=1) + rows[:, u]
            losses = [np.linalg.norm(total - rows[:, i]) for i in trial]
            trial.pop(int(np.argmin(losses)))
            members = trial
        assert set(rearrange(kept, scores, swaps=one_pass).kept["s"]) == set(range(12)) - set(
            members
        )


def test_sites_without_rows_or_without_choice_are_left_alone():
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(4, 5)).astype(np.float32)
    scores = Scores({k: np.ones(5) for k in "abc"}, {"a": rows, "b": rows})
    kept = {"a": (), "b": tuple(range(5)), "c": (3, 1)}
    result = rearrange(kept, scores)
    assert result.kept == {"a": (), "b": (0, 1, 2, 3, 4), "c": (1, 3)}
    assert "c" not in result.after and result.after["b"] == 0.0
    with pytest.raises(UsageError):
        find("refiner", "annealing")


@pytest.mark.parametrize("swaps", [best_swaps, one_pass])
def test_units_that_are_gone_do_not_come_back(swaps):
    """Their gradients are zero, so that keeping one costs nothing, and would be worth a swap."""
    rng = np.random.default_rng(3)
    returned = 0
    for _ in range(30):
        rows = correlated(rng)
        rows[:, [2, 7]] = 0
        alive = [u for u in range(12) if u not in (2, 7)]
        scores, _ = site(rows, 6)
        kept = {"s": tuple(alive[:5])}
        result = rearrange(kept, scores, swaps=swaps, among={"s": alive})
        assert set(result.kept["s"]) <= set(alive) and len(result.kept["s"]) == 5
        removed = sorted(set(range(12)) - set(result.kept["s"]))
        assert result.after["s"] == pytest.approx(damage(scores.gradients["s"], removed), rel=1e-6)
        returned += bool({2, 7} & set(rearrange(kept, scores, swaps=swaps).kept["s"]))
    assert returned  # without the pool they do
