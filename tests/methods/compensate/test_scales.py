"""Mask tuning: Gram statistics equal the explicit problem, the walk equals a direct solution,
held-out never rises."""

import numpy as np
import pytest
import torch

import rfx.methods.compensate.scales as scales
import rfx.models.calls as calls
from rfx.core.errors import UsageError
from rfx.core.plan import Kind
from rfx.methods.compensate.gram import Gram, ScaleSystem
from rfx.methods.compensate.scales import tune
from rfx.methods.compensate.solve import Solution, damped_least_squares, reference_lsmr
from rfx.models.families.find import find_sites
from rfx.models.masks import MaskTap
from tests.families import make
from tests.methods.scores.labelled import batches, examples


@pytest.fixture(scope="module")
def problem():
    """Z [T, n], W [d, n], E [T, d] with units of width 3."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(5000, 12, generator=g) @ torch.randn(12, 12, generator=g) + 0.5
    weight = torch.randn(8, 12, generator=g)
    error = (z.view(-1, 4, 3) * torch.tensor([0.5, -0.2, 0.0, 1.0])[:, None]).flatten(1) @ weight.T
    return z, weight, error + 0.3 * torch.randn(5000, 8, generator=g)


def gram_of(z, error, step=700):
    gram = Gram(z.shape[1], error.shape[1])
    for i in range(0, len(z), step):
        gram.add(z[i : i + step], error[i : i + step])
    return gram


def test_sums_equal_the_explicit_products(problem):
    z, _weight, error = problem
    gram = gram_of(z, error)
    zd, ed = z.double(), error.double()
    centred = zd - zd.mean(0)
    for found, wanted in (
        (gram.zz, zd.T @ zd),
        (gram.ze, zd.T @ ed),
        (gram.z_sum, zd.sum(0)),
        (gram.e_sum, ed.sum(0)),
        (gram.centred, centred.T @ centred),
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-2)
    assert gram.ee == pytest.approx(float((ed**2).sum()), rel=1e-6) and gram.rows == len(z)


def explicit(z, weight, error, width=3):
    """A [T * d, K]: column u is unit u's own output; and vec(E)."""
    units = z.shape[1] // width
    columns = [
        (z[:, u * width : (u + 1) * width] @ weight[:, u * width : (u + 1) * width].T).flatten()
        for u in range(units)
    ]
    return torch.stack(columns, 1).double().numpy(), error.flatten().double().numpy()


def test_the_system_is_that_of_the_units_outputs(problem):
    z, weight, error = problem
    system = ScaleSystem(gram_of(z, error), weight, 3)
    A, e = explicit(z, weight, error)
    np.testing.assert_allclose(system.normal.numpy(), A.T @ A, rtol=1e-4, atol=1e-1)
    np.testing.assert_allclose(system.right.numpy(), A.T @ e, rtol=1e-4, atol=1e-1)
    r = torch.tensor([0.1, -0.4, 0.2, 0.3], dtype=torch.float64)
    assert system.error() == pytest.approx((e**2).mean(), rel=1e-5)
    assert system.error(r) == pytest.approx(((A @ r.numpy() - e) ** 2).mean(), rel=1e-5)


