"""Examples that say the same: repeated ones count once, near copies do not calibrate, labels that
contradict one another are said."""

import json

import pytest

from rfx.core.errors import UsageError
from rfx.tasks.base import Example
from rfx.tasks.calibration import conflicts, distinct, drop_near_copies, near_keys
from rfx.tasks.examples import Source, read_examples
from rfx.tasks.find import task_class
from tests.conftest import sentences, tokenizer, write_jsonl


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("A Good film!", "a good film"),
        ("a  good\tfilm", "a good film "),
        ("caf\u00e9 noir", "cafe\u0301 noir"),
        ("STRASSE", "stra\u00dfe"),
        ("\uff21 film", "a film"),
        ("well-made, film.", "well made film"),
    ],
)
def test_near_copies_are_known(first, second):
    assert near_keys(Example({"text": first})) == near_keys(Example({"text": second}))
    assert near_keys(Example({"tokens": first.split()})) == near_keys(
        Example({"tokens": second.split()})
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [("a good film", "a good firm"), ("3.5 stars", "35 stars"), (":)", ":("), ("ab c", "a bc")],
)
def test_others_are_not(first, second):
    assert near_keys(Example({"text": first})) != near_keys(Example({"text": second}))


def test_a_pair_is_near_only_where_both_texts_are():
    one, two = ({"text": "a film", "text_pair": p} for p in ("Good.", "bad"))
    kept, dropped = drop_near_copies(
        [Example(one), Example(two)], [Example({"text": "A FILM", "text_pair": "good"})]
    )
    assert [e.inputs for e in kept] == [two] and dropped == 1


def test_repeated_inputs_count_once_and_their_labels_may_contradict():
    examples = [Example({"text": t}, y) for t, y in (("a", 0), ("b", 1), ("a", 1), ("b", 1))]
    assert [(e.inputs["text"], e.label) for e in distinct(examples)] == [("a", 0), ("b", 1)]
    assert conflicts(examples) == [[examples[0], examples[2]]]
    assert conflicts([Example({"text": "a"})] * 2) == []


def test_what_is_left_out_is_said_and_counted(tmp_path):
    train, judged = sentences(40, 0), sentences(30, 1)
    near = {"text": judged[0]["text"].upper() + " !", "label": judged[0]["label"]}
    train += [near, judged[1], train[2], train[2], {"text": "", "label": 1}]
    conflict = {**judged[3], "label": 1 - judged[3]["label"]}
    files = {
        "train": write_jsonl(tmp_path / "train.jsonl", train),
        "eval": write_jsonl(tmp_path / "eval.jsonl", [*judged, judged[2], conflict]),
    }
    said = []
    task = task_class("text-classification")(
        tokenizer(tmp_path), num_labels=2, id2label={0: "bad", 1: "good"}
    )
    found = read_examples(
        task,
        train=Source(str(files["train"])),
        evaluation=Source(str(files["eval"])),
        count=100,
        note=said.append,
        warn=said.append,
    )
    assert len(found.evaluation) == 29 and found.duplicates == 1
    assert found.contradictory == 2  # whichever of the two rows came first
    assert conflict["text"] not in {e.inputs["text"] for e in found.evaluation}
    assert (found.near_copies, found.dropped_overlap, found.skipped) == (1, 1, 1)
    assert found.repeated_calibration == 2 and found.overlap == 0
    assert found.label_mapping == {"0": "bad", "1": "good"}
    text = "\n".join(said)
    for part in (
        "1 of 45 training rows lack a text or a label",
        "labels in the data: 0 is 'bad', 1 is 'good'",
        "1 evaluation example stands there with different labels: rows 4, 32 ('",
        "No answer to it is right, so that the evaluation leaves it out",
        "1 evaluation example repeats another one; each counts once",
        "1 training example differs from one of the evaluation set in case",
        "2 calibration examples repeat another one",
    ):
        assert part in text
    with pytest.raises(UsageError, match="too few training examples"):
        lines = [json.dumps({**r, "text": r["text"].upper()}) for r in judged]
        files["train"].write_text("\n".join(lines))
        read_examples(
            task,
            train=Source(str(files["train"])),
            evaluation=Source(str(files["eval"])),
            count=100,
        )


def read_rows(task, judged, train=None):
    said = []
    found = read_examples(
        task,
        train=Source("train", rows=tuple(train or sentences(20, 0))),
        evaluation=Source("eval", rows=tuple(judged)),
        count=16,
        warn=said.append,
    )
    return found, "\n".join(said)


