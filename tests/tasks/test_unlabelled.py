"""Calibration from text alone: every task takes examples without labels, evaluation never does."""

import numpy as np
import pytest

from rfx.core.errors import UsageError
from rfx.tasks.data import load_examples
from rfx.tasks.find import task_class
from tests.conftest import tokenizer as make_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("words"))


def task_of(name, tokenizer):
    return task_class(name)(tokenizer, num_labels=2, id2label={0: "no", 1: "yes"}, max_length=16)


ROWS = {
    "text-classification": [{"text": "the good film"}, {"text": "a bad film"}],
    "token-classification": [{"tokens": ["good", "film"]}, {"tokens": "a bad plot"}],
    "question-answering": [{"question": "good film", "context": "the good film was warm"}],
}


@pytest.mark.parametrize("name", ROWS)
def test_examples_need_no_labels_where_none_are_asked_for(name, tokenizer):
    task = task_of(name, tokenizer)
    examples = task.examples(ROWS[name], need_labels=False)
    assert [e.label for e in examples] == [None] * len(ROWS[name])
    features = task.encode(examples)
    assert task.targets(features) == {} and task.collate(features)["input_ids"].shape[0] == len(
        features
    )
    with pytest.raises(UsageError, match="No column is known"):
        task.examples(ROWS[name])


def test_labels_that_are_there_are_read_and_checked(tokenizer):
    task = task_of("text-classification", tokenizer)
    rows = [{"text": "good", "label": "yes"}, {"text": "bad", "label": None}]
    assert [e.label for e in task.examples(rows[:1], need_labels=False)] == [1]
    assert [e.label for e in task.examples(rows[1:], need_labels=False)] == [None]
    some = task.examples(rows, need_labels=False)  # one without a label is left out
    assert [e.label for e in some] == [1] and task.skipped == 1 and some[0].row == 1
    with pytest.raises(UsageError, match="not one of the model's"):
        task.examples([{"text": "good", "label": "perhaps"}], need_labels=False)


def test_a_text_file_has_an_example_a_line(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("the good film\n\n  a bad plot \n", encoding="utf-8")
    assert load_examples(file) == [{"text": "the good film"}, {"text": "a bad plot"}]
    assert np.size(load_examples(file, limit=1)) == 1
