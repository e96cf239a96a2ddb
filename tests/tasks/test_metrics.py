"""Metrics against scikit-learn, SciPy and the official SQuAD rules; bootstraps against their slow
form."""

import collections
import re
import string
import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from rfx.tasks.base import Example, Task
from rfx.tasks.find import task_class
from rfx.tasks.metrics import CLASSIFICATION, CONFUSION_METRICS, REGRESSION
from rfx.tasks.question_answering import normalize_answer, squad_exact, squad_f1

RNG = np.random.default_rng(0)
CASES = {
    "usual": (RNG.integers(0, 2, 200), RNG.integers(0, 2, 200)),
    "three classes": (RNG.integers(0, 3, 200), RNG.integers(0, 3, 200)),
    "a class never predicted": (RNG.integers(0, 2, 100), RNG.integers(0, 3, 100)),
    "all one class": (np.zeros(50, int), RNG.integers(0, 2, 50)),
    "perfect": (np.arange(60) % 2, np.arange(60) % 2),
}
ORACLES = {
    "accuracy": sklearn.metrics.accuracy_score,
    "f1": lambda t, p: sklearn.metrics.f1_score(t, p, zero_division=0, labels=[1], average="macro"),
    "f1_macro": lambda t, p: sklearn.metrics.f1_score(t, p, average="macro", zero_division=0),
    "matthews": sklearn.metrics.matthews_corrcoef,
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("metric", CLASSIFICATION)
def test_label_metrics_equal_scikit_learn(metric, case):
    predicted, true = CASES[case]
    if metric == "f1" and max(*predicted, *true) > 1:
        pytest.skip("two classes")
    expected = ORACLES[metric](true, predicted)
    assert CLASSIFICATION[metric](predicted, true) == pytest.approx(expected)
    classes = 3
    confusion = np.zeros((classes, classes))
    np.add.at(confusion, (true, predicted), 1)
    assert CONFUSION_METRICS[metric](confusion) == pytest.approx(expected)


def test_regression_metrics_equal_scipy():
    a = RNG.normal(size=100)
    b = np.round(a + RNG.normal(size=100), 1)  # with ties
    assert REGRESSION["spearman"](a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
    assert REGRESSION["pearson"](a, b) == pytest.approx(scipy.stats.pearsonr(a, b).statistic)
    assert (
        REGRESSION["spearman"](np.ones(5), np.arange(5.0))
        == 0.0
        == REGRESSION["pearson"](np.ones(5), np.arange(5.0))
    )


@pytest.mark.parametrize("metric", ["f1", "matthews"])
def test_a_metric_that_labels_of_one_class_do_not_define_is_not_0(metric):
    """Nor does a library warn of it."""
    none, mixed = np.zeros(50, int), np.arange(50) % 2
    confusion = np.array([[30, 20], [0, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for predicted in (none, mixed):
            assert np.isnan(CLASSIFICATION[metric](predicted, none))
        assert np.isnan(CONFUSION_METRICS[metric](confusion))
        assert CLASSIFICATION[metric](none, mixed) == 0  # the model's own doing


@pytest.mark.parametrize("metric", REGRESSION)
def test_a_correlation_with_equal_labels_is_not_0(metric):
    numbers, same = np.arange(6.0), np.full(6, 2.5)
    nearly = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0 + 1e-13])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(REGRESSION[metric](numbers, same))
        assert np.isnan(REGRESSION[metric](numbers[:1], numbers[:1]))
        assert np.isnan(REGRESSION[metric](np.array([*numbers[:5], np.nan]), numbers))
        assert REGRESSION[metric](same, numbers) == 0
        assert REGRESSION[metric](nearly, numbers) > 0


@pytest.mark.parametrize(("name", "labels"), [("token-classification", [0, 0]), ("accuracy", [])])
def test_tags_without_entities_define_no_metric(name, labels):
    task = make("token-classification", 3, names=["O", "B-A", "I-A"])
    task.metric_name = "f1" if labels else "accuracy"
    assert np.isnan(task.metric([[1] * len(labels)], [Example({"tokens": []}, labels)]))


def official(text):
    """As the official evaluation script of SQuAD has it."""
    text = "".join(ch for ch in text.lower() if ch not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


@pytest.mark.parametrize(
    "text", ["The  Cat, and an-apple!", "A", "", "THE", "U.S.A.", "théâtre a", "don't\tthe\nend"]
)
def test_answers_are_normalised_as_officially(text):
    assert normalize_answer(text) == official(text)


@pytest.mark.parametrize(
    ("predicted", "true"),
    [
        ("the cat sat", "cat sat down"),
        ("Cat", "the cat."),
        ("", ""),
        ("", "cat"),
        ("cat", ""),
        ("a a b", "a b b"),
        ("x y", "z"),
        ("the", ""),
        ("b b c", "b c c d"),
    ],
)
def test_squad_scores_are_the_official_ones(predicted, true):
    gold, found = official(true).split(), official(predicted).split()
    common = collections.Counter(gold) & collections.Counter(found)
    same = sum(common.values())
    if not gold or not found:
        expected = float(gold == found)
    elif same == 0:
        expected = 0.0
    else:
        precision, recall = same / len(found), same / len(gold)
        expected = 2 * precision * recall / (precision + recall)
    assert squad_f1(predicted, true) == pytest.approx(expected)
    assert squad_exact(predicted, true) == float(official(predicted) == official(true))


class Words:
    """A tokenizer is not needed for a metric."""


def make(name, labels=2, **more):
    names = more.pop("names", [f"L{i}" for i in range(labels)])
    return task_class(name)(Words(), num_labels=labels, id2label=dict(enumerate(names)), **more)


@pytest.mark.parametrize("metric", ["accuracy", "f1", "f1_macro", "matthews"])
def test_the_fast_bootstrap_of_labels_equals_the_slow_one(metric):
    task = make("text-classification", metric=metric)
    examples = [Example({"text": str(i)}, int(x)) for i, x in enumerate(RNG.integers(0, 2, 80))]
    first, second = RNG.integers(0, 2, 80).tolist(), RNG.integers(0, 2, 80).tolist()
    fast = task.bootstrap(first, second, examples, resamples=25, seed=4)
    np.testing.assert_allclose(
        fast, Task.bootstrap(task, first, second, examples, resamples=25, seed=4), atol=1e-12
    )


@pytest.mark.parametrize("metric", REGRESSION)
def test_the_fast_bootstrap_of_numbers_equals_the_slow_one(metric):
    """With ties, and with so few numbers that some resamples have equal labels alone."""
    task = make("text-classification", 1, metric=metric)
    labels, first, second = np.round(RNG.normal(size=(3, 4)), 1).tolist()
    examples = [Example({"text": str(i)}, x) for i, x in enumerate(labels)]
    second[1] = second[2] = second[3]
    fast = task.bootstrap(first, second, examples, resamples=100, seed=4)
    slow = Task.bootstrap(task, first, second, examples, resamples=100, seed=4)
    np.testing.assert_allclose(fast, slow, atol=1e-12)
    assert np.isnan(fast).any() and np.isfinite(fast).any()


@pytest.mark.parametrize("metric", ["f1", "accuracy"])
def test_the_fast_bootstrap_of_tags_equals_the_slow_one(metric):
    task = make("token-classification", 5, names=["O", "B-A", "I-A", "B-B", "I-B"], metric=metric)
    examples = [Example({"tokens": ["w"] * 7}, RNG.integers(0, 5, 7).tolist()) for _ in range(30)]
    first, second = ([RNG.integers(0, 5, 7).tolist() for _ in examples] for _ in range(2))
    fast = task.bootstrap(first, second, examples, resamples=20, seed=1)
    np.testing.assert_allclose(
        fast, Task.bootstrap(task, first, second, examples, resamples=20, seed=1), atol=1e-12
    )


@pytest.mark.parametrize("metric", ["f1", "exact_match"])
def test_the_fast_bootstrap_of_answers_equals_the_slow_one(metric):
    task = make("question-answering", metric=metric)
    words = ["cat", "dog", "the cat", "a dog sat", ""]
    examples = [
        Example({"question": "q", "context": "c"}, {"text": [words[i % 4]], "answer_start": [0]})
        for i in range(30)
    ]
    first, second = ([words[i] for i in RNG.integers(0, 5, 30)] for _ in range(2))
    fast = task.bootstrap(first, second, examples, resamples=20, seed=1)
    np.testing.assert_allclose(
        fast, Task.bootstrap(task, first, second, examples, resamples=20, seed=1), atol=1e-12
    )


def test_entities_are_counted_whole():
    task = make("token-classification", 5, names=["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])
    true = [[1, 2, 0, 3, 4, 4], [0, 0, 1, 1]]
    # LOC cut short; an I without its B is an entity of its own.
    found = [
        [1, 2, 0, 3, 4, 0],
        [0, 2, 1, 1],
    ]
    examples = [Example({"tokens": ["w"] * len(t)}, t) for t in true]
    right, predicted, there = 1 + 2, 2 + 3, 2 + 2
    assert task.metric(found, examples) == pytest.approx(2 * right / (predicted + there))
    assert task.metric(true, examples) == 1.0


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("B-PER E-PER O S-LOC", {("PER", 0, 2), ("LOC", 3, 4)}),
        ("B-PER I-PER E-PER E-PER", {("PER", 0, 3), ("PER", 3, 4)}),
        ("I-PER E-LOC B-LOC B-LOC", {("PER", 0, 1), ("LOC", 1, 2), ("LOC", 2, 3), ("LOC", 3, 4)}),
        ("S-PER I-PER O E-PER I-PER", {("PER", 0, 1), ("PER", 1, 2), ("PER", 3, 4), ("PER", 4, 5)}),
        ("O O", set()),
    ],
)
def test_spans_of_iobes_tags_are_seqevals(tags, spans):
    """seqeval.metrics.sequence_labeling.get_entities gives these (with the end included)."""
    kinds = ("PER", "LOC")
    names = ["O", *(f"{p}-{k}" for p in "BIES" for k in kinds)]
    task = make("token-classification", len(names), names=names)
    assert task._spans([names.index(t) for t in tags.split()]) == spans
    bilou = [n.replace("E-", "L-").replace("S-", "U-") for n in names]
    task = make("token-classification", len(names), names=bilou)
    assert task._spans([names.index(t) for t in tags.split()]) == spans


def test_tags_without_bio_count_every_tag_but_o():
    task = make("token-classification", 3, names=["O", "NOUN", "VERB"])
    true, found = [0, 1, 2, 1, 0, 2], [0, 1, 1, 1, 2, 0]
    expected = sklearn.metrics.f1_score(true, found, labels=[1, 2], average="micro")
    assert task.metric([found], [Example({"tokens": ["w"] * 6}, true)]) == pytest.approx(expected)
