"""What label columns hold: names beside numbers, no label, several labels, counts from 1, signs;
and texts that are none."""

import json
import types

import pytest

from rfx.core.errors import UnsupportedModelError, UsageError
from rfx.tasks.data import load_examples
from rfx.tasks.find import task_class
from rfx.tasks.labels import mapping_said
from tests.conftest import tokenizer as make_tokenizer

NLI = ["contradiction", "entailment", "neutral"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("words"))


def classifier(tokenizer, names=("negative", "positive"), **more):
    return task_class("text-classification")(
        tokenizer, num_labels=len(names), id2label=dict(enumerate(names)), **more
    )


def rows_of(labels, **more):
    return [{"text": f"film {i}", "label": v, **more} for i, v in enumerate(labels)]


@pytest.mark.parametrize("column", ["label_text", "label_name"])
def test_numbers_go_by_the_names_beside_them(tokenizer, column):
    task, theirs = classifier(tokenizer, NLI), ["entailment", "Neutral", "contradiction"]
    rows = [{"text": f"t{i}", "label": i % 3, column: theirs[i % 3]} for i in range(6)]
    assert [e.label for e in task.examples(rows)] == [1, 2, 0] * 2
    assert task.mapping == {"0": "entailment", "1": "neutral", "2": "contradiction"}
    assert mapping_said(task.mapping) == (
        "labels in the data: 0 is 'entailment', 1 is 'neutral', 2 is 'contradiction'"
    )


def test_names_that_are_not_all_the_models_are_not_half_followed(tokenizer):
    """Otherwise two of the data's labels could become one of the model's."""
    task = classifier(tokenizer, NLI)
    rows = [{"text": f"t{i}", "label": i, "label_text": n} for i, n in enumerate(["yes", *NLI[1:]])]
    assert [e.label for e in task.examples(rows)] == [0, 1, 2]
    unsure = [{"text": "a", "label": 0, "label_text": n} for n in NLI[:2]]  # one number, two names
    assert [e.label for e in task.examples(unsure)] == [0, 0]


def test_the_mapping_is_said_by_the_models_own_names(tokenizer):
    task = classifier(tokenizer, label_names=["no", "yes"])
    task.examples(rows_of(["yes", "no", 1, 1.0, "1"]))
    assert task.mapping == {"yes": "positive", "no": "negative", "1": "positive"}
    same = classifier(tokenizer)
    same.examples(rows_of(["positive", "Negative"]))
    assert mapping_said(same.mapping) == (
        "labels are found by the model's names: positive, Negative"
    )
    many = {str(i): f"T{i}" for i in range(40)}
    assert mapping_said(many).endswith(", ...") and len(mapping_said(many)) < 250
    assert classifier(tokenizer, ["score"]).mapping == {} and mapping_said({}) == ""


@pytest.mark.parametrize("none", [-1, "-1", -1.0, "-", "", " ", None, float("nan")])
def test_rows_without_a_label_are_left_out_and_counted(tokenizer, none):
    task = classifier(tokenizer)
    some = task.examples(rows_of([0, none, 1, none]), need_labels=False)
    assert [(e.label, e.row) for e in some] == [(0, 1), (1, 3)] and task.skipped == 2
    bare = task.examples(rows_of([none] * 3), need_labels=False)  # a test set
    assert [e.label for e in bare] == [None] * 3 and task.skipped == 0
    few = rows_of([i % 2 for i in range(199)] + [none])
    assert len(task.examples(few)) == 199 and task.skipped == 1
    with pytest.raises(UsageError, match=r"3 of 200 rows have no label: rows 1, 2, 200\."):
        task.examples([*rows_of([none, none]), *few[2:]])
    task.strict = True
    with pytest.raises(UsageError, match="Row 200 has no label") as refused:
        task.examples(few)
    assert "--strict" in refused.value.allowed and refused.value.next_step


