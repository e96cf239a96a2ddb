"""Rows from every format; columns found or named; labels checked one by one; mistakes named with
their row."""

import gzip
import json

import numpy as np
import pandas
import pytest

from rfx.core.errors import UsageError, UserError
from rfx.tasks.base import LETTERS, Example
from rfx.tasks.calibration import Batches, choose, drop_overlap, overlap, set_hash
from rfx.tasks.data import load_examples
from rfx.tasks.find import task_class
from tests.conftest import tokenizer as make_tokenizer

ROWS = [
    {"text": 'a good, "film"', "label": 1},
    {"text": "NA", "label": 0},
    {"text": "bad\u2028plot\u0085 ü", "label": 0},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def classifier(tokenizer, labels=2, names=None, **more):
    names = names or [f"LABEL_{i}" for i in range(labels)]
    return task_class("text-classification")(
        tokenizer, num_labels=labels, id2label=dict(enumerate(names)), **more
    )


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "json", "csv", "tsv", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path, kind):
    file = tmp_path / f"x.{kind}"
    frame = pandas.DataFrame(ROWS)
    lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in ROWS)
    if kind == "jsonl":
        file.write_text(lines, encoding="utf-8")
    elif kind == "jsonl.gz":
        file.write_bytes(gzip.compress(lines.encode()))
    elif kind == "json":
        file.write_text(json.dumps(ROWS), encoding="utf-8")
    elif kind == "parquet":
        frame.to_parquet(file)
    else:
        frame.to_csv(file, sep="," if kind == "csv" else "\t", index=False)
    # Text is all that these files hold.
    rows = [{k: str(v) for k, v in r.items()} for r in ROWS] if kind in ("csv", "tsv") else ROWS
    assert load_examples(file) == rows
    assert load_examples(file, limit=2) == rows[:2]


def test_what_looks_like_a_number_stays_the_text_it_is(tmp_path, tokenizer):
    (tmp_path / "x.csv").write_text("text,label\n007,True\n1e3,False\n,True\n")
    rows = load_examples(tmp_path / "x.csv")
    assert [r["text"] for r in rows[:2]] == ["007", "1e3"]
    assert [
        e.label for e in classifier(tokenizer, label_names=["True", "False"]).examples(rows[:2])
    ] == [0, 1]
    with pytest.raises(UsageError, match="ow 3|row 3"):
        classifier(tokenizer, label_names=["True", "False"]).examples(rows)


def test_rows_may_lack_what_others_have_and_are_named_where_it_is_needed(tmp_path, tokenizer):
    (tmp_path / "x.csv").write_text('text,label\n"good, and\nlong",1\n\nlast\n')
    assert load_examples(tmp_path / "x.csv") == [
        {"text": "good, and\nlong", "label": "1"},
        {"text": "last", "label": None},
    ]
    (tmp_path / "y.csv").write_text("text,label,,\ngood,1,,\n")
    assert load_examples(tmp_path / "y.csv") == [{"text": "good", "label": "1"}]
    with pytest.raises(UsageError, match="Row 1 has no label"):
        classifier(tokenizer).examples([{"text": "good"}, {"text": "bad", "label": 1}])
    for empty in ("", "  ", None):
        with pytest.raises(UsageError, match="Row 2 has no 'text'"):
            classifier(tokenizer).examples(
                [{"text": "good", "label": 1}, {"text": empty, "label": 1}]
            )
    with pytest.raises(UsageError, match="by commas, not by ';'"):
        classifier(tokenizer).examples([{"text;label": "good;1"}])


@pytest.mark.parametrize(
    ("name", "text"),
    [("x.txt", "good\n"), ("x.csv", "text\ngood\n"), ("x.jsonl", '{"text": "good"}\n')],
)
def test_the_mark_that_windows_begins_files_with_is_no_text(tmp_path, name, text):
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_examples(tmp_path / name) == [{"text": "good"}]


