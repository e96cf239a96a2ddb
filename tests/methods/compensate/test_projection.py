"""Reconstruction: Gram forms equal direct least squares, the walk equals a direct solution,
held-out error never rises."""

import itertools

import numpy as np
import pytest
import torch

from rfx.core.errors import UsageError
from rfx.core.plan import Kind, Plan, Update
from rfx.core.registry import find
from rfx.methods.compensate.gram import Gram
from rfx.methods.compensate.projection import RidgeSystem, error_of, reconstruct
from rfx.methods.scores.divergence import collect_outputs, mean_divergence
from rfx.models.calls import catch_calls
from rfx.models.families.find import find_sites
from rfx.models.shrink import shrink
from rfx.models.streams import Trace, run_layer
from rfx.models.student import as_student
from tests.families import make
from tests.methods.scores.labelled import ClassTask, batches, examples


@pytest.fixture(scope="module")
def problem():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(900, 10, generator=g) @ torch.randn(10, 10, generator=g) + 0.5
    error = z @ torch.randn(10, 6, generator=g) * 0.3 + 0.2 + 0.1 * torch.randn(900, 6, generator=g)
    return z, error, torch.rand(900, generator=g)


def gram_of(z, error, weights=None):
    gram = Gram(z.shape[1], error.shape[1])
    for i in range(0, len(z), 250):
        gram.add(
            z[i : i + 250], error[i : i + 250], None if weights is None else weights[i : i + 250]
        )
    return gram


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ridge", [1e-12, 0.1])
def test_the_solution_is_that_of_least_squares(problem, bias, weighted, ridge):
    z, error, weights = problem
    weights = weights if weighted else torch.ones(len(z))
    gram = gram_of(z, error, weights if weighted else None)
    change, shift = RidgeSystem(gram, bias).solve(ridge)
    w = weights.double().numpy()
    a, e = z.double().numpy(), error.double().numpy()
    if bias:
        a, e = a - np.average(a, 0, w), e - np.average(e, 0, w)
    root = np.sqrt(w)[:, None]
    scale = np.diag((a * root).T @ (a * root)).mean()
    rows = np.concatenate([a * root, np.sqrt(ridge * scale) * np.eye(10)])
    wanted = np.linalg.lstsq(rows, np.concatenate([e * root, np.zeros((10, 6))]), rcond=None)[0]
    np.testing.assert_allclose(change.numpy(), wanted, rtol=1e-3, atol=1e-4)
    left = error.double() - z.double() @ change - shift
    mean = float((left.square() * weights[:, None]).sum() / weights.sum() / 6)
    assert error_of(gram, (change, shift)) == pytest.approx(mean, rel=1e-3)
    assert (shift != 0).any() == bias


