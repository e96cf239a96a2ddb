"""The pruned model's predictions against the dense one's, paired."""

import numpy as np
import pytest

from rfx.measure.accuracy import compare
from rfx.tasks.base import Example, MetricResult
from rfx.tasks.find import task_class
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


def test_the_same_predictions_lose_nothing_for_sure(task):
    labels = np.arange(40) % 2
    part = judged(task, labels, labels, labels)
    assert part.drop == 0 and part.interval == (0.0, 0.0) and part.agreement == 1
    other = judged(task, labels, 1 - labels, labels)
    assert other.drop == 100 and other.agreement == 0
    assert other.predictions_hash != part.predictions_hash