def test_a_text_a_line_whatever_ends_the_lines(tmp_path):
    for name, ends in (
        ("unix", b"good\nbad\n"),
        ("windows", b"good\r\nbad\r\n"),
        ("old mac", b"good\rbad\r"),
        ("mixed", b"good\rbad\r\n"),
    ):
        (tmp_path / f"{name}.txt").write_bytes(ends)
        assert load_examples(tmp_path / f"{name}.txt") == [{"text": "good"}, {"text": "bad"}]


def test_classes_are_named_by_name_or_whole_number(tokenizer):
    names = ["O", "B-PER", "I-PER", "I-per"]
    tagger = task_class("token-classification")(
        tokenizer, num_labels=4, id2label=dict(enumerate(names))
    )
    rows = [{"tokens": ["a"] * 6, "tags": ["B-PER", "b-per", 2, "2", 2.0, "I-per"]}]
    assert tagger.examples(rows)[0].label == [1, 1, 2, 2, 2, 3]
    for wrong in (
        1.7,
        "1.7",
        -1,
        4,
        None,
        "i-PER",
        "X",
        float("nan"),
        "inf",
    ):
        # I-PER: which of two?
        with pytest.raises(UsageError, match="A tag of row 1 is not one of the model's") as error:
            tagger.examples([{"tokens": ["a"], "tags": [wrong]}])
        assert error.value.allowed == "0..3, O, B-PER, I-PER, I-per"
    stars = classifier(tokenizer, 5, ["1", "2", "3", "4", "5"])
    # Names, whatever their type.
    assert [stars.class_index(v) for v in ("1", 1, 1.0, "1.0", "5", 5, np.int64(5))] == [
        0,
        0,
        0,
        0,
        4,
        4,
        4,
    ]
    assert (
        stars.class_index(0) == 0
        and stars.class_index(6) is None
        and stars.class_index("1_0") is None
        and stars.classes_allowed() == "the names 1, 2, 3, 4, 5, or 0..4"
    )
    assert classifier(tokenizer, label_names=["1", "0"]).classes_allowed() == "1, 0"
    truth = classifier(tokenizer, label_names=["True", "False"])
    assert [truth.class_index(v) for v in (True, "true", False, "FALSE", 1, 0)] == [
        0,
        0,
        1,
        1,
        1,
        0,
    ]
    plain = classifier(tokenizer)
    assert [plain.class_index(v) for v in (True, np.int64(1), "1", "label_1", 0.0)] == [
        1,
        1,
        1,
        1,
        0,
    ] and plain.class_index([1]) is None
    # The data's own order.
    assert [truth.class_index(v, ["false", "true"]) for v in (1, np.int64(1), 0)] == [
        0,
        0,
        1,
    ]
    many = task_class("token-classification")(
        tokenizer, num_labels=20, id2label={i: f"T{i}" for i in range(20)}
    )
    with pytest.raises(UsageError) as error:
        many.examples([{"tokens": ["a"], "tags": ["X"]}])
    assert error.value.allowed.startswith("0..19, T0, ") and error.value.allowed.endswith(
        "T11, ..."
    )