def test_sums_are_absorbed(problem):
    z, error, _ = problem
    a, b = gram_of(z[:400], error[:400]), gram_of(z[400:], error[400:])
    a.absorb(b)
    whole = gram_of(z, error)
    torch.testing.assert_close(a.zz, whole.zz, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(a.ze, whole.ze, rtol=1e-5, atol=1e-3)
    assert a.rows == whole.rows and a.ee == pytest.approx(whole.ee)


@pytest.fixture(scope="module")
def pruned():
    model = make("bert")
    sites = find_sites(model)
    rng = np.random.default_rng(0)
    masks = {
        s.name: (np.arange(s.units) < s.units // 2).astype(float)[rng.permutation(s.units)]
        for s in sites
    }
    return model, sites, masks, batches(examples(60), 8)


def plan_of(sites, masks):
    return Plan.of(sites, {s.name: np.flatnonzero(masks[s.name]) for s in sites})


def test_the_walk_equals_a_direct_solution_at_the_first_two_sites(pruned):
    """The first attention from the dense features; the first FFN from the student's, with the
    attention refitted."""
    model, sites, masks, data = pruned
    found = reconstruct(model, sites, masks, data, bias=True)
    layer = [s for s in sites if s.layer == sites[0].layer]
    mha, ffn = layer
    hidden, calls = catch_calls(model, sorted({s.layer_path for s in sites}), data, sites[0])
    with torch.no_grad():
        teacher = [run_layer(model, layer, hidden[i], c) for i, c in enumerate(calls)]
        student = Update(
            weights={mha.name: found.weights[mha.name]}, biases={mha.name: found.biases[mha.name]}
        )
        plan = plan_of(sites, masks)
        for site, update in ((mha, Update()), (ffn, student)):
            with as_student(model, layer, plan, update):
                seen: list[Trace] = [
                    run_layer(model, layer, hidden[i], c) for i, c in enumerate(calls)
                ]
            real = [c.real for c in calls]
            channels = [u * site.width + c for u in plan[site.name].kept for c in range(site.width)]
            z = torch.cat([t.features[site.name][r] for t, r in zip(seen, real)])[
                :, channels
            ].double()
            e = torch.cat(
                [
                    (a.streams[site.name] - b.streams[site.name])[r]
                    for a, b, r in zip(teacher, seen, real)
                ]
            ).double()
            record = next(r for r in found.sites if r.site == site.name)
            centred, right = z - z.mean(0), e - e.mean(0)
            ridge = (
                record.ridge
                * centred.square().sum(0).mean()
                * torch.eye(len(channels), dtype=torch.float64)
            )
            change = torch.linalg.solve(centred.T @ centred + ridge, centred.T @ right)
            wanted = model.get_submodule(site.output).weight.double()[:, channels] + change.T
            np.testing.assert_allclose(
                found.weights[site.name], wanted.numpy(), rtol=2e-2, atol=2e-3
            )


@pytest.mark.parametrize("name", ["projection", "affine"])
def test_outputs_come_nearer_and_the_model_is_left_alone(pruned, name):
    model, sites, masks, data = pruned
    before = {n: p.clone() for n, p in model.state_dict().items()}
    done = find("compensation", name)().fit(model, sites, masks, data, head_positions="first")
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())
    assert {r.site for r in done.sites} == {s.name for s in sites}
    for record in done.sites:
        assert not record.accepted or record.held_out_after < record.held_out_before
    assert bool(done.update.biases) == (name == "affine")
    fresh = batches(examples(40, seed=5), 8)
    dense = collect_outputs(model, fresh, ClassTask)
    values = []
    for update in (Update(), done.update):
        with as_student(model, sites, plan_of(sites, masks), update):
            values.append(mean_divergence(model, fresh, dense, ClassTask))
    assert values[1] < 0.5 * values[0]


def test_an_emptied_sublayer_gets_its_best_constant(pruned):
    model, sites, masks, data = pruned
    first = sites[0]
    masks = {**{s.name: np.ones(s.units) for s in sites}, first.name: np.zeros(first.units)}
    found = reconstruct(model, sites, masks, data, bias=True)
    layer = [s for s in sites if s.layer == first.layer]
    hidden, calls = catch_calls(model, sorted({s.layer_path for s in sites}), data, sites[0])
    with torch.no_grad():
        outputs = [run_layer(model, layer, hidden[i], c) for i, c in enumerate(calls)]
        projection = model.get_submodule(first.output)
        values = torch.cat(
            [projection(t.features[first.name])[c.real] for t, c in zip(outputs, calls)]
        )
    np.testing.assert_allclose(
        found.biases[first.name], values.mean(0).numpy(), rtol=1e-3, atol=1e-4
    )
    assert found.weights[first.name].shape == (len(found.biases[first.name]), 0)
    kept_bias = reconstruct(model, sites, masks, data, bias=False)
    assert (
        first.name not in kept_bias.weights and kept_bias.sites[0].reason == "the sublayer is empty"
    )
    for record in kept_bias.sites[1:]:
        # The dense model has it still: what went is missing everywhere behind.
        assert record.fit_before > 1e-3, record


def test_a_projection_without_a_bias_gets_none(pruned):
    """What is fitted must be what the small model can hold."""
    _, _, masks, data = pruned
    model = make("bert")
    sites = find_sites(model)
    for s in sites:
        model.get_submodule(s.output).bias = None
    masks = {**masks, sites[2].name: np.zeros(sites[2].units)}
    found = reconstruct(model, sites, masks, data, bias=True)
    assert found.weights and not found.biases and sites[2].name not in found.weights
    plan = Plan.of(sites, {name: np.flatnonzero(m) for name, m in masks.items()})
    update = Update(weights=found.weights, biases=found.biases)
    with as_student(model, sites, plan, update), torch.no_grad():
        student = model(**data[0][0]).logits
    with torch.no_grad():
        torch.testing.assert_close(
            shrink(model, sites, plan, update)(**data[0][0]).logits, student, atol=1e-5, rtol=1e-4
        )


def test_masks_may_be_decided_on_the_way_by_one_who_sees_the_student(pruned):
    model, sites, masks, data = pruned
    asked, outputs = [], []

    def decide(site, _):
        asked.append(site.name)
        outputs.append(model(**data[0][0]).logits)
        return masks[site.name]

    lazy = reconstruct(model, sites, decide, data)
    assert asked == [s.name for s in sites]
    # Each time one more site is the student's.
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(outputs))
    eager = reconstruct(model, sites, masks, data)
    for name, weight in eager.weights.items():
        np.testing.assert_allclose(lazy.weights[name], weight, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("bias", [False, True])
def test_a_sublayer_that_was_emptied_is_empty_for_those_who_decide_next(pruned, bias):
    model, sites, masks, data = pruned
    first, second = sites[:2]
    seen = {}

    def decide(site, _):
        with torch.no_grad():
            seen[site.name] = model(**data[0][0]).logits
        return np.zeros(site.units) if site is first else masks[site.name]

    found = reconstruct(model, sites, decide, data, bias=bias)
    update = Update(weights={}, biases={n: b for n, b in found.biases.items() if n == first.name})
    plan = Plan.of(sites, {s.name: () if s is first else range(s.units) for s in sites})
    with as_student(model, sites, plan, update), torch.no_grad():
        torch.testing.assert_close(seen[second.name], model(**data[0][0]).logits)
    assert not torch.allclose(seen[second.name], seen[first.name], atol=1e-3)


@pytest.mark.parametrize("family", ["bert", "electra", "distilbert", "esm"])
@pytest.mark.parametrize("name", ["kprune", "output-metric"])
def test_the_student_is_scored_from_where_it_has_come_to(family, name):
    """What the layers behind would compute again, nothing else: the same scores, whole batches and
    split ones."""
    model = make(family)
    sites = find_sites(model)
    data, task = batches(examples(20), 8), ClassTask()
    scores = find("scorer", name)(tokens_per_pass=40)
    scores.watch(model, data, task)
    before = dict(model.named_modules())
    forwards = {n: "forward" in m.__dict__ for n, m in before.items()}
    ran = []
    model.get_submodule(sites[0].output).register_forward_hook(lambda *_: ran.append(1))

    def decide(site, resumed):
        rest = sites[sites.index(site) :]
        whole = scores.score(model, rest, data, task)
        ran.clear()
        part = scores.score(model, rest, data, task, resumed=resumed)
        assert bool(ran) == (site.layer == 0)
        for s in rest:
            np.testing.assert_allclose(
                part.importance[s.name], whole.importance[s.name], rtol=2e-3, atol=1e-7
            )
        assert {n: "forward" in m.__dict__ for n, m in model.named_modules()} == forwards
        return (np.arange(site.units) % 2).astype(float)

    assert len(reconstruct(model, sites, decide, data).sites) == len(sites)


def test_token_weights_of_real_tokens_matter_unless_they_are_even(pruned):
    model, sites, masks, data = pruned
    tokens = int(sum(inputs["attention_mask"].sum() for inputs, _ in data))
    even = {s.name: np.full(tokens, 3.0) for s in sites}
    rng = np.random.default_rng(0)
    uneven = {s.name: rng.exponential(size=tokens) ** 3 for s in sites}
    plain = reconstruct(model, sites, masks, data)
    same = reconstruct(model, sites, masks, data, token_weights=even)
    other = reconstruct(model, sites, masks, data, token_weights=uneven)
    name = next(s.name for s in sites if s.kind is Kind.FFN)
    np.testing.assert_allclose(same.weights[name], plain.weights[name], rtol=1e-3, atol=1e-4)
    assert not np.allclose(other.weights[name], plain.weights[name], rtol=1e-2, atol=1e-3)


def test_masks_that_do_not_fit_are_refused(pruned):
    model, sites, masks, data = pruned
    with pytest.raises(UsageError, match="does not fit"):
        reconstruct(model, sites, {**masks, sites[1].name: np.ones(3)}, data)
