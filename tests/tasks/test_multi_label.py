"""Texts with any number of labels: their data in every form, metrics beside scikit-learn's, the
loss beside transformers', and what is refused."""

import math
import types

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score

from rfx.core.errors import UsageError
from rfx.methods.scores.divergence import divergence
from rfx.methods.scores.predictive import Signs, fisher_probe, knowledge_probe, residual_probe
from rfx.tasks.base import Example, Task
from rfx.tasks.data import load_examples
from rfx.tasks.find import task_class, task_for
from rfx.tasks.multi_label import MultiLabel
from rfx.tasks.multi_label_metrics import average_precisions, bootstrap_labels_of_texts
from rfx.tasks.several_numbers import SeveralNumbers
from tests.conftest import tokenizer as make_tokenizer

NAMES = ("toxic", "threat", "insult")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("words"))


def task(tokenizer, names=NAMES, **more):
    return MultiLabel(tokenizer, num_labels=len(names), id2label=dict(enumerate(names)), **more)


def labels_of(task, values, column="labels", **more):
    rows = [{"text": f"t{i}", column: v} for i, v in enumerate(values)]
    return [e.label for e in task.examples(rows, **more)]


def test_the_head_says_which_class_judges_it():
    found = task_class("text-classification")
    for kind, wanted in (
        ("multi_label_classification", MultiLabel),
        ("single_label_classification", found),
        ("regression", SeveralNumbers),
        (None, found),
    ):
        config = types.SimpleNamespace(problem_type=kind, num_labels=3)
        assert task_for("text-classification", config) is wanted
    MultiLabel.check_model(
        types.SimpleNamespace(problem_type="multi_label_classification", num_labels=1)
    )


@pytest.mark.parametrize(
    "values",
    [
        [["toxic", "insult"], [], ["threat"]],
        [["Toxic", "INSULT"], [], ["Threat"]],
        [[0, 2], [], [1]],
        [[2, 0], [], ["1"]],
        [[1, 0, 1], [0, 0, 0], [0, 1, 0]],
        [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [False, True, False]],
        ["toxic|insult", "", "threat"],
        ["toxic, insult", "", "threat"],
        ["insult;toxic", "", "threat"],
        ['["toxic", "insult"]', "[]", '["threat"]'],
        ["[1, 0, 1]", "[0, 0, 0]", "[0, 1, 0]"],
    ],
)
def test_lists_and_texts_of_labels_are_read(tokenizer, values):
    assert labels_of(task(tokenizer), values) == [(1, 0, 1), (0, 0, 0), (0, 1, 0)]


def test_a_column_for_each_label_is_read_by_its_name(tokenizer):
    rows = [
        {"text": "a", "Insult": 1, "toxic": "1", "threat": 0.0, "id": 7},
        {"text": "b", "Insult": 0, "toxic": "0", "threat": 1.0, "id": 8},
    ]
    made = task(tokenizer)
    assert [e.label for e in made.examples(rows)] == [(1, 0, 1), (0, 1, 0)]
    assert made.taken["label"] == "toxic, threat, Insult"
    # Names that the model does not know stand for its labels in their order, and are said.
    generic = task(tokenizer, ("LABEL_0", "LABEL_1", "LABEL_2"))
    rows = [{"text": f"t{i}", "a": i % 2, "b": (i + 1) % 2, "c": i // 2 % 2} for i in range(4)]
    assert [e.label for e in generic.examples(rows)] == [(0, 1, 0), (1, 0, 0), (0, 1, 1), (1, 0, 1)]
    assert generic.mapping == {"a": "LABEL_0", "b": "LABEL_1", "c": "LABEL_2"}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"text": "a", "labels": ["rude"]}], "A label of row 1"),
        ([{"text": "a", "labels": [3]}], "A label of row 1"),
        ([{"text": "a", "labels": [["toxic"]]}], "A label of row 1"),
        ([{"text": "a", "labels": {"toxic": 1}}], "A label of row 1"),
        ([{"text": "a", "labels": [0, 1, 0, 1, 2]}], "Row 1 has one label twice"),
        ([{"text": "a", "labels": [0, 1]}, {"text": "b", "labels": [7]}], "row 2"),
        (
            [{"text": t, "labels": x} for t, x in (("a", [1, 0, 1]), ("b", [2]))],
            "Row 2 has its labels in another form than row 1",
        ),
        ([{"text": "a", "toxic": 1, "threat": 2, "insult": 0}], "A label of row 1"),
        ([{"text": "a", "toxic": 1, "threat": 0}], "there is none of insult"),
        ([{"text": "a"}], "label"),
        ([{"text": "a", "toxic": 1, "threat": 0, "rude": 1}], "there is none of insult"),
    ],
)
def test_labels_that_are_none_are_refused_with_their_row(tokenizer, rows, said):
    with pytest.raises(UsageError) as refused:
        task(tokenizer).examples(rows)
    assert said in str(refused.value) and refused.value.next_step


