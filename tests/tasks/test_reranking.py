"""Rerankers: passages of a query, put in order by what a model says of each."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from rfx.core.errors import UnsupportedModelError, UsageError
from rfx.tasks.base import Task
from rfx.tasks.find import task_class, task_of
from rfx.tasks.reranking import Reranking
from tests.conftest import tokenizer as make_tokenizer

ROWS = [
    {"query": "good", "passage": "fine film", "label": 1},
    {"query": "good", "passage": "bad", "label": 0},
    {"query": "good", "passage": "dark plot", "label": 2},
    {"query": "sad", "passage": "cold"},
    {"query": "sad", "passage": "warm", "label": 0},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("words"))


def task(tokenizer, outputs=1, **more):
    return Reranking(tokenizer, num_labels=outputs, id2label={}, **more)


@pytest.mark.parametrize("outputs", [1, 2])
def test_passages_are_put_in_order_by_what_the_model_says(tokenizer, outputs):
    made = task(tokenizer, outputs)
    examples = made.examples(ROWS)
    assert [e.label for e in examples] == [(1.0, 0.0, 2.0), (1.0, 0.0)]
    features = made.encode(examples)
    assert [f.example for f in features] == [0, 0, 0, 1, 1]
    words = tokenizer("good", "dark plot")["input_ids"]
    assert features[2].ids["input_ids"].tolist() == words
    scores = [0.5, 0.9, 0.7, 0.1, 0.2]
    logits = [np.array([s] if outputs == 1 else [1.0, 1.0 + s]) for s in scores]
    found = made.predict({"logits": logits}, features, examples)
    assert found == [(1, 3, 2), (1, 2)]
    best = 2 + 1 / math.log2(3)
    first = (1 / math.log2(4) + 2 / math.log2(3)) / best
    assert made.metric(found, examples) == pytest.approx((first + 1 / math.log2(3)) / 2)
    assert made.metric(made.perfect(examples), examples) == pytest.approx(1.0)
    assert made.answers(found) == [1, 1] and made.at_once(examples) == 2
    fast = made.bootstrap(found, made.perfect(examples), examples, resamples=10, seed=1)
    slow = Task.bootstrap(made, found, made.perfect(examples), examples, resamples=10, seed=1)
    assert fast == pytest.approx(slow)
    assert made.divergence_kind == ("squared difference" if outputs == 1 else "KL")


def test_calibration_takes_every_pair_once(tokenizer):
    made = task(tokenizer)
    found = made.examples([*ROWS, ROWS[0]], need_labels=False)
    assert len(found) == 5 and all(e.label is None for e in found)
    assert made.targets(made.encode(found)) == {}
    judged = made.examples(ROWS)
    assert {p["text_pair"] for e in judged for p in e.pieces} == {r["passage"] for r in ROWS}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [{"query": "a", "passage": "b"}, {"query": "c", "passage": "d"}],
            "nothing to put in order",
        ),
        ([{"query": "a"}], "document"),
        ([*ROWS, {"query": "", "passage": "b"}], "no 'query'"),
        ([{"query": "a", "passage": "b", "label": "x"}], "row 1 is not a number"),
    ],
)
def test_data_that_cannot_judge_are_refused(tokenizer, rows, said):
    with pytest.raises(UsageError) as refused:
        task(tokenizer).examples(rows)
    assert said in str(refused.value) and refused.value.next_step


def test_classifiers_and_labels_are_refused(tokenizer):
    with pytest.raises(UnsupportedModelError, match="one thing") as refused:
        Reranking.check_model(SimpleNamespace(num_labels=3))
    assert "text-classification" in refused.value.next_step
    with pytest.raises(UsageError, match="no classes"):
        task(tokenizer, label_names=["a"])
    with pytest.raises(UsageError, match="no loss of labels"):
        task(tokenizer).losses(None, {})
    assert task_class("reranking") is Reranking
    assert task_of("BertForSequenceClassification") == "text-classification"