def test_the_solution_is_that_of_damped_least_squares(problem):
    z, weight, error = problem
    A, e = explicit(z, weight, error)
    solved = damped_least_squares(ScaleSystem(gram_of(z, error), weight, 3)).r.numpy()
    direct = np.linalg.lstsq(
        np.concatenate([A, np.eye(4)]), np.concatenate([e, np.zeros(4)]), rcond=None
    )[0]
    np.testing.assert_allclose(solved, direct, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(solved, [0.5, -0.2, 0.0, 1.0], atol=0.02)


def test_scales_out_of_range_are_not_believed(problem):
    z, weight, error = problem
    system = ScaleSystem(gram_of(z, 40 * error), weight, 3)
    solution = damped_least_squares(system)
    assert solution.r is None and "[-10, 10]" in solution.reason
    assert reference_lsmr(system, ones_column=True).r is None


def test_units_that_do_nothing_do_not_break_the_solver(problem):
    z, weight, error = problem
    z = z.clone()
    z[:, :3] = 0
    z[:, 3:6] = z[:, 6:9]
    weight = weight.clone()
    weight[:, 3:6] = weight[:, 6:9]
    r = damped_least_squares(ScaleSystem(gram_of(z, error), weight, 3)).r
    assert r is not None and float(r[0]) == pytest.approx(0, abs=1e-6)
    assert float(r[1]) == pytest.approx(float(r[2]), abs=1e-4)  # of two equals each takes its half


def half_masks(sites, seed=0):
    rng = np.random.default_rng(seed)
    return {s.name: (rng.random(s.units) < 0.6).astype(float) for s in sites}


def seen(model, site, data, masks, sites):
    """Features [B, T, channels] before the mask, stream [B, T, d] and real tokens of every batch,
    by plain hooks."""
    out = []
    for inputs, _ in data:
        caught = {}
        handles = [
            model.get_submodule(site.output).register_forward_pre_hook(
                lambda _, a, caught=caught: caught.__setitem__("z", a[0].clone())
            ),
        ]
        if site.norm.startswith(site.layer_path + "."):
            handles.append(
                model.get_submodule(site.norm).register_forward_pre_hook(
                    lambda _, a, caught=caught: caught.__setitem__("s", a[0].clone())
                )
            )
        else:
            handles.append(
                model.get_submodule(site.layer_path).register_forward_hook(
                    lambda _m, _a, o, caught=caught: caught.__setitem__(
                        "s", (o[0] if isinstance(o, tuple) else o).clone()
                    )
                )
            )
        with (
            torch.no_grad(),
            MaskTap(model, sites, {k: torch.as_tensor(v) for k, v in masks.items()}),
        ):
            model(**inputs)
        for h in handles:
            h.remove()
        out.append((caught["z"], caught["s"], inputs["attention_mask"].bool()))
    return out


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "ernie", "esm"])
def test_the_walk_equals_a_direct_solution_of_every_site(family):
    """Teacher dense, student with its earlier sites tuned and this one binary: solved with explicit
    rows."""
    model = make(family).double()
    sites = find_sites(model)
    data = batches(examples(30, seed=3), 7)
    masks = half_masks(sites)
    masks[sites[2].name][:] = 0
    result = tune(model, sites, masks, data, head_positions="first")
    current = {k: v.copy() for k, v in masks.items()}
    checked = 0
    for number, site in enumerate(sites):
        record = result.sites[number]
        assert record.site == site.name
        kept = np.flatnonzero(masks[site.name])
        if len(kept):
            teacher = seen(model, site, data, {s.name: np.ones(s.units) for s in sites}, sites)
            student = seen(model, site, data, current, sites)
            rows, first = {"fit": ([], []), "held": ([], [])}, 0
            for (_, target, real), (z, stream, _) in zip(teacher, student):
                # The tap multiplies after this hook may have seen the features: undo nothing,
                # masked ones are cut off below.
                positions = real.clone()
                if site.kind is Kind.FFN and site is sites[-1]:
                    positions[:] = False
                    positions[:, 0] = True
                for b in range(len(z)):
                    part = "held" if (first + b) % 5 == 4 else "fit"
                    rows[part][0].append(z[b][positions[b]])
                    rows[part][1].append((target - stream)[b][positions[b]])
                first += len(z)
            weight = model.get_submodule(site.output).weight.detach()

            def units(part, rows=rows, site=site, kept=kept, weight=weight):
                z = torch.cat(rows[part][0])
                own = z.view(len(z), site.units, site.width)[:, kept]
                w = weight.view(-1, site.units, site.width)[:, kept]
                A = torch.einsum("tuc,duc->tdu", own, w).flatten(0, 1).numpy()
                return A, torch.cat(rows[part][1]).flatten().numpy()

            A, e = units("fit")
            r = np.linalg.lstsq(
                np.concatenate([A, np.eye(len(kept))]),
                np.concatenate([e, np.zeros(len(kept))]),
                rcond=None,
            )[0]
            Ah, eh = units("held")
            before, after = (eh**2).mean(), ((Ah @ r - eh) ** 2).mean()
            assert record.held_out_before == pytest.approx(before, rel=1e-6)
            if np.abs(1 + r).max() <= 10:
                assert record.held_out_after == pytest.approx(after, rel=1e-6)
                assert record.accepted == (after < before)
            if record.accepted:
                np.testing.assert_allclose(
                    result.scales[site.name][kept], 1 + r, rtol=1e-6, atol=1e-8
                )
                checked += 1
        current[site.name] = result.scales[site.name]
    assert checked >= 2
    assert (result.scales[sites[2].name] == 0).all() and not result.sites[2].accepted