def test_squad_json_is_read_with_its_unanswerable_questions(tmp_path):
    qas = [
        {"id": 1, "question": "who?", "answers": [{"text": "cat", "answer_start": 4}]},
        {
            "id": 2,
            "question": "where?",
            "answers": [],
            "is_impossible": True,
            "plausible_answers": [{"text": "cat", "answer_start": 4}],
        },
    ]
    (tmp_path / "x.json").write_text(
        json.dumps(
            {"version": "v2.0", "data": [{"paragraphs": [{"context": "the cat", "qas": qas}]}]}
        )
    )
    rows = load_examples(tmp_path / "x.json")
    assert [r["answers"]["text"] for r in rows] == [["cat"], []]
    (tmp_path / "y.json").write_text(json.dumps({"data": [{"paragraphs": [{"qas": qas}]}]}))
    with pytest.raises(UsageError, match="SQuAD"):
        load_examples(tmp_path / "y.json")


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("x.jsonl", '{"a": 1}\n[1]\n', "Line 2"),
        ("x.jsonl", '{"a": 1}\n{"a"', "Line 2"),
        ("x.json", "{", "not JSON"),
        ("x.json", '{"data": [1]}', "no list"),
        ("x.json", '{"data": [{"paragraphs": [{"context": "c", "qas": ["x"]}]}]}', "SQuAD"),
        (
            "x.json",
            '{"data": [{"paragraphs": [{"qas": [{"id": 1, "question": "q", "answers": []}]}]}]}',
            "context is missing",
        ),
        ("x.json", '{"a": 1}', "no list"),
        ("x.csv", "", "no examples"),
        ("x.csv", "text,label\n", "no examples"),
        ("x.jsonl", "", "no examples"),
        ("x.doc", "a", "format"),
        ("x.parquet", "no parquet", "cannot be read"),
        ("x.csv", 'a,b\n"1,2\n3,4\n', "cannot be read"),
        ("x.csv", 'a,b\n"1" or 2,3\n', "line 2"),
        (
            "x.csv",
            "text,label\ngood, text,1\nfine,0\n",
            "Line 2 .* 3 fields where the header has 2",
        ),
        ("x.csv", "text,label\ngood,1,\nfine,0,\n", "Line 2 .* 3 fields"),
        ("x.tsv", "text\tlabel\nfine\t1\ngood\ttext\t1\n", "Line 3"),
        ("x.csv", "text,text,label\na,b,1\n", "columns of one name"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, name, text, match):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=match):
        load_examples(tmp_path / name)


def test_what_is_not_there_is_named(tmp_path):
    for source in (tmp_path / "no.jsonl", "no/such.csv", tmp_path):
        with pytest.raises(UsageError):
            load_examples(source)
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "\xff"}\n')
    with pytest.raises(UsageError, match="UTF-8"):
        load_examples(tmp_path / "x.jsonl")
    with pytest.raises(UserError):  # a name of the hub, which is not to be had here
        load_examples("glue/sst2")


@pytest.mark.parametrize(
    "columns", [("sentence", "label"), ("review", "sentiment"), ("text", "class")]
)
def test_usual_columns_are_found(tokenizer, columns):
    rows = [{"id": 3, columns[0]: "good film", columns[1]: 1}]
    (example,) = classifier(tokenizer).examples(rows)
    assert example.inputs == {"text": "good film"} and example.label == 1


@pytest.mark.parametrize(
    "columns",
    [
        ("sentence1", "sentence2"),
        ("premise", "hypothesis"),
        ("question1", "question2"),
        ("question", "sentence"),
    ],
)
def test_pairs_of_columns_are_found(tokenizer, columns):
    (example,) = classifier(tokenizer).examples(
        [{columns[0]: "good", columns[1]: "bad", "label": 0, "idx": 1}]
    )
    assert example.inputs == {"text": "good", "text_pair": "bad"}
    (feature,) = classifier(tokenizer).encode([example])
    assert feature.ids["token_type_ids"].max() == 1


def test_columns_can_be_named(tokenizer):
    rows = [{"a": "good", "b": "bad", "c": 1, "text": "no"}]
    (example,) = classifier(
        tokenizer, columns={"text": "a", "text_pair": "b", "label": "c"}
    ).examples(rows)
    assert example.inputs == {"text": "good", "text_pair": "bad"} and example.label == 1
    with pytest.raises(UsageError, match="no column 'x'"):
        classifier(tokenizer, columns={"text": "x"}).examples(rows)


def test_labels_are_matched_by_name_or_number(tokenizer):
    task = classifier(tokenizer, names=["negative", "positive"])
    values = [1, 1.0, "1", "1.0", "positive", "POSITIVE", True]
    assert [e.label for e in task.examples([{"text": "t", "label": v} for v in values])] == [1] * 7
    # A dataset's class order need not be the model's.
    row = {"text": "t", "label": 0, "__names__": {"label": ["positive", "negative"]}}
    assert task.examples([row])[0].label == 1
    named = classifier(tokenizer, label_names=["no", "yes"])
    assert named.examples([{"text": "t", "label": "yes"}])[0].label == 1


