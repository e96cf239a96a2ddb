"""Which column plays which role, in whatever case it is written, and what an example is known
by."""

import json

import numpy as np
import pytest

from rfx.core.errors import UsageError
from rfx.tasks.base import Example
from rfx.tasks.calibration import distinct, drop_near_copies
from rfx.tasks.data import load_examples
from rfx.tasks.examples import Source, read_examples
from rfx.tasks.find import task_class
from tests.conftest import tokenizer as make_tokenizer


def classifier(tokenizer=None, **more):
    return task_class("text-classification")(
        tokenizer, num_labels=2, id2label={0: "no", 1: "yes"}, **more
    )


PAIRS = [
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("text", "text_pair"),
]


@pytest.mark.parametrize("written", [str, str.title, str.upper, lambda n: f" {n} "])
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("turned", [False, True])
def test_the_second_text_of_a_pair_is_taken_in_whatever_case(tmp_path, pair, written, turned):
    names = [*map(written, reversed(pair) if turned else pair), "Label"]
    values = ["second", "first"] if turned else ["first", "second"]
    (tmp_path / "x.csv").write_text(f"{','.join(names)}\n{','.join(values)},1\n")
    task = classifier()
    (example,) = task.examples(load_examples(tmp_path / "x.csv"))
    assert example.inputs == {"text": "first", "text_pair": "second"} and example.label == 1
    assert task.taken == dict(
        zip(("text", "text_pair", "label"), [written(n).strip() for n in (*pair, "Label")][:2])
    ) | {"label": "Label"}


def test_what_is_no_pair_stays_a_text():
    row = {"Text": "a", "Sentence2": "b", "label": 1}
    assert classifier().examples([row])[0].inputs == {"text": "a"}
    both = classifier(columns={"text_pair": "sentence2"})
    assert both.examples([row])[0].inputs == {"text": "a", "text_pair": "b"}


@pytest.mark.parametrize(
    ("columns", "text", "label"),
    [
        ("Text,title,label", "Text", "label"),
        ("Text,Label,score", "Text", "Label"),
        ("text,Text,label", "text", "label"),
        ("REVIEW,title,category", "REVIEW", "category"),
    ],
)
def test_the_likelier_name_wins_over_the_case(columns, text, label):
    row = {name: "1" if name == label else "x" for name in columns.split(",")}
    task = classifier()
    task.examples([row])
    assert (task.taken["text"], task.taken["label"]) == (text, label)


def test_the_columns_that_were_taken_are_said(tmp_path):
    tokenizer = make_tokenizer(tmp_path)
    rows = [{"Premise": f"good {i}", "Hypothesis": "bad", "Label": i % 2} for i in range(20)]
    notes = []

    def read(train, evaluation):
        read_examples(
            classifier(tokenizer),
            train=Source("a", rows=tuple(train)),
            evaluation=Source("b", rows=tuple(evaluation)),
            count=8,
            note=notes.append,
        )
        return next(n for n in notes if n.startswith("columns read"))

    said = "Premise as text, Hypothesis as text_pair, Label as label"
    assert read(rows[:10], rows[10:]) == f"columns read: {said}"
    notes.clear()
    others = [
        {"text": r["Premise"], "text_pair": r["Hypothesis"], "Label": r["Label"]} for r in rows[:10]
    ]
    assert read(others, rows[10:]) == (
        "columns read: text, text_pair, Label as label in the training set and "
        f"{said} in the evaluation set"
    )


def test_arrays_that_differ_in_their_middle_are_two_examples():
    first = np.zeros((3, 64, 64), dtype=np.float32)
    second = first.copy()
    second[1, 32, 32] = 1
    a, b, again = (Example({"pixels": x}) for x in (first, second, first.copy()))
    assert a.hash == again.hash != b.hash
    assert len(distinct([a, b, again])) == 2
    assert drop_near_copies([a, b], [again])[0] == [b] or len(drop_near_copies([a], [b])[0]) == 1
    assert Example({"x": first.astype(np.int32)}).hash != Example({"x": first}).hash
    assert Example({"x": first.reshape(64, 3, 64)}).hash != Example({"x": first}).hash
    assert Example({"x": np.int64(3)}).hash == Example({"x": 3}).hash
    assert Example({"x": b"a"}).hash != Example({"x": b"b"}).hash


def test_the_hash_of_texts_is_what_it_was():
    """Evidence of earlier runs holds it."""
    import hashlib

    inputs = {"text": "caf\xe9", "text_pair": "b"}
    known = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
    assert Example(inputs).hash == known


def both(train, evaluation, tmp_path, **columns):
    return read_examples(
        classifier(make_tokenizer(tmp_path), columns=columns),
        train=Source("a", rows=tuple(train)),
        evaluation=Source("b", rows=tuple(evaluation)),
        count=8,
    )


def rows_of(text, label=None):
    """Twenty rows with columns of these names."""
    rows = [{text: f"good {i}"} for i in range(20)]
    return rows if label is None else [{**r, label: i % 2} for i, r in enumerate(rows)]


@pytest.mark.parametrize("turned", [False, True])
def test_a_named_column_holds_for_both_files_and_the_next_step_ends(tmp_path, turned):
    """Whichever file lacks it: renaming its column is all there is to do."""
    files = [rows_of("review", "label"), [{"kommentar": "bad", "label": 1}] * 10]
    lacking = "training" if turned else "evaluation"
    if turned:
        files.reverse()
    with pytest.raises(UsageError) as error:
        both(*files, tmp_path, text="review")
    said = error.value.render()
    assert f"The {lacking} examples: There is no column 'review'" in said
    assert "kommentar" in said and "--column text=review holds for both" in said
    assert f"rename the column of the {lacking} examples that is the text to 'review'" in said
    renamed = [
        [{k.replace("kommentar", "review"): v for k, v in r.items()} for r in f] for f in files
    ]
    found = both(*renamed, tmp_path, text="review")
    assert found.task.taken["text"] == "review"
    assert len(found.evaluation) == len({r["review"] for r in renamed[1]})


def test_a_column_that_neither_file_has_is_said_with_those_that_both_have(tmp_path):
    with pytest.raises(UsageError, match="Neither file of examples has a column 'x'") as error:
        both(rows_of("review", "label"), rows_of("review", "label"), tmp_path, text="x")
    assert "one of review, label" in error.value.next_step
    with pytest.raises(UsageError, match="Neither file") as error:
        both(rows_of("a"), rows_of("b"), tmp_path, text="x")
    assert "same name in both files" in error.value.next_step


def test_calibration_examples_without_labels_need_no_column_of_the_labels_name(tmp_path):
    found = both(rows_of("text"), [{"text": "bad", "gold": 1}] * 4, tmp_path, label="gold")
    assert not found.labelled and found.evaluation[0].label == 1
    # A label of another name may mean anything: it is neither read nor passed over.
    with pytest.raises(UsageError, match="The training examples: There is no column 'gold'"):
        both(rows_of("text", "label"), [{"text": "bad", "gold": 1}] * 4, tmp_path, label="gold")
    with pytest.raises(UsageError, match="The evaluation examples: There is no column 'gold'"):
        both(rows_of("text", "gold"), [{"text": "bad"}] * 4, tmp_path, label="gold")
