"""The pruned model's predictions against the dense one's, paired."""

import numpy as np
import pytest
from scipy.stats import binom

from rfx.measure.accuracy import compare
from rfx.tasks.base import Example, MetricResult
from rfx.tasks.find import task_class
from rfx.tasks.intervals import paired_interval, share_interval
from tests.conftest import tokenizer


@pytest.fixture
def task(tmp_path):
    return task_class("text-classification")(
        tokenizer(tmp_path), num_labels=2, id2label={0: "bad", 1: "good"}, max_length=16
    )


def judged(task, dense, pruned, labels, **more):
    examples = [Example({"text": str(i)}, label) for i, label in enumerate(labels)]
    results = [
        MetricResult("accuracy", task.metric(p, examples), p) for p in (list(dense), list(pruned))
    ]
    return compare(task, *results, examples, **{"max_drop": 1.0, "seed": 0, **more})


def test_a_drop_is_in_points_with_its_interval(task):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 500)
    dense = np.where(rng.random(500) < 0.95, labels, 1 - labels)
    pruned = np.where(rng.random(500) < 0.9, dense, 1 - dense)
    part = judged(task, dense, pruned, labels, divergence=0.25)
    right = (dense == labels).mean(), (pruned == labels).mean()
    assert part.drop == pytest.approx(100 * (right[0] - right[1])) and part.drop > 0
    low, high = part.interval
    assert low < part.drop < high and high - low < 8
    assert part.agreement == pytest.approx((dense == pruned).mean())
    assert (part.examples, part.max_drop, part.divergence) == (500, 1.0, 0.25)


def test_the_same_predictions_lose_nothing_but_few_examples_show_little(task):
    labels = np.arange(40) % 2
    part = judged(task, labels, labels, labels)
    assert part.drop == 0 and part.agreement == 1
    assert part.interval == pytest.approx((-bound(40), bound(40)), abs=1e-9)
    other = judged(task, labels, 1 - labels, labels)
    assert other.drop == 100 and other.agreement == 0
    assert other.predictions_hash != part.predictions_hash


def bound(n):
    """Points that examples without any difference allow: 0.95 sure that no more differ."""
    return 100 * (1 - 0.05 ** (1 / n))


@pytest.mark.parametrize(("n", "points"), [(1, 95.0), (3, 63.2), (300, 0.994)])
def test_examples_without_a_difference_are_no_point(task, n, points):
    labels = np.arange(n) % 2
    part = judged(task, labels, labels, labels)
    assert part.interval == pytest.approx((-points, points), abs=0.05)
    like = 100 * part.agreement_interval[0]
    assert like == pytest.approx(100 * 0.025 ** (1 / n), abs=0.01)


@pytest.mark.parametrize(("lost", "gained", "n"), [(1, 0, 10), (2, 1, 40), (3, 0, 100)])
def test_the_interval_of_few_differences_holds_what_it_says(lost, gained, n):
    """Shares at its ends are not excluded by what was seen: both one-sided exact tests of the
    counts keep 2.5 %."""
    low, high = paired_interval(lost, gained, n)
    assert low < (lost - gained) / n < high
    assert binom.cdf(lost, n, max(high, 0)) < 0.05 + 0.05 * gained
    assert high >= share_interval(lost, n)[1] - gained / n - 1e-12


def test_the_interval_is_close_to_a_bootstraps_where_many_differ(task):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 4000)
    dense = np.where(rng.random(4000) < 0.9, labels, 1 - labels)
    pruned = np.where(rng.random(4000) < 0.9, labels, 1 - labels)
    examples = [Example({"text": str(i)}, int(x)) for i, x in enumerate(labels)]
    drops = task.bootstrap(dense, pruned, examples, resamples=500)
    lost = int(((dense == labels) & (pruned != labels)).sum())
    gained = int(((dense != labels) & (pruned == labels)).sum())
    low, high = paired_interval(lost, gained, 4000)
    wide = np.diff(np.percentile(drops, (2.5, 97.5)))[0]
    assert wide * 0.9 < high - low < wide * 1.2