@pytest.mark.parametrize("label", [2, -1, 0.5, "0.5", "inf", "x", "", None, float("nan"), [1]])
def test_labels_that_cannot_be_name_their_row(tokenizer, label):
    rows = [{"text": "t", "label": 0}] * 3 + [{"text": "t", "label": label}]
    with pytest.raises(UsageError, match="ow 4|row 4"):
        classifier(tokenizer).examples(rows)


@pytest.mark.parametrize("label", ["x", None, float("inf"), float("nan"), 1e39, -1e39, "1e308"])
def test_a_regression_wants_numbers(tokenizer, label):
    task = classifier(tokenizer, labels=1)
    assert (
        task.metric_name == "spearman"
        and task.examples([{"text": "t", "label": "2.5"}])[0].label == 2.5
    )
    with pytest.raises(UsageError, match="row 1|Row 1"):
        task.examples([{"text": "t", "label": label}])


def test_metrics_must_fit_the_model(tokenizer):
    for labels, metric in ((2, "spearman"), (1, "accuracy"), (3, "f1"), (2, "bleu")):
        with pytest.raises(UsageError):
            classifier(tokenizer, labels=labels, metric=metric)


def test_texts_that_are_missing_name_their_row(tokenizer):
    with pytest.raises(UsageError, match="Row 2"):
        classifier(tokenizer).examples([{"text": "t", "label": 0}, {"text": None, "label": 0}])


def test_a_long_context_is_cut_into_spans_that_find_the_answer(tokenizer):
    task = task_class("question-answering")(
        tokenizer, num_labels=2, id2label={0: "a", 1: "b"}, max_length=16, doc_stride=4
    )
    context = "the film was good " * 6 + "actor " + "a bad plot " * 6
    start = context.index("actor")
    row = {
        "question": "story",
        "context": context,
        "answers": {"text": ["actor"], "answer_start": [start]},
    }
    examples = task.examples([row])
    features = task.encode(examples)
    assert len(features) > 2 and all(len(f.ids["input_ids"]) <= 16 for f in features)
    found = [f for f in features if f.targets["start"] > 0]
    assert found
    for f in found:
        s, e = int(f.targets["start"]), int(f.targets["end"])
        assert context[f.extra["offsets"][s][0] : f.extra["offsets"][e][1]] == "actor"
    import numpy as np

    logits = {"start_logits": [], "end_logits": []}  # a model that knows
    for f in features:
        for part in ("start", "end"):
            row_ = np.zeros(len(f.ids["input_ids"]))
            row_[int(f.targets[part])] = 9.0 if f.targets["start"] > 0 else 1.0
            logits[f"{part}_logits"].append(row_)
    assert (
        task.predict(logits, features, examples) == ["actor"]
        and task.metric(["actor"], examples) == 1.0
    )


def test_answers_that_do_not_stand_there_are_named(tokenizer):
    task = task_class("question-answering")(tokenizer, num_labels=2, id2label={0: "a", 1: "b"})
    for answers in ({"text": ["dog"], "answer_start": [0]}, {"text": ["cat"]}, "dog", 3):
        with pytest.raises(UsageError, match="row 1|Row 1"):
            task.examples([{"question": "q", "context": "the cat", "answers": answers}])
    none = [{"question": "q", "context": "the cat", "answers": {"text": [], "answer_start": []}}]
    assert task.examples(none)[0].label["text"] == [] and task.version_2
    old = task_class("question-answering")(
        tokenizer, num_labels=2, id2label={0: "a", 1: "b"}, version_2=False
    )
    with pytest.raises(UsageError, match="version_2"):
        old.examples(none)


def test_one_question_without_an_answer_decides_in_whatever_file_it_stands(tokenizer):
    task = task_class("question-answering")(tokenizer, num_labels=2, id2label={0: "a", 1: "b"})
    bare = {"question": "q", "context": "the cat"}
    task.examples([bare], need_labels=False)
    task.examples([{**bare, "answers": {"text": ["cat"], "answer_start": [4]}}])
    assert not task.version_2
    task.examples([{**bare, "answers": {"text": [], "answer_start": []}}])
    assert task.version_2
    task.examples([bare], need_labels=False)
    assert task.version_2