@pytest.mark.parametrize("none", ["", "  ", None])
def test_empty_texts_are_left_out_and_counted_too(tokenizer, none):
    task = classifier(tokenizer)
    rows = rows_of([i % 2 for i in range(100)])
    rows[7]["text"] = none
    assert len(task.examples(rows)) == 99 and task.skipped == 1
    rows[8]["text"] = none
    with pytest.raises(UsageError, match="2 of 100 rows have no 'text': rows 8, 9"):
        task.examples(rows)
    # Labels are optional in training, texts are not; of a small set a few may lack them.
    for row in rows[9:11]:
        row["text"] = none
    with pytest.raises(UsageError, match="4 of 100 rows have no 'text': rows 8, 9, 10") as refused:
        task.examples(rows, need_labels=False)
    assert "1 in 100 or 3, here 3 of the training rows" in refused.value.allowed
    for row in rows[8:11]:
        row["text"] = "w"
    for row in rows[20:60]:
        row["label"] = ""
    assert len(task.examples(rows, need_labels=False)) == 59 and task.skipped == 41
    task.strict = True
    with pytest.raises(UsageError, match="Row 8 has no 'text'") as refused:
        task.examples(rows, need_labels=False)
    assert "--strict" in refused.value.allowed
    task.strict = False
    with pytest.raises(UsageError, match="rows 1, 2, 3, 4, 5, ...") as refused:
        task.examples([{"text": none, "label": 1}] * 9, need_labels=False)
    assert "--column" in refused.value.next_step


def test_a_number_of_a_regression_may_be_minus_one(tokenizer):
    task = classifier(tokenizer, ["score"])
    assert [e.label for e in task.examples(rows_of([-1, "-1", 0.5]))] == [-1, -1, 0.5]


def test_a_label_that_is_called_minus_one_is_one(tokenizer):
    task = classifier(tokenizer, label_names=["-1", "1"])
    assert [e.label for e in task.examples(rows_of([-1, 1, "-1"]))] == [0, 1, 0]


@pytest.mark.parametrize("needed", [True, False])
def test_signs_as_labels_are_named(tokenizer, needed):
    with pytest.raises(UsageError, match="The labels are -1 and 1") as refused:
        classifier(tokenizer).examples(rows_of([-1, 1, 1, -1]), need_labels=needed)
    assert "--labels=-1,1" in refused.value.next_step


def test_labels_that_count_from_1_are_named(tokenizer):
    rows = rows_of([1, 2, 3, "3"])
    with pytest.raises(UsageError, match="The labels count from 1 to 3") as refused:
        classifier(tokenizer, NLI).examples(rows)
    assert "--labels 1,2,3" in refused.value.next_step
    assert "subtract 1" in refused.value.next_step and "from 0 to 2" in refused.value.what
    assert [
        e.label for e in classifier(tokenizer, NLI, label_names=list("123")).examples(rows)
    ] == [
        0,
        1,
        2,
        2,
    ]
    with pytest.raises(UsageError, match="not one of the model's") as refused:
        classifier(tokenizer).examples(rows_of([0, 1, 2, 3]))
    assert "4 labels and the model 2" in refused.value.next_step


def test_labels_that_count_from_1_are_named_where_the_first_never_occurs(tokenizer):
    with pytest.raises(UsageError, match="most likely count from 1 to 3") as refused:
        classifier(tokenizer, NLI).examples(rows_of([2, 3, "3"]))
    assert "--labels 1,2,3" in refused.value.next_step
    with pytest.raises(UsageError, match="The label of row 1 is not one"):  # no sign of counting
        classifier(tokenizer, NLI).examples(rows_of([3, 3]))


def tagger(tokenizer, names=("O", "B-PER", "I-PER")):
    return task_class("token-classification")(
        tokenizer, num_labels=len(names), id2label=dict(enumerate(names))
    )