def test_texts_with_several_labels_do_not_hang_on_the_order_of_their_rows(tmp_path):
    task = task_class("text-classification")(
        tokenizer(tmp_path), num_labels=2, id2label={0: "bad", 1: "good"}
    )
    judged = sentences(10, 1)
    twice = [{"text": "good bad", "label": y} for y in (0, 1, 1)]
    found, said = read_rows(task, [*judged, *twice])
    again, _ = read_rows(task, [*reversed(twice), *judged])
    assert found.evaluation_hash == again.evaluation_hash and len(found.evaluation) == 10
    assert found.contradictory == again.contradictory == 3 and found.duplicates == 0
    assert "rows 11, 12, 13 ('good bad')" in said
    # None of them is calibrated on either: the files are disjoint.
    train = [*sentences(20, 0), {"text": "Good, bad!", "label": 1}, twice[0]]
    apart, _ = read_rows(task, [*judged, *twice], train)
    assert (apart.dropped_overlap, apart.near_copies) == (1, 1)
    with pytest.raises(UsageError, match="no answer to it is right") as error:
        read_rows(task, twice)
    assert error.value.next_step and "rows 1, 2, 3" in error.value.render()
    task.strict = True
    with pytest.raises(UsageError, match="stands there with different labels") as error:
        read_rows(task, [*judged, *twice])
    assert "--strict" in str(error.value.allowed)


def test_different_numbers_for_one_text_are_their_mean(tmp_path):
    """Two raters of STS-B say 3.0 and 3.2: no contradiction, and no row leaves the evaluation."""
    task = task_class("text-classification")(
        tokenizer(tmp_path), num_labels=1, id2label={0: "LABEL_0"}
    )
    task.strict = True  # nothing here is to be refused
    judged = [{"text": f"good film {i}", "label": i / 10} for i in range(8)]
    twice = [{"text": "good bad", "label": y} for y in (3.0, 3.2, 3.0)]
    large = [{"text": "bad", "label": y} for y in (3.4e38, 3.2e38)]
    train = [{"text": f"bad film {i}", "label": i / 10} for i in range(8)]
    train += [{"text": "bad film", "label": y} for y in (0.1, 0.2)]
    notes, said = [], []

    def read(rows):
        return read_examples(
            task,
            train=Source("train", rows=tuple(train)),
            evaluation=Source("eval", rows=tuple(rows)),
            count=16,
            note=notes.append,
            warn=said.append,
        )

    found = read([*judged, *twice, *large])
    assert len(found.evaluation) == 10 and (found.contradictory, found.duplicates) == (0, 3)
    labels = {e.inputs["text"]: e.label for e in found.evaluation}
    assert labels["good bad"] == pytest.approx(9.2 / 3) and labels["good film 3"] == 0.3
    assert labels["bad"] == pytest.approx(3.3e38)
    assert (
        "2 evaluation examples stand there with different labels; the mean of them counts" in notes
    )
    assert "different labels" not in "\n".join(said)  # neither of the training set
    again = read([*large, *reversed(twice), *judged])
    assert again.evaluation_hash == found.evaluation_hash


def test_several_answers_to_one_question_are_all_right(tmp_path):
    task = task_class("question-answering")(
        tokenizer(tmp_path), num_labels=2, id2label={0: "a", 1: "b"}, max_length=32
    )

    def row(question, *answers):
        context = "the film was good and warm"
        starts = [context.index(a) for a in answers]
        given = {"text": list(answers), "answer_start": starts}
        return {"question": question, "context": context, "answers": given}

    train = [row(f"film {i}", "good") for i in range(10)]
    judged = [row("the film", "good"), row("the film", "warm", "good"), row("a plot")]
    found, _ = read_rows(task, judged, train)
    assert found.contradictory == 0 and found.duplicates == 1
    assert found.evaluation[0].label["text"] == ["good", "warm"]
    # One row says that there is an answer, the other that there is none.
    found, said = read_rows(task, [*judged, row("a plot", "good")], train)
    assert found.contradictory == 2 and "different labels: rows 3, 4" in said


def test_marks_that_are_vowels_are_no_punctuation():
    """In Devanagari and many other scripts words differ in marks alone."""
    one, other = (Example({"text": text}) for text in ("\u0915\u093f", "\u0915\u0940"))
    assert near_keys(one) != near_keys(other)
    assert near_keys(Example({"text": "a_b, C!"})) == near_keys(Example({"text": "A b c"}))