@pytest.mark.parametrize(
    "option",
    [
        {"n_best": 2.5},
        {"n_best": 0},
        {"doc_stride": None},
        {"doc_stride": -1},
        {"max_answer_tokens": True},
        {"null_threshold": None},
        {"null_threshold": float("nan")},
        {"version_2": 3},
    ],
)
def test_options_of_question_answering_are_checked(tokenizer, option):
    with pytest.raises(UsageError, match="option") as refused:
        task_class("question-answering")(
            tokenizer, num_labels=2, id2label={0: "a", 1: "b"}, **option
        )
    assert next(iter(option)) in refused.value.got


def test_no_answer_wins_only_where_questions_may_have_none(tokenizer):
    import numpy as np

    def make(v):
        return task_class("question-answering")(
            tokenizer, num_labels=2, id2label={0: "a", 1: "b"}, version_2=v
        )

    row = {
        "question": "story",
        "context": "good film",
        "answers": {"text": ["film"], "answer_start": [5]},
    }
    for version_2, expected in ((True, ""), (False, "film")):
        task = make(version_2)
        examples = task.examples([row])
        (f,) = task.encode(examples)
        logits = np.zeros(len(f.ids["input_ids"]))
        logits[int(f.targets["start"])], logits[0] = 2.0, 3.0
        assert task.predict({"start_logits": [logits], "end_logits": [logits]}, [f], examples) == [
            expected
        ]


def test_tags_are_those_of_first_pieces(tokenizer):
    task = task_class("token-classification")(
        tokenizer, num_labels=3, id2label={0: "O", 1: "B-X", 2: "I-X"}, max_length=6
    )
    words = ["good", "unknownword", "bad", "film", "plot", "scene"]
    (example,) = task.examples([{"tokens": words, "ner_tags": ["O", "B-X", 2, 0, 1, 2]}])
    (feature,) = task.encode([example])
    assert task.truncated == 1 and [x for x in feature.targets["labels"] if x >= 0] == [0, 1, 2, 0]
    import numpy as np

    logits = np.eye(3)[[0, 0, 1, 2, 0, 0]]
    assert task.predict({"logits": [logits]}, [feature], [example]) == [[0, 1, 2, 0, 0, 0]]
    for bad in (
        {"tokens": ["a"], "ner_tags": ["O", "O"]},
        {"tokens": ["a"], "ner_tags": ["B-Y"]},
        {"tokens": [], "ner_tags": []},
        {"tokens": None, "ner_tags": [0]},
    ):
        with pytest.raises(UsageError, match="ow 1"):
            task.examples([bad])


def test_batches_pad_to_their_longest_and_can_be_gone_through_again(tokenizer):
    task = classifier(tokenizer)
    texts = ["good", "good bad film", "a the plot was sad", "bad"]
    features = task.encode([Example({"text": t}, i % 2) for i, t in enumerate(texts)])
    batches = Batches(task, features, 3)
    for _ in range(2):
        shapes = [tuple(i["input_ids"].shape) for i, _ in batches]
        assert len(batches) == 2 and shapes == [(3, 7), (1, 3)]
    inputs, targets = next(iter(batches))
    assert inputs["attention_mask"].sum(1).tolist() == [3, 5, 7] and targets["labels"].tolist() == [
        0,
        1,
        0,
    ]


def test_parts_are_disjoint_and_seeded():
    train = [Example({"text": str(i)}, 0) for i in range(50)]
    # Another label, the same text.
    evaluation = [Example({"text": str(i)}, 1) for i in range(40, 60)]
    kept, dropped = drop_overlap(train, evaluation)
    assert dropped == 10 and overlap(kept, evaluation) == 0 and overlap(train, evaluation) == 10
    assert set_hash(train) == set_hash(train[::-1]) != set_hash(kept)
    assert (
        choose(train, 10, 1).tolist()
        == choose(train, 10, 1).tolist()
        != choose(train, 10, 2).tolist()
    )
    assert sorted(choose(train, 99, 1)) == list(range(50))
    again = choose(train, 500, 1, replacement=True)
    assert len(again) == 500 and len(set(again)) <= 50


