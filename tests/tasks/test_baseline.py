"""The dense model against a constant answer and against other orders of the labels."""

import shlex

import numpy as np
import pytest

from rfx.tasks.base import Example
from rfx.tasks.baseline import another_order, weakness
from rfx.tasks.find import task_class

RNG = np.random.default_rng(0)
NLI = ["contradiction", "entailment", "neutral"]


def classifier(names=("negative", "positive"), **more):
    return task_class("text-classification")(
        None, num_labels=len(names), id2label=dict(enumerate(names)), **more
    )


def examples(task, labels, **more):
    """As they are read from a file, with what the data call them."""
    return task.examples([{"text": f"t{i}", "label": v, **more} for i, v in enumerate(labels)])


def answers(labels, right, classes, seed=0):
    """Predictions of which a share is right, and the others are any class."""
    rng = np.random.default_rng(seed)
    other = rng.integers(0, classes, len(labels))
    return np.where(rng.random(len(labels)) < right, labels, other).tolist()


def test_labels_in_another_order_are_named_with_the_order_that_mends_them():
    """Data of entailment, neutral, contradiction for a model of contradiction, entailment, neutral;
    numbers alone."""
    theirs = RNG.integers(0, 3, 300)
    predicted = answers(np.array([1, 2, 0])[theirs], 0.8, 3)  # as the model counts
    task = classifier(NLI)
    found = weakness(task, predicted, examples(task, theirs.tolist()))
    assert found.sure and "another order" in found.what
    assert "0 in the data is most likely the model's label 'entailment'" in found.got
    assert "--labels 2,0,1" in found.next_step
    error = found.error()
    assert error.exit_code == 2 and "--allow-weak-baseline" in error.next_step
    mended = classifier(NLI, label_names=["2", "0", "1"])
    again = examples(mended, theirs.tolist())
    assert weakness(mended, predicted, again) is None
    assert mended.metric(predicted, again) > 0.7
    assert mended.mapping["0"] == "entailment"


def test_two_labels_the_wrong_way_round():
    labels = RNG.integers(0, 2, 60)
    task = classifier()
    found = weakness(task, answers(1 - labels, 0.9, 2), examples(task, labels.tolist()))
    assert "--labels 1,0" in found.next_step and found.sure
    named = classifier(["LABEL_0", "LABEL_1"], label_names=["yes", "no"])
    judged = examples(named, np.array(["yes", "no"])[labels].tolist())
    found = weakness(named, answers(1 - labels, 0.9, 2), judged)
    assert "--labels no,yes" in found.next_step
    assert "yes in the data is most likely the model's label 'LABEL_1'" in found.got


def test_labels_that_are_one_too_high_are_told_so():
    """1 and 2 of a model that has 0, 1 and 2: every one of them is a label of the model."""
    labels = RNG.integers(0, 2, 100)
    task = classifier(NLI)
    found = weakness(task, answers(labels, 0.9, 3), examples(task, (labels + 1).tolist()))
    assert "they count from 1" in found.got and "--labels 1,2," in found.next_step
    order = found.next_step.split("--labels ")[1].split(",")
    assert len(order) == 3 == len(set(order))
    mended = classifier(NLI, label_names=order)
    assert [e.label for e in examples(mended, [1, 2])] == [0, 1]


@pytest.mark.parametrize("metric", ["accuracy", "f1", "f1_macro", "matthews"])
def test_a_model_at_chance_is_no_baseline(metric):
    labels = (np.arange(400) >= 280).astype(int)
    predicted = [0, 1] * 200  # as many of either label have either answer
    task = classifier(metric=metric)
    judged = examples(task, labels.tolist())
    found = weakness(task, predicted, judged)
    assert found.sure and "not better than a constant answer" in found.what
    assert "to all of them scores" in found.got
    assert weakness(task, answers(labels, 0.8, 2), judged) is None


def test_a_model_that_always_says_the_same_is_no_baseline():
    task = classifier()
    judged = examples(task, [0] * 60 + [1] * 40)
    found = weakness(task, [0] * 100, judged)
    assert found.sure and "'negative' to all of them scores 60.00" in found.got


def test_few_or_equal_labels_tell_nothing_and_do_not_stop():
    task = classifier()
    for labels in ([0, 1, 1], [1], [1] * 40):
        found = weakness(task, list(labels), examples(task, labels))
        assert not found.sure and "cannot tell" in found.what
    wrong = weakness(task, [0] * 40, examples(task, [1] * 40))  # but this they tell
    assert wrong.sure