def test_a_paired_interval_covers_what_is_true():
    """Of 120 samples of 60 examples, in which 4 % are lost and 1 % are gained."""
    rng = np.random.default_rng(2)
    counts = rng.multinomial(60, [0.04, 0.01, 0.95], 120)
    held = [low <= 0.03 <= high for low, high in (paired_interval(a, b, 60) for a, b, _ in counts)]
    assert np.mean(held) >= 0.95


@pytest.mark.parametrize("metric", ["f1", "f1_macro", "matthews"])
def test_other_metrics_of_classes_are_no_point_either(tmp_path, metric):
    """F1 hangs on the positives, of which there are three among 100: losing one in 1 - 0.05^(1/3)
    of them cannot be ruled out."""
    task = task_class("text-classification")(
        tokenizer(tmp_path), num_labels=2, id2label={0: "bad", 1: "good"}, metric=metric
    )
    labels = np.r_[np.ones(3, int), np.zeros(97, int)]
    part = judged(task, labels, labels, labels)
    assert part.dense == 1 and part.drop == 0 and part.interval[0] == 0
    lost, extra = 3 * bound(3) / 100, bound(97)
    if metric == "f1":
        f1 = 2 * (3 - lost) / (2 * (3 - lost) + lost + 0.97 * extra)
        assert part.interval[1] == pytest.approx(100 * (1 - f1), abs=0.1)
    assert part.interval[1] > 30


@pytest.mark.parametrize("metric", ["spearman", "pearson"])
def test_regressions_agree_by_their_correlation(tmp_path, metric):
    task = task_class("text-classification")(
        tokenizer(tmp_path), num_labels=1, id2label={0: "score"}, metric=metric
    )
    rng = np.random.default_rng(0)
    labels = [float(x) for x in rng.normal(size=60)]
    dense = [x + float(e) for x, e in zip(labels, rng.normal(size=60) / 4)]
    other = [float(x) for x in rng.normal(size=60)]
    same, noise = judged(task, dense, dense, labels), judged(task, dense, other, labels)
    assert same.agreement == 1 and same.agreement_interval[0] > 0.99
    assert noise.agreement < 0.3 and noise.agreement_interval[0] == 0
    against = judged(task, dense, [-x for x in dense], labels)
    assert against.agreement == 0 and against.chance_agreement == 0 and against.chance == 0
    constant = judged(task, dense, [1.0] * 60, labels)
    assert constant.pruned == 0 and constant.agreement == 0 and constant.drop > 80
    undefined = judged(task, dense, other, [1.0] * 60)
    assert np.isnan(undefined.dense) and np.isnan(undefined.interval).all()
    few = judged(task, dense[:3], dense[:3], labels[:3])
    assert few.interval[1] - few.interval[0] == pytest.approx(200)


def test_agreement_by_chance_is_that_of_the_shares_of_answers(task):
    """Both say "bad" to nine of ten: they agree in 82 % without having to do with one another."""
    dense = np.arange(100) % 10 == 0
    pruned = np.arange(100) % 10 == 1
    part = judged(task, dense.astype(int), pruned.astype(int), dense.astype(int))
    assert part.agreement == pytest.approx(0.8) and part.chance_agreement == pytest.approx(0.82)
    low, high = part.agreement_interval
    assert low == pytest.approx(0.7082, abs=1e-4) and high == pytest.approx(0.8733, abs=1e-4)
    assert part.chance == pytest.approx(0.9)  # "bad" to all


def test_tags_agree_word_by_word(tmp_path):
    task = task_class("token-classification")(
        tokenizer(tmp_path), num_labels=3, id2label={0: "O", 1: "B-X", 2: "I-X"}
    )
    first, second = [[0, 0, 1], [1, 2]], [[0, 0, 1], [0, 2]]
    found = task.agreement(first, second)
    assert found.share == pytest.approx(4 / 5)
    assert found.by_chance == pytest.approx((2 * 3 + 2 * 1 + 1 * 1) / 25)
    examples = [Example({"tokens": ["w"] * len(t)}, t) for t in first]
    assert task.metric(task.constant(examples).predictions, examples) > 0  # B-X everywhere
    answers = task_class("question-answering")(
        tokenizer(tmp_path), num_labels=2, id2label={0: "a", 1: "b"}
    )
    assert answers.agreement(["cat", ""], ["cat", "dog"]).share == 0.5