def test_quotes_in_tsv_are_text_where_the_file_does_not_quote(tmp_path):
    """As in GLUE's files: a row that opens a quote must not swallow those after it."""
    (tmp_path / "x.tsv").write_text(
        'sentence\tlabel\n"a bad film\t0\nfine\t1\nhe said "no" to it\t0\n"well"\t1\n'
    )
    assert [r["label"] for r in load_examples(tmp_path / "x.tsv")] == ["0", "1", "0", "1"]
    assert load_examples(tmp_path / "x.tsv")[0]["sentence"] == '"a bad film'


def test_class_names_match_whatever_their_case(tokenizer):
    """A model that says CONTRADICTION, NEUTRAL, ENTAILMENT on a dataset of entailment, neutral,
    contradiction."""
    task = classifier(tokenizer, labels=3, names=["CONTRADICTION", "NEUTRAL", "ENTAILMENT"])
    row = {
        "premise": "a",
        "hypothesis": "b",
        "label": 0,
        "__names__": {"label": ["entailment", "neutral", "contradiction"]},
    }
    assert task.examples([row])[0].label == 2


def test_two_classes_cannot_have_one_name(tokenizer):
    with pytest.raises(UsageError, match="one name"):
        classifier(tokenizer, 3, label_names=["A", "A", "B"])


def test_label_names_must_be_as_many_as_the_models(tokenizer):
    for names in (["a"], ["a", "b", "c"]):
        with pytest.raises(UsageError, match="label names"):
            classifier(tokenizer, label_names=names)


@pytest.mark.parametrize(
    "answers",
    [
        {"text": "cat", "answer_start": None},
        {"text": ["cat"], "answer_start": [None]},
        {"text": [None], "answer_start": [4]},
        {"text": ["cat"], "answer_start": []},
        None,
        [1],
        {"text": "cat"},
    ],
)
def test_answers_of_another_form_are_named(tokenizer, answers):
    task = task_class("question-answering")(tokenizer, num_labels=2, id2label={0: "a", 1: "b"})
    with pytest.raises(UsageError, match="row 1|Row 1"):
        task.examples([{"question": "q", "context": "the cat", "answers": answers}])
    whole = {"text": "cat", "answer_start": 4}
    assert task.examples([{"question": "q", "context": "the cat", "answers": whole}])[0].label == {
        "text": ["cat"],
        "answer_start": [4],
    }


def test_a_question_that_fills_the_input_is_named(tokenizer):
    def make():
        return task_class("question-answering")(
            tokenizer, num_labels=2, id2label={0: "a", 1: "b"}, max_length=24, doc_stride=8
        )

    row = {"context": "the film was good " * 9, "answers": {"text": ["film"], "answer_start": [4]}}
    for words in (1, 12, 19):  # the span that neighbours share gives way to the question
        task = make()
        features = task.encode(task.examples([{**row, "question": "plot " * words}]))
        assert features and max(len(f.ids["input_ids"]) for f in features) <= 24
    task = make()
    with pytest.raises(UsageError, match="no room for its context") as refused:
        task.encode(task.examples([{**row, "question": "plot"}, {**row, "question": "plot " * 40}]))
    assert "plot plot" in refused.value.got


def test_of_a_very_long_text_the_start_is_tokenized(tokenizer):
    """A tokenizer goes through all of a text before it cuts it."""
    task = classifier(tokenizer, max_length=8)
    long = "good film " * 500_000
    assert len(task.start_of(long)) == 8 * LETTERS
    (cut, whole) = task.encode(task.examples([{"text": t, "label": 0} for t in (long, long[:400])]))
    assert task.truncated == 2
    np.testing.assert_array_equal(cut.ids["input_ids"], whole.ids["input_ids"])
    tokenizer.truncation_side = "left"
    try:
        assert task.start_of("x" + long) == long[-8 * LETTERS :]
    finally:
        tokenizer.truncation_side = "right"
