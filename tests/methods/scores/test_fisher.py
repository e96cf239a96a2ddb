"""Fisher scores: finite differences, per-example invariances, the reference's per-batch form, no
state left behind."""

import numpy as np
import pytest
import torch

from rfx.core.errors import UsageError
from rfx.core.registry import find, names
from rfx.methods.scores.fisher import Fisher
from rfx.methods.scores.magnitude import Magnitude
from rfx.models.families.find import find_sites
from rfx.models.masks import MaskTap
from tests.families import make
from tests.methods.scores.labelled import TASKS, ClassTask, batches, examples


def double(family, task="text-classification"):
    return make(family, task).double()


@pytest.mark.parametrize("family", ["bert", "distilbert", "esm"])
@pytest.mark.parametrize("task", TASKS)
def test_gradients_equal_finite_differences_of_the_masks(family, task):
    if (family, task) == ("esm", "question-answering"):
        pytest.skip("transformers has no such head")
    model = double(family, task)
    sites = find_sites(model)
    (inputs, targets), *_ = data = batches(examples(4), 4, task)
    rows = Fisher().score(model, sites, data, TASKS[task]).gradients
    step = 1e-4
    rng = np.random.default_rng(0)
    for site in sites:
        for unit in rng.choice(site.units, 3, replace=False):
            losses = []
            for sign in (1, -1):
                mask = torch.ones(site.units, dtype=torch.float64)
                mask[unit] += sign * step
                with torch.no_grad(), MaskTap(model, sites, {site.name: mask}):
                    losses.append(TASKS[task].losses(model(**inputs), targets))
            slope = ((losses[0] - losses[1]) / (2 * step)).numpy()  # [B]
            np.testing.assert_allclose(rows[site.name][:, unit], slope, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("task", TASKS)
def test_per_example_scores_do_not_depend_on_batches_or_padding(task):
    model = double("bert", task)
    sites = find_sites(model)
    rows = examples(11)
    wanted = Fisher().score(model, sites, batches(rows, 1, task), TASKS[task])
    others = [
        Fisher().score(model, sites, batches(rows, 4, task), TASKS[task]),
        Fisher().score(model, sites, batches(rows, 11, task, pad_to=30), TASKS[task]),
        Fisher(tokens_per_pass=25).score(model, sites, batches(rows, 11, task), TASKS[task]),
    ]
    for scores in others:
        for s in sites:
            np.testing.assert_allclose(
                scores.gradients[s.name], wanted.gradients[s.name], rtol=1e-5, atol=1e-9
            )
            np.testing.assert_allclose(
                scores.importance[s.name], wanted.importance[s.name], rtol=1e-5
            )


def test_importance_is_the_sum_of_squares_in_double_precision():
    model = make("bert")
    sites = find_sites(model)
    scores = Fisher().score(model, sites, batches(examples(6), 3), ClassTask)
    for s in sites:
        rows = scores.gradients[s.name]
        assert rows.dtype == np.float32 and rows.shape == (6, s.units)
        assert scores.importance[s.name].dtype == np.float64
        np.testing.assert_allclose(
            scores.importance[s.name], (rows.astype(np.float64) ** 2).sum(0), rtol=1e-6
        )


def test_per_batch_form_squares_the_gradient_of_the_batch_mean_loss():
    """The reference's form: mean loss of the batch, one mask shared by it, one gradient a batch."""
    model = double("bert")
    sites = find_sites(model)
    data = batches(examples(10), 4)  # the last batch is smaller and counts as much
    expected = {s.name: np.zeros(s.units) for s in sites}
    for inputs, targets in data:
        masks = {
            s.name: torch.ones(s.units, dtype=torch.float64, requires_grad=True) for s in sites
        }
        with MaskTap(model, sites, masks):
            loss = ClassTask.losses(model(**inputs), targets).mean()
        grads = torch.autograd.grad(loss, list(masks.values()))
        for name, g in zip(masks, grads, strict=True):
            expected[name] += g.numpy() ** 2
    for limit in (None, 20):
        scores = Fisher(per="batch", tokens_per_pass=limit).score(model, sites, data, ClassTask)
        for s in sites:
            assert scores.gradients[s.name].shape == (3, s.units)
            np.testing.assert_allclose(scores.importance[s.name], expected[s.name], rtol=1e-5)


def test_a_unit_without_effect_scores_zero():
    model = make("bert")
    sites = find_sites(model)
    with torch.no_grad():
        model.get_submodule(sites[1].output).weight[:, 5] = 0
        model.get_submodule(sites[2].output).weight[:, : sites[2].width] = 0
    scores = Fisher().score(model, sites, batches(examples(6), 3), ClassTask)
    assert scores.importance[sites[1].name][5] == 0 and scores.importance[sites[2].name][0] == 0
    assert np.count_nonzero(scores.importance[sites[1].name]) == sites[1].units - 1


def test_nothing_is_left_on_the_model():
    model = make("bert", hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5).train()
    model.bert.pooler.eval()
    some = dict(model.named_parameters())["classifier.weight"].requires_grad_(False)
    sites = find_sites(model)
    with torch.no_grad():  # a caller without gradients still gets scores
        first = Fisher().score(model, sites, batches(examples(6), 3), ClassTask)
    second = Fisher().score(model, sites, batches(examples(6), 3), ClassTask)
    for s in sites:  # dropout was off
        np.testing.assert_array_equal(first.gradients[s.name], second.gradients[s.name])
        assert not model.get_submodule(s.output)._forward_pre_hooks
    assert model.training and not model.bert.pooler.training and model.bert.encoder.training
    assert not some.requires_grad and all(
        p.requires_grad for p in model.parameters() if p is not some
    )
    assert all(p.grad is None for p in model.parameters())


def test_state_is_restored_when_the_task_fails():
    model = make("bert").train()

    class Broken(ClassTask):
        @staticmethod
        def losses(outputs, targets):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        Fisher().score(model, find_sites(model), batches(examples(4), 4), Broken)
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("task", TASKS)
def test_predictive_form_needs_no_labels_and_is_seeded(task):
    model = make("bert", task)
    sites = find_sites(model)
    data = [(inputs, {}) for inputs, _ in batches(examples(8), 4, task)]

    def score(seed):
        return (
            Fisher(loss="predictive", seed=seed)
            .score(model, sites, data, TASKS[task])
            .importance[sites[0].name]
        )

    np.testing.assert_array_equal(score(1), score(1))
    # Of rank one: nothing is drawn but a sign.
    chance = task not in (
        "text-classification",
        "regression",
    )
    assert (score(1) != score(2)).any() == chance and (score(1) > 0).all()


def test_predictive_form_approaches_the_exact_fisher_of_a_classifier():
    model = double("bert")
    sites = find_sites(model)
    rows = examples(3)
    exact = {s.name: np.zeros(s.units) for s in sites}
    for inputs, _ in batches(rows, 3):
        probabilities = model(**inputs).logits.softmax(-1).detach().numpy()  # [B, 2]
        for label in (0, 1):
            targets = {"labels": torch.full((3,), label)}
            g = Fisher().score(model, sites, [(inputs, targets)], ClassTask).gradients
            for s in sites:
                exact[s.name] += (
                    probabilities[:, label, None] * g[s.name].astype(np.float64) ** 2
                ).sum(0)
    drawn = Fisher(loss="predictive").score(
        model, sites, [(batches(rows, 3)[0][0], {})] * 600, ClassTask
    )
    for s in sites:
        np.testing.assert_allclose(drawn.importance[s.name] / 600, exact[s.name], rtol=0.25)


def test_bad_input_is_refused():
    model = make("bert")
    sites = find_sites(model)
    with pytest.raises(UsageError, match="no examples"):
        Fisher().score(model, sites, [], ClassTask)
    with torch.no_grad():
        model.classifier.weight[0, 0] = float("nan")
    with pytest.raises(UsageError, match="not finite numbers"):
        Fisher().score(model, sites, batches(examples(2), 2), ClassTask)
    with pytest.raises(UsageError, match="gradient form"):
        Fisher(per="epoch")
    with pytest.raises(UsageError, match="loss"):
        Fisher(loss="zero-one")
    with pytest.raises(UsageError, match="no scorer of this name"):
        find("scorer", "taylor")


def test_every_registered_scorer_scores_every_unit():
    model = make("distilbert")
    sites = find_sites(model)
    for name in names("scorer"):
        scores = find("scorer", name)(per="example", seed=3).score(
            model, sites, batches(examples(4), 2), ClassTask
        )
        again = find("scorer", name)(per="example", seed=3).score(
            model, sites, batches(examples(4), 2), ClassTask
        )
        for s in sites:
            assert (
                scores.importance[s.name].shape == (s.units,)
                and scores.importance[s.name].dtype == np.float64
            )
            assert (scores.importance[s.name] >= 0).all()
            np.testing.assert_array_equal(scores.importance[s.name], again.importance[s.name])


def test_magnitude_is_the_squared_norm_of_the_output_columns():
    model = make("bert")
    sites = find_sites(model)
    scores = Magnitude().score(model, sites, [], ClassTask)
    weight = model.get_submodule(sites[0].output).weight.detach().numpy()
    width = sites[0].width
    assert scores.importance[sites[0].name][1] == pytest.approx(
        (weight[:, width : 2 * width] ** 2).sum(), rel=1e-6
    )
    weight = model.get_submodule(sites[1].output).weight.detach().numpy()
    np.testing.assert_allclose(scores.importance[sites[1].name], (weight**2).sum(0), rtol=1e-6)