@pytest.mark.parametrize(
    "tags, said, step",
    [
        ([[1, 2], [3, 1]], "The tags count from 1 to 3", "subtract 1 from every tag"),
        (["1 2", "3 1"], "The tags count from 1 to 3", "subtract 1 from every tag"),
        ([[2, 2], ["3", 3]], "most likely count from 1 to 3", "subtract 1 from every tag"),
        ([[0, 1], [-1, 0]], "most likely count from -1", "add 1 to every tag"),
        ([[0, 1], [-100, 0]], "A tag of row 2 is not one", "whole words"),
        ([[0, 1], [3, 1]], "A tag of row 2 is not one", "--labels"),
        ([["O", 1], [3, 1]], "A tag of row 2 is not one", "--labels"),
        ([[1], [-5]], "A tag of row 2 is not one", "--labels"),
        ([[[1]], [2]], "A tag of row 1 is not one", "--labels"),
    ],
)
def test_tags_that_count_otherwise_are_named(tokenizer, tags, said, step):
    rows = [
        {"tokens": ["w"] * len(t if isinstance(t, list) else t.split()), "tags": t} for t in tags
    ]
    with pytest.raises(UsageError, match=said) as refused:
        tagger(tokenizer).examples(rows)
    assert step in refused.value.next_step and refused.value.got.startswith("tags: ")
    assert refused.value.allowed == "0..2, O, B-PER, I-PER"


NAMES = {0: "negative", 1: "positive"}


@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
def test_names_that_contradict_each_other_are_refused(task):
    check = task_class(task).check_names

    def config(**numbers):
        return types.SimpleNamespace(id2label=NAMES, label2id=numbers)

    with pytest.raises(UsageError, match="contradict") as refused:
        check(config(negative=1, positive=0))
    assert refused.value.got == (
        "'negative' is 0 in id2label and 1 in label2id, 'positive' is 1 in id2label and 0 in "
        "label2id"
    )
    assert "config.json" in refused.value.next_step and "--labels" in refused.value.next_step
    for wrong in ("x", None, 0.5, 7):
        with pytest.raises(UsageError, match="contradict"):
            check(config(negative=wrong))
    # What transformers fills in where id2label alone was set, and what agrees.
    for fine in ({"LABEL_0": 1, "LABEL_1": 0}, {"negative": 0}, {"negative": "0", "positive": 1}):
        check(config(**fine))
    check(types.SimpleNamespace(id2label=NAMES, label2id=None))


@pytest.mark.parametrize("numbers", [{"A": 0}, {"A": 1}, {"A": 2}, None])
def test_two_classes_of_one_name_are_said_as_such(numbers):
    config = types.SimpleNamespace(id2label={0: "A", 1: "B", 2: "A"}, label2id=numbers)
    with pytest.raises(UsageError, match="Two classes in config.json have one name") as refused:
        task_class("text-classification").check_names(config)
    assert refused.value.got == "'A' is the name of 0, 2 in id2label"
    assert "contradict" not in str(refused.value) and "--labels" in refused.value.next_step


@pytest.mark.parametrize("label", [[1.0, 0.0, 1.0], [0, 2], [0.3, 0.7]])
def test_several_labels_are_named(tokenizer, label):
    with pytest.raises(UnsupportedModelError, match="multi-label"):
        classifier(tokenizer, NLI).examples(rows_of([label]))


def test_one_label_as_zeros_and_a_one_is_told_how_to_write_it(tokenizer):
    with pytest.raises(UnsupportedModelError) as refused:
        classifier(tokenizer, NLI).examples(rows_of([[0, 1, 0]]))
    assert "write the label of row 1 as 1" in refused.value.next_step
    for odd in ({"a": 1}, [1], []):
        with pytest.raises(UsageError, match="The label of row 1"):
            classifier(tokenizer, NLI).examples(rows_of([odd]))