def test_an_empty_field_says_that_there_is_no_label(tokenizer, tmp_path):
    """In every form, also in a CSV, where nothing else can say it."""
    made = task(tokenizer)
    assert labels_of(made, [None, ["toxic"], []]) == [(0, 0, 0), (1, 0, 0), (0, 0, 0)]
    assert labels_of(made, [[1, 0, 1], None, [0, 0, 0], []]) == [
        (1, 0, 1),
        (0, 0, 0),
        (0, 0, 0),
        (0, 0, 0),
    ]
    file = tmp_path / "data.csv"
    file.write_text("text,labels\na,toxic|insult\nb,\nc,threat\n")
    rows = load_examples(str(file))
    assert [e.label for e in made.examples(rows)] == [(1, 0, 1), (0, 0, 0), (0, 1, 0)]
    file.write_text('text,labels\na,"[1, 0, 1]"\nb,\n')
    assert [e.label for e in made.examples(load_examples(str(file)))] == [(1, 0, 1), (0, 0, 0)]


def test_a_model_of_one_label_is_told_whether_it_is_there(tokenizer):
    made = task(tokenizer, ("spam",))
    assert labels_of(made, [1, 0]) == [(1,), (0,)]
    assert labels_of(made, ["spam", ""]) == [(1,), (0,)]
    assert labels_of(made, ["0", "1"]) == [(0,), (1,)]
    assert labels_of(made, [[1], []]) == [(1,), (0,)]


def test_calibration_texts_need_no_labels(tokenizer):
    made = task(tokenizer)
    rows = [{"text": "a"}, {"text": "b"}]
    assert [e.label for e in made.examples(rows, need_labels=False)] == [None, None]
    assert labels_of(made, [None, None], need_labels=False) == [None, None]
    features = made.encode([Example({"text": "good"}), Example({"text": "bad"})])
    assert made.targets(features) == {}


def test_options_are_checked(tokenizer):
    for threshold in (0, 1, -0.5, math.nan):
        with pytest.raises(UsageError, match="threshold of a label"):
            task(tokenizer, threshold=threshold)
    with pytest.raises(UsageError, match="no such metric") as refused:
        task(tokenizer, metric="accuracy")
    assert "f1_micro, f1_macro, map" in refused.value.allowed


@pytest.fixture(scope="module")
def scored():
    rng = np.random.default_rng(0)
    true = (rng.random((300, 4)) < (0.5, 0.2, 0.05, 0.0)).astype(int)
    logits = [true + rng.normal(0, s, true.shape) - 0.5 for s in (0.6, 0.8)]
    logits[0] = np.round(logits[0], 1)  # equal scores
    return true, [3 * z for z in logits]


@pytest.mark.parametrize("metric", MultiLabel.metrics)
def test_metrics_are_scikit_learns(tokenizer, scored, metric):
    true, (logits, other) = scored
    made = task(tokenizer, (*NAMES, "none"), metric=metric)
    examples = [Example({"text": str(i)}, tuple(row)) for i, row in enumerate(true.tolist())]
    one, two = (made.predict({"logits": list(z)}, [], examples) for z in (logits, other))
    value = made.metric(one, examples)
    p = np.asarray(one)
    # The last label is never there: no mean over the labels counts it.
    some = (true.sum(0) > 0) | (metric == "f1_micro")
    assert not true[:, 3].any() and (metric == "map" or p[:, 3].any())
    if metric == "map":
        wanted = average_precision_score(true[:, some], p[:, some], average="macro")
    else:
        wanted = f1_score(true[:, some], p[:, some], average=metric.removeprefix("f1_"))
    assert value == pytest.approx(wanted)
    assert made.metric(made.perfect(examples), examples) == pytest.approx(1.0)
    # The bootstrap is that of the base class, example by example.
    fast = made.bootstrap(one, two, examples, resamples=20, seed=3)
    slow = Task.bootstrap(made, one, two, examples, resamples=20, seed=3)
    assert fast == pytest.approx(slow)
    constant = made.constant(examples)
    least = made.metric(constant.predictions, examples)
    assert 0 < least < 1 and 0 < value < 1
    if metric == "f1_micro":  # the most frequent labels
        assert constant.answer in ("'toxic'", "'toxic', 'threat'")
    low, high = made.extremes(one, np.asarray([a != b for a, b in zip(one, two)]), examples)
    assert (math.isnan(low) and metric == "map") or low <= value <= high
    assert 0.5 < made.agreement(one, two).share < 1 == made.agreement(one, one).share