def test_one_label_alone_tells_nothing_though_the_model_misses_some():
    task = classifier()
    found = weakness(task, [0] * 196 + [1] * 4, examples(task, [0] * 200))
    assert found is not None and not found.sure and "more than one label" in found.next_step


def test_guesses_are_no_good_model_though_all_labels_are_one():
    task = classifier()
    found = weakness(task, [0, 1] * 96 + [0] * 8, examples(task, [0] * 200))  # 52 % of them
    assert found.sure and "'negative' to all of them scores 100.00" in found.got
    few = weakness(task, [0, 0, 0, 1], examples(task, [0] * 4))
    assert few is not None and not few.sure


def test_a_metric_that_is_not_defined_is_no_weakness():
    task = classifier(metric="matthews")
    assert weakness(task, [0, 1] * 20, examples(task, [1] * 40)) is None


def test_rare_labels_that_are_confused_are_no_other_order():
    """Two labels in a hundred are answered the wrong way round; the others are right."""
    labels = np.r_[np.zeros(480, int), [1] * 10, [2] * 10]
    predicted = np.r_[np.zeros(480, int), [2] * 10, [1] * 10]
    task = classifier(NLI)
    assert another_order(task, predicted.tolist(), examples(task, labels.tolist())) is None


@pytest.mark.parametrize("metric", ["spearman", "pearson"])
def test_numbers_that_run_the_other_way_are_named(metric):
    task = classifier(["score"], metric=metric)
    labels = RNG.normal(size=80)
    judged = examples(task, labels.tolist())
    noisy = labels + RNG.normal(size=80) / 2
    assert weakness(task, noisy.tolist(), judged) is None
    found = weakness(task, (-noisy).tolist(), judged)
    assert found.sure and "run against the labels" in found.what
    guesses = RNG.normal(size=80)
    guesses *= -np.sign(task.metric(guesses.tolist(), judged))  # at chance, and not above it
    unrelated = weakness(task, guesses.tolist(), judged)
    assert unrelated.sure and "not better than a constant" in unrelated.what


def test_tags_have_a_chance_of_their_own():
    names = ["O", "B-X", "I-X", "B-Y", "I-Y"]
    task = task_class("token-classification")(
        None, num_labels=5, id2label=dict(enumerate(names)), metric="accuracy"
    )
    tags = [[0, 0, 0, 0, 1, 2, 0, 3], [0, 3, 4, 0, 0, 0, 0, 1]] * 20
    judged = task.examples([{"tokens": ["w"] * 8, "ner_tags": t} for t in tags])
    assert weakness(task, tags, judged) is None
    outside = weakness(task, [[0] * 8] * 40, judged)
    assert outside.sure and "'O' to all of them scores" in outside.got
    swapped = [[{0: 0, 1: 3, 2: 4, 3: 1, 4: 2}[t] for t in row] for row in tags]
    order = weakness(task, swapped, judged)
    assert "another order" in order.what and "--labels 0,3,4,1,2" in order.next_step
    assert "words are answered rightly" in order.got
    entities = task_class("token-classification")(
        None, num_labels=5, id2label=dict(enumerate(names))
    )
    assert weakness(entities, [[0] * 8] * 40, judged).sure  # F1 0


def test_questions_have_a_chance_of_their_own():
    task = task_class("question-answering")(None, num_labels=2, id2label={0: "a", 1: "b"})
    label = {"text": ["cat"], "answer_start": [4]}
    judged = [Example({"question": f"q{i}", "context": "the cat"}, label) for i in range(30)]
    assert weakness(task, ["the cat"] * 30, judged) is None
    assert weakness(task, ["dog"] * 30, judged).sure
    none = [Example({"question": f"n{i}", "context": "c"}, {"text": []}) for i in range(30)]
    assert weakness(task, [""] * 60, [*judged, *none]).sure  # half of the questions have no answer


