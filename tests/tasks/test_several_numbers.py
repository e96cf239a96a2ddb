"""Regressions with several outputs: data in every form, correlations, probes."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr

from rfx.core.errors import UsageError
from rfx.methods.scores.divergence import divergence
from rfx.methods.scores.predictive import Signs, fisher_probe, residual_probe
from rfx.tasks.base import Example, Task
from rfx.tasks.find import task_for
from rfx.tasks.heads import check_head
from rfx.tasks.several_numbers import SeveralNumbers
from tests.conftest import tokenizer as make_tokenizer

NAMES = ("joy", "anger")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("words"))


def task(tokenizer, names=NAMES, **more):
    return SeveralNumbers(tokenizer, num_labels=len(names), id2label=dict(enumerate(names)), **more)


def config(outputs):
    return SimpleNamespace(problem_type="regression", num_labels=outputs)


def test_it_is_chosen_by_the_configuration():
    assert task_for("text-classification", config(2)) is SeveralNumbers
    assert task_for("text-classification", config(1)) is not SeveralNumbers
    check_head(config(2))


def test_numbers_stand_in_lists_or_in_columns(tokenizer):
    made = task(tokenizer)
    rows = [{"text": "a", "labels": [1, 2.5]}, {"text": "b", "labels": "[3, -1]"}]
    assert [e.label for e in made.examples(rows)] == [(1.0, 2.5), (3.0, -1.0)]
    rows = [{"text": "a", "Joy": "1", "anger": 2}, {"text": "b", "Joy": 3, "anger": 4.0}]
    assert [e.label for e in made.examples(rows)] == [(1.0, 2.0), (3.0, 4.0)]
    assert made.taken["label"] == "Joy, anger"
    bare = made.examples([{"text": "a"}], need_labels=False)
    assert bare[0].label is None and made.targets(made.encode(bare)) == {}
    assert made.one_label([(1.0, 2.0), (3.0, 4.0)]) == (2.0, 3.0)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"text": "a", "labels": [1]}], "a number for each output"),
        ([{"text": "a", "labels": 3}], "a number for each output"),
        ([{"text": "a", "labels": "[1, 2"}], "a number for each output"),
        ([{"text": "a", "labels": [1, "x"]}], "row 1 is not a number"),
        ([{"text": "a", "labels": [1, math.nan]}], "row 1 is not a number"),
        ([{"text": "a", "joy": 1}], "there is none of anger"),
        ([{"text": "a"}], "label"),
        ([{"text": "a", "labels": None}, {"text": "b", "labels": [1, 2]}], "Row 1 has no label"),
    ],
)
def test_labels_that_are_none_are_refused(tokenizer, rows, said):
    with pytest.raises(UsageError) as refused:
        task(tokenizer).examples(rows)
    assert said in str(refused.value) and refused.value.next_step


@pytest.mark.parametrize(("metric", "of"), [("spearman", spearmanr), ("pearson", pearsonr)])
def test_a_metric_is_the_mean_over_the_outputs(tokenizer, metric, of):
    made = task(tokenizer, metric=metric)
    rng = np.random.default_rng(0)
    true = rng.normal(size=(50, 2))
    one, other = (true + rng.normal(size=true.shape) * s for s in (0.3, 0.9))
    examples = [Example({"text": str(i)}, tuple(row)) for i, row in enumerate(true.tolist())]
    first, second = (made.predict({"logits": list(z)}, [], examples) for z in (one, other))
    wanted = np.mean([of(one[:, i], true[:, i]).statistic for i in range(2)])
    assert made.metric(first, examples) == pytest.approx(wanted)
    assert made.metric(made.perfect(examples), examples) == pytest.approx(1.0)
    assert made.metric(made.constant(examples).predictions, examples) == 0.0
    fast = made.bootstrap(first, second, examples, resamples=20, seed=3)
    slow = Task.bootstrap(made, first, second, examples, resamples=20, seed=3)
    assert fast == pytest.approx(slow)
    like = made.agreement(first, second).share
    assert like == pytest.approx(
        min(pearsonr(one[:, i], other[:, i]).statistic for i in range(2)), abs=1e-6
    )
    with pytest.raises(UsageError, match="is no metric"):
        task(tokenizer, metric="accuracy")


def test_loss_and_probes_see_every_output_by_itself(tokenizer):
    made = task(tokenizer)
    z = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    out, targets = SimpleNamespace(logits=z), {"labels": torch.tensor([[0.0, 0.0], [0.0, 1.0]])}
    assert made.losses(out, targets).tolist() == [5.0, 4.0]
    names = SeveralNumbers.output_names
    far = divergence({"logits": z}, {"logits": z + 1}, {}, names)
    assert far.tolist() == [2.0, 2.0]
    found = torch.zeros(2, 2)
    for seed in range(400):
        y = z[:1].clone().requires_grad_(True)
        total = fisher_probe(SimpleNamespace(logits=y), {}, names, Signs(seed))
        g = torch.autograd.grad(total.sum(), y)[0]
        found += g.T @ g / 400
    assert torch.allclose(found, torch.eye(2), atol=0.15)
    total, goal = residual_probe(out, {}, names, Signs(0), {"logits": z + 1}, 1.0)
    assert total.shape == goal.shape == (2,) and set(goal.abs().tolist()) <= {0.0, 2.0}