def test_several_columns_of_labels_are_named(tokenizer):
    rows = [{"text": f"t{i}", "toxic": i % 2, "threat": str(i % 3 // 2)} for i in range(12)]
    with pytest.raises(UnsupportedModelError, match="multi-label") as refused:
        classifier(tokenizer).examples(rows)
    assert "toxic, threat" in refused.value.got
    one = classifier(tokenizer, columns={"label": "toxic"})
    assert [e.label for e in one.examples(rows)] == [0, 1] * 6


@pytest.mark.parametrize("value", [["a", "b"], {"en": "a"}, b"a"])
def test_what_is_no_text_is_not_tokenised(tokenizer, value):
    with pytest.raises(UsageError, match="'text' of row 2"):
        classifier(tokenizer).examples([*rows_of([1]), {"text": value, "label": 1}])
    answers = task_class("question-answering")(tokenizer, num_labels=2, id2label={0: "a", 1: "b"})
    with pytest.raises(UsageError, match="'context' of row 1"):
        answers.examples([{"question": "q", "context": value}], need_labels=False)
    tags = task_class("token-classification")(tokenizer, num_labels=2, id2label={0: "O", 1: "X"})
    with pytest.raises(UsageError, match="row 1"):
        tags.examples([{"tokens": [value], "tags": [0]}])


def test_half_a_character_is_refused_with_its_row(tokenizer):
    with pytest.raises(UsageError, match="'text' of row 1 holds half a character") as refused:
        classifier(tokenizer).examples([{"text": "so \ud83d broken", "label": 1}])
    assert "U+D83D at character 4" in refused.value.got
    refused.value.render().encode("utf-8")
    tags = task_class("token-classification")(tokenizer, num_labels=2, id2label={0: "O", 1: "X"})
    with pytest.raises(UsageError, match="half a character"):
        tags.examples([{"tokens": ["\udc00"], "tags": [0]}])


def test_rows_of_the_other_tasks_may_lack_something_too(tokenizer):
    tags = task_class("token-classification")(tokenizer, num_labels=2, id2label={0: "O", 1: "X"})
    rows = [{"tokens": ["a"], "tags": ["X"]}, {"tokens": ["b"], "tags": None}, {"tokens": []}]
    assert len(tags.examples(rows, need_labels=False)) == 1 and tags.skipped == 2
    with pytest.raises(UsageError, match="2 of 3 rows have no 'tags' or no 'tokens'"):
        tags.examples(rows)
    assert tags.mapping == {"X": "X"}
    answers = task_class("question-answering")(tokenizer, num_labels=2, id2label={0: "a", 1: "b"})
    row = {"question": "q", "context": "the cat", "answers": "cat"}
    some = answers.examples([row, {**row, "answers": None}], need_labels=False)
    assert len(some) == 1 and answers.skipped == 1


def config(**said):
    return types.SimpleNamespace(**{"problem_type": None, "num_labels": 1, **said})


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"problem_type": "single_label_classification"}, "no choice among classes"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.Sigmoid"}}, "sigmoid"),
        ({"sbert_ce_default_activation_function": "torch.nn.Sigmoid"}, "sigmoid"),
    ],
)
def test_heads_that_are_not_supported_are_refused_by_name(said, match):
    with pytest.raises(UnsupportedModelError, match=match) as refused:
        task_class("text-classification").check_model(config(**said))
    assert refused.value.got and refused.value.next_step


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"problem_type": "regression"},
        {"problem_type": "regression", "num_labels": 2},
        {"problem_type": "regression", "sentence_transformers": {"activation_fn": "x.Sigmoid"}},
        {"sentence_transformers": {"activation_fn": "torch.nn.Identity"}},
        {"num_labels": 3, "problem_type": "single_label_classification"},
        {"num_labels": 3},
    ],
)
def test_other_heads_are_taken(said):
    task_class("text-classification").check_model(config(**said))


@pytest.mark.parametrize("label", ["label", "Label"])
@pytest.mark.parametrize("column", ["label_text", "Label_Name"])
def test_names_beside_numbers_hold_in_a_table_too(tokenizer, tmp_path, label, column):
    """Every value of a CSV is text."""
    names = ["entailment", "neutral", "contradiction"]
    lines = [f"t{i},{i % 3},{names[i % 3]}" for i in range(6)]
    (tmp_path / "x.csv").write_text("\n".join([f"text,{label},{column}", *lines]))
    task = classifier(tokenizer, NLI)
    assert [e.label for e in task.examples(load_examples(tmp_path / "x.csv"))] == [1, 2, 0] * 2
    assert task.mapping == {"0": "entailment", "1": "neutral", "2": "contradiction"}


def test_two_meanings_of_a_label_are_refused(tokenizer):
    """Training has 0 as the one class, evaluation as the other: no printed mapping is true."""
    task = classifier(tokenizer)

    def rows(*names):
        return [{"text": n, "label": i, "label_text": n} for i, n in enumerate(names)]

    task.examples(rows("negative", "positive"))
    with pytest.raises(UsageError, match="One label means two classes") as refused:
        task.examples(rows("positive", "negative"))
    assert "0 is 'negative' in one file and 'positive' in another" in refused.value.got
    task.examples(rows("negative", "positive"))  # the same again