def test_a_task_without_a_constant_answer_is_left_alone():
    from rfx.tasks.base import Task

    class Odd(type(classifier())):
        constant = Task.constant
        classes = Task.classes

    task = Odd(None, num_labels=2, id2label={0: "a", 1: "b"})
    assert weakness(task, [0] * 20, examples(task, [0, 1] * 10)) is None


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro", "matthews"])
def test_a_model_above_a_constant_answer_is_warned_of_and_not_stopped(metric):
    """92.0 % against 90.0 %: of 1,000 examples no proof, and yet not "no better"."""
    labels = np.r_[np.zeros(900, int), np.ones(100, int)]
    predicted = labels.copy()
    predicted[:70], predicted[-10:] = 1, 0
    task = classifier(metric=metric)
    judged = examples(task, labels.tolist())
    found = weakness(task, predicted.tolist(), judged)
    if found is not None:  # by other metrics it is clearly better
        assert not found.sure and "not better" not in found.what
        assert "92.00" in found.got and "90.00" in found.got
    assert (found is None) == (metric != "accuracy")
    predicted[:120] = 1  # 87.0 %
    assert classifier().metric(predicted.tolist(), judged) < 0.9
    assert metric != "accuracy" or weakness(task, predicted.tolist(), judged).sure


def test_macro_f1_at_chance_is_said_by_the_number_that_shows_it():
    task = classifier(metric="f1_macro")
    judged = examples(task, [0] * 280 + [1] * 120)
    found = weakness(task, [0, 1] * 200, judged)
    assert "By the Matthews correlation" in found.what and "correlation is 0.00" in found.got


@pytest.mark.parametrize(("classes", "each"), [(500, 1), (100, 3), (40, 5)])
def test_many_labels_are_not_taken_for_another_order(classes, each):
    """The best of all orders always fits better than the given one, where labels are many."""
    task = classifier([f"c{i}" for i in range(classes)])
    labels = np.tile(np.arange(classes), each)
    judged = examples(task, labels.tolist())
    for seed in range(8):
        assert another_order(task, answers(labels, 0.7, classes, seed), judged) is None
        assert another_order(task, answers(labels, 0.0, classes, seed), judged) is None


def test_many_labels_in_another_order_are_still_found():
    task = classifier([f"c{i}" for i in range(40)])
    theirs = np.tile(np.arange(40), 6)
    order = np.roll(np.arange(40), 7)
    found = another_order(task, answers(order[theirs], 0.8, 40), examples(task, theirs.tolist()))
    mended = [str(i) for i in np.argsort(order)]
    assert f"--labels {','.join(mended)}" in found.next_step


@pytest.mark.parametrize(
    ("names", "step"),
    [
        (["very bad", "good"], "add --labels 'good,very bad'"),
        (["bad, very", "good"], 'set labels under data in a recipe: ["good", "bad, very"]'),
        (["it's bad", "good"], """add --labels 'good,it'"'"'s bad'"""),
    ],
)
def test_the_order_that_mends_can_be_pasted_whatever_the_names(names, step):
    labels = RNG.integers(0, 2, 60)
    task = classifier(names)
    found = weakness(task, answers(1 - labels, 0.9, 2), examples(task, np.array(names)[labels]))
    assert step in found.next_step
    if "--labels" in step:  # what a shell makes of it names the labels
        given = shlex.split(found.next_step.split("--labels ")[1].split("; ")[0])[0]
        assert sorted(given.split(",")) == sorted(names)


def test_labels_that_two_files_write_differently_have_to_be_written_alike_first():
    """--labels holds for both files: none names the numbers of one and the names of the other."""
    labels = RNG.integers(0, 2, 60)
    task = classifier(["neg", "pos"])
    examples(task, labels.tolist())
    judged = examples(task, np.array(["neg", "pos"])[labels].tolist())
    found = weakness(task, answers(1 - labels, 0.9, 2), judged)
    assert found.sure and "numbers in one and names in the other" in found.next_step
    assert "add --labels" not in found.next_step


@pytest.mark.parametrize(("count", "rare", "right"), [(100, 2, 0.7), (200, 2, 0.7), (50, 1, 0.8)])
def test_a_model_below_a_constant_answer_is_none_though_one_label_is_rare(count, rare, right):
    """So few of a label cannot show that a perfect model is better than a constant answer; that
    this one is worse, they do."""
    labels = np.array([0] * rare + [1] * (count - rare))
    task = classifier()
    found = weakness(task, answers(labels, 2 * right - 1, 2), examples(task, labels.tolist()))
    assert found is not None and found.sure and "not better than a constant answer" in found.what
    constant = weakness(task, [1] * count, examples(task, labels.tolist()))
    assert constant.sure
    assert weakness(task, labels.tolist(), examples(task, labels.tolist())) is None or not (
        weakness(task, labels.tolist(), examples(task, labels.tolist())).sure
    )