def test_average_precision_with_weights_is_scikit_learns(scored):
    true, (logits, _) = scored
    weights = np.random.default_rng(1).integers(0, 4, len(true))
    found = average_precisions(logits, true, weights)
    for label in range(3):
        wanted = average_precision_score(true[:, label], logits[:, label], sample_weight=weights)
        assert found[label] == pytest.approx(wanted)
    assert math.isnan(found[3])
    nothing = np.zeros((5, 2), int)
    for metric in MultiLabel.metrics:
        out = bootstrap_labels_of_texts(metric, nothing + 0.0, nothing + 1.0, nothing, 4, 0)
        assert np.isnan(out).all()


def test_a_threshold_of_its_own(tokenizer):
    logits = {"logits": [np.asarray([-0.5, 0.0, 2.0])]}
    assert task(tokenizer).predict(logits, [], []) == [(0, 1, 1)]
    assert task(tokenizer, threshold=0.3).predict(logits, [], []) == [(1, 1, 1)]
    assert task(tokenizer, threshold=0.8).predict(logits, [], []) == [(0, 0, 1)]
    (row,) = task(tokenizer, metric="map").predict(
        {"logits": [np.asarray([-900.0, 0, 900])]}, [], []
    )
    assert row == (0.0, 0.5, 1.0)


def test_the_loss_is_that_of_transformers(tokenizer):
    made = task(tokenizer)
    z = torch.randn(5, 3)
    y = (torch.rand(5, 3) < 0.4).float()
    losses = made.losses(types.SimpleNamespace(logits=z), {"labels": y})
    mean = torch.nn.BCEWithLogitsLoss()(z, y)  # as transformers' heads have it
    assert losses.shape == (5,) and float(losses.mean() / 3) == pytest.approx(float(mean), rel=1e-5)
    features = made.encode(
        [Example({"text": "good"}, (1, 0, 1)), Example({"text": "a"}, (0, 0, 0))]
    )
    targets = made.targets(features)["labels"]
    assert targets.dtype == np.float32 and targets.tolist() == [[1, 0, 1], [0, 0, 0]]


NAME = MultiLabel.output_names


def kl(p, q):
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def test_the_divergence_is_the_sum_over_labels():
    z, y = torch.tensor([[0.3, -2.0, 1.0]]), torch.tensor([[0.1, -1.0, 1.5]])
    wanted = sum(kl(a, b) for a, b in zip(z.sigmoid()[0].tolist(), y.sigmoid()[0].tolist()))
    found = divergence({"logits": z}, {"logits": y}, {}, NAME)
    assert found.shape == (1,) and float(found) == pytest.approx(wanted, rel=1e-6)
    far = divergence({"logits": 300 * z}, {"logits": -300 * y}, {}, NAME)
    assert torch.isfinite(far).all() and float(far) > 0
    # Of one label too, which without its name would be a number.
    one = divergence({"logits": z[:, :1]}, {"logits": y[:, :1]}, {}, NAME)
    assert float(one) == pytest.approx(kl(*(float(t[0, 0].sigmoid()) for t in (z, y))), rel=1e-6)


def test_the_fisher_information_is_that_of_independent_labels():
    """E[g g^T] over many signs: diag(p (1 - p)), and beside a teacher the gradient of the KL."""
    z = torch.tensor([[0.3, -1.0, 2.0]]).repeat(4000, 1).requires_grad_()
    out = types.SimpleNamespace(logits=z)
    p = z.detach()[0].sigmoid()

    def second(scalar):
        (g,) = torch.autograd.grad(scalar.sum(), z, retain_graph=True)
        return g.T @ g / len(g)

    fisher = second(fisher_probe(out, {}, NAME, Signs(0)))
    assert torch.allclose(fisher, torch.diag(p * (1 - p)), atol=0.01)
    wanted = torch.tensor([0.0, -2.0, 1.0])
    teacher = {"logits": wanted.repeat(4000, 1)}
    q = wanted.sigmoid()
    both = second(knowledge_probe(out, {}, NAME, Signs(1), teacher, 1.0))
    expected = torch.outer(p - q, p - q) + torch.diag(q * (1 - q))
    assert torch.allclose(both, expected, atol=0.02)
    scalar, goal = residual_probe(out, {}, NAME, Signs(2), teacher, 1.0)
    assert torch.allclose(second(scalar), torch.diag(q * (1 - q)), atol=0.01)
    d = wanted - z.detach()[0]
    assert float(goal.square().mean()) == pytest.approx(float(d**2 @ (q * (1 - q))), rel=0.1)