@pytest.mark.parametrize("needed", [True, False])
@pytest.mark.parametrize(
    "labels", [[-1, 0, 1, 1, 0], ["-1", "0", "1", ""], [-1, 1, 1, -1], [-1.0, 0.0, 1.0]]
)
def test_labels_that_count_from_minus_one_are_named(tokenizer, needed, labels):
    task = classifier(tokenizer, NLI)
    with pytest.raises(UsageError, match="count from -1.*label of row 1 is -1") as refused:
        task.examples(rows_of(labels), need_labels=needed)
    assert "--labels=-1,0,1" in refused.value.next_step and "leave those" in refused.value.next_step
    mended = classifier(tokenizer, NLI, label_names=["-1", "0", "1"])
    assert [e.label for e in mended.examples(rows_of([-1, "0", 1.0]))] == [0, 1, 2]


def test_a_few_minus_ones_beside_the_models_own_labels_are_no_class(tokenizer):
    for labels in ([0, 1, 2, -1, -1, 2], [0, 1] * 3):
        found = classifier(tokenizer, NLI).examples(rows_of(labels), need_labels=False)
        assert len(found) == sum(v != -1 for v in labels)
    many = [i % 3 for i in range(300)] + [-1] * 2
    assert len(classifier(tokenizer, NLI).examples(rows_of(many))) == 300
    some = [1, 0] * 100 + [-1]  # SNLI has some, and a small sample may lack a class; 2 of 4 here
    four = classifier(tokenizer, [*NLI, "other"])
    assert len(four.examples(rows_of(some), need_labels=False)) == 200
    named = [{"text": "t", "label": v, "label_text": n} for v, n in ((0, NLI[0]), (-1, None))]
    named += [{"text": "u", "label": 1, "label_text": NLI[1]}]
    found = classifier(tokenizer, NLI).examples(named, need_labels=False)
    assert [e.label for e in found] == [0, 1]  # the data say what their numbers are


def test_labels_that_do_not_count_from_minus_one_are_not_said_to(tokenizer):
    with pytest.raises(UsageError, match="not one of the model's"):
        classifier(tokenizer, [*NLI, "d", "e"]).examples(rows_of([0, 1, -2, -1, 2] * 3))


@pytest.mark.parametrize("names", [5, ["a"], {"label": 3}, {"label": ["positive", "negative"]}])
def test_a_users_own_column_sets_no_names(tokenizer, tmp_path, names):
    rows = [{"text": "a", "label": 0, "__names__": names}, {"text": "b", "label": 1}]
    for name, text in (("x.json", json.dumps(rows)), ("x.jsonl", "\n".join(map(json.dumps, rows)))):
        (tmp_path / name).write_text(text)
        read = load_examples(tmp_path / name)
        assert [e.label for e in classifier(tokenizer).examples(read)] == [0, 1]
    if not isinstance(names, dict) or names["label"] == 3:  # and given in Python
        assert [e.label for e in classifier(tokenizer).examples(rows)] == [0, 1]


@pytest.mark.parametrize("start", [float("inf"), -float("inf"), 4.5, float("nan"), 10**4000, -3])
def test_a_place_that_is_none_is_refused(tokenizer, start):
    task = task_class("question-answering")(tokenizer, num_labels=2, id2label={0: "a", 1: "b"})
    row = {"question": "q", "context": "the cat"}
    with pytest.raises(UsageError, match=r"[Rr]ow 1"):
        task.examples([{**row, "answers": {"text": ["cat"], "answer_start": [start]}}])


def test_two_numbers_for_one_class_are_refused(tokenizer):
    """`--labels 1,2` are names that one file counts by, and another file counts from 0."""
    task = classifier(tokenizer, label_names=["1", "2"])
    task.examples(rows_of([1, 2, "2"]))
    with pytest.raises(UsageError, match="Two numbers in the data mean one class") as refused:
        task.examples(rows_of([0, 1]))
    assert "1 and 0 are both" in refused.value.got
    spelled = classifier(tokenizer)
    assert len(spelled.examples(rows_of([0, "0", 0.0, "negative", 1]))) == 5