@pytest.mark.parametrize("mode", ["kwon", "kwon-reference"])
def test_scales_fit_the_mask_and_the_model_is_left_alone(mode):
    model = make("bert").train()
    sites = find_sites(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    masks = half_masks(sites)
    teacher = {s.name: np.maximum(masks[s.name], np.arange(s.units) % 4 > 0) for s in sites}
    result = tune(
        model,
        sites,
        masks,
        batches(examples(40), 8),
        mode=mode,
        teacher_masks=teacher if mode != "kwon" else None,
    )
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    for site, record in zip(sites, result.sites):
        scales = result.scales[site.name]
        assert (
            scales.dtype == np.float64
            and ((scales != 0) <= (masks[site.name] != 0)).all()
            and np.abs(scales).max() <= 10
        )
        if not record.accepted:
            np.testing.assert_array_equal(scales, masks[site.name])
            assert record.reason
        elif mode == "kwon":
            assert record.held_out_after < record.held_out_before


def test_full_masks_stay_as_they_are():
    model = make("bert")
    sites = find_sites(model)
    result = tune(model, sites, {s.name: np.ones(s.units) for s in sites}, batches(examples(20), 5))
    for s in sites:
        np.testing.assert_allclose(result.scales[s.name], 1.0, atol=1e-4)


def test_padding_and_batches_do_not_matter():
    model = make("roberta").double()
    sites = find_sites(model)
    masks, rows = half_masks(sites), examples(20)
    one = tune(model, sites, masks, batches(rows, 20, pad_to=25))
    many = tune(model, sites, masks, batches(rows, 3))
    for s in sites:
        np.testing.assert_allclose(one.scales[s.name], many.scales[s.name], rtol=1e-6, atol=1e-8)


def test_half_precision_hidden_states_give_nearly_the_same(monkeypatch):
    model = make("bert")
    sites = find_sites(model)
    masks, data = half_masks(sites), batches(examples(60), 10)
    full = tune(model, sites, masks, data)
    monkeypatch.setattr(calls, "_FULL_PRECISION_BYTES", 0)
    half = tune(model, sites, masks, data)
    assert [r.accepted for r in full.sites] == [r.accepted for r in half.sites]
    for s in sites:
        np.testing.assert_allclose(half.scales[s.name], full.scales[s.name], atol=0.02)


def test_tuning_brings_the_outputs_nearer_to_the_dense_model():
    model = make("bert")
    sites = find_sites(model)
    masks = half_masks(sites, 1)
    data = batches(examples(200), 20)
    result = tune(model, sites, masks, data, head_positions="first")

    def hidden(some):
        states = []
        with (
            torch.no_grad(),
            MaskTap(
                model, sites, {k: torch.as_tensor(v, dtype=torch.float32) for k, v in some.items()}
            ),
        ):
            for inputs, _ in batches(examples(50, seed=9), 10):
                states.append(model.bert(**inputs).last_hidden_state[:, 0])
        return torch.cat(states)

    dense = hidden({s.name: np.ones(s.units) for s in sites})
    assert ((hidden(result.scales) - dense) ** 2).mean() < ((hidden(masks) - dense) ** 2).mean()


def test_the_reference_leaves_the_first_attention_and_stops_at_a_failure():
    model = make("bert")
    sites = find_sites(model)
    masks, data = half_masks(sites), batches(examples(40), 8)
    teacher = {s.name: np.ones(s.units) for s in sites}
    records = tune(model, sites, masks, data, mode="kwon-reference", teacher_masks=teacher).sites
    assert not records[0].accepted and "first layer" in records[0].reason
    failed = [
        i
        for i, r in enumerate(records)
        if not r.accepted
        and ("range" in r.reason or "outside" in r.reason or "converge" in r.reason)
    ]
    if failed:
        assert all(not r.accepted for r in records[failed[0] :])
    else:
        assert all(r.accepted or "empty" in r.reason for r in records[1:])
    with pytest.raises(UsageError, match="teacher"):
        tune(model, sites, masks, data, mode="kwon-reference")


def test_the_reference_stops_at_the_first_site_that_fails(monkeypatch):
    model = make("bert")
    sites = find_sites(model)
    masks, data = half_masks(sites), batches(examples(40), 8)
    teacher = {s.name: np.ones(s.units) for s in sites}
    solved = []

    def third_fails(system, **options):
        solved.append(system)
        return (
            Solution(None, "a scale of 11 is outside [-10, 10]")
            if len(solved) == 3
            else reference_lsmr(system, **options)
        )

    monkeypatch.setattr(scales, "reference_lsmr", third_fails)
    result = tune(model, sites, masks, data, mode="kwon-reference", teacher_masks=teacher)
    records = result.sites
    assert len(solved) == 3 and [r.accepted for r in records] == [
        False,
        True,
        True,
        False,
        *[False] * (len(sites) - 4),
    ]
    assert all(r.reason == f"tuning stopped at {sites[3].name}" for r in records[4:])
    for site in sites[3:]:  # with the mask that the search gave
        np.testing.assert_array_equal(result.scales[site.name], masks[site.name])


def test_bad_input_is_refused():
    model = make("bert")
    sites = find_sites(model)
    masks, data = half_masks(sites), batches(examples(8), 4)
    with pytest.raises(UsageError, match="no such tuning"):
        tune(model, sites, masks, data, mode="best")
    with pytest.raises(UsageError, match="head positions"):
        tune(model, sites, masks, data, head_positions="last")
    with pytest.raises(UsageError, match="no examples"):
        tune(model, sites, masks, [])
    with pytest.raises(UsageError, match="does not fit"):
        tune(model, sites, {**masks, sites[1].name: np.full(sites[1].units, 0.5)}, data)
    with pytest.raises(UsageError, match="does not fit"):
        tune(model, sites, {k: v for k, v in masks.items() if k != sites[0].name}, data)
