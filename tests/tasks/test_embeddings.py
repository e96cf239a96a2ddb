"""Embeddings: data in every form, cosines and ranks, metrics beside scikit-learn."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score

from rfx.core.errors import UsageError
from rfx.methods.scores.divergence import divergence, outputs_divergence
from rfx.methods.scores.predictive import Signs, fisher_probe, knowledge_probe, residual_probe
from rfx.tasks.base import Task
from rfx.tasks.calibration import drop_near_copies, drop_overlap, overlap
from rfx.tasks.embeddings import EMBEDDING, Embeddings
from rfx.tasks.examples import Source, read_examples
from rfx.tasks.find import sentence_task, task_class, task_of
from rfx.tasks.retrieval import METRICS, of_queries, ranks_of
from tests.conftest import tokenizer as make_tokenizer
from tests.conftest import write_jsonl
from tests.sentence import pairs, queries

SEARCH = tuple(METRICS)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("words"))


def task(tokenizer, **more):
    return Embeddings(tokenizer, num_labels=2, id2label={0: "a", 1: "b"}, **more)


def test_it_is_found_by_what_a_model_is():
    assert sentence_task() == "embeddings" and task_class("embeddings") is Embeddings
    # An encoder alone may be anything's.
    assert task_of("BertModel") == "text-classification"
    assert Embeddings.graph_outputs() == ("last_hidden_state", EMBEDDING)


def test_calibration_takes_every_text_once(tokenizer):
    made = task(tokenizer)
    rows = [{"text": "good", "text_pair": "bad"}, {"text": "bad", "text_pair": "good"}]
    found = made.examples(rows, need_labels=False)
    assert [e.inputs["texts"][0][0] for e in found] == ["good", "bad"]
    assert all(e.label is None for e in found)
    found = made.examples([{"query": "good", "document": "fine"}], need_labels=False)
    assert [e.inputs["texts"][0] for e in found] == [("good", "query"), ("fine", "document")]
    found = made.examples([{"text": "a"}, {"text": "b"}], need_labels=False)
    assert len(found) == 2 and len(made.encode(found)) == 2
    assert made.targets(made.encode(found)) == {}


def test_pairs_are_compared_by_their_cosine(tokenizer):
    made = task(tokenizer)
    rows = [
        {"sentence1": "good", "sentence2": "bad", "score": 4.5},
        {"sentence1": "bad", "sentence2": "fine", "score": "1"},
        {"sentence1": "fine", "sentence2": "fine", "score": 5},
    ]
    examples = made.examples(rows)
    assert [e.label for e in examples] == [4.5, 1.0, 5.0]
    features = made.encode(examples)
    assert len(features) == 3  # every text once
    vectors = [np.asarray(v) for v in ([2.0, 0.0], [3.0, 4.0], [0.0, 0.5])]
    found = made.predict({EMBEDDING: vectors}, features, examples)
    assert found == pytest.approx([0.6, 0.8, 1.0])
    assert made.metric(found, examples) == pytest.approx(0.5)  # Spearman of 2, 1, 3
    assert made.metric(made.perfect(examples), examples) == pytest.approx(1.0)
    assert made.constant(examples).predictions == [0.0] * 3
    assert made.agreement(found, found).share == 1.0
    assert made.one_label([1.0, 2.0]) == 1.5


def test_queries_are_judged_by_where_their_documents_stand(tokenizer):
    made = task(tokenizer, metric="ndcg@10")
    rows = [
        {"query": "good", "document": "fine", "label": 2},
        {"query": "good", "document": "bad", "label": 0},
        {"query": "good", "document": "dark", "label": 1},
        {"query": "sad", "document": "dark"},
        {"query": "", "document": "plot"},
    ]
    examples = made.examples(rows)
    assert [e.label for e in examples] == [(2.0, 0.0, 1.0, 0.0), (1.0,)]
    features = made.encode(examples)
    assert [f.extra["role"] for f in features] == ["query"] + ["document"] * 4 + ["query"]
    assert [f.example for f in features] == [0, 0, 0, 0, 0, 1]
    #          good         fine         bad         dark        plot        sad
    vectors = [[1.0, 0.0], [0.9, 0.1], [1.0, 0.1], [0.1, 1.0], [0.5, 0.5], [0.0, 1.0]]
    found = made.predict({EMBEDDING: [np.asarray(v) for v in vectors]}, features, examples)
    assert found == [(1, 2, 4), (2, 1)]  # the best document, and the ranks of those that answer
    first = (2 / math.log2(3) + 1 / math.log2(5)) / (2 + 1 / math.log2(3))
    assert made.metric(found, examples) == pytest.approx((first + 1) / 2)
    assert made.metric(made.perfect(examples), examples) == pytest.approx(1.0)
    assert made.constant(examples) is None and made.answers(found) == [1, 2]
    assert made.one_label([(1.0,), (0.0,)]) is None


@pytest.mark.parametrize("metric", SEARCH)
def test_metrics_of_search_are_the_usual_ones(tokenizer, metric):
    rng = np.random.default_rng(0)
    scores = np.round(rng.random((40, 60)), 2)
    grades = rng.choice([0, 0, 0, 0, 1, 2, 3], (40, 60))
    grades[:, 0] = np.maximum(grades[:, 0], 1)
    scores += rng.permutation(60) * 1e-9  # no two are equal
    ranks, own = [], []
    for s, g in zip(scores, grades):
        relevant = np.flatnonzero(g).tolist()
        ranks.append(ranks_of(s, relevant))
        own.append([float(g[d]) for d in relevant])
    found = of_queries(metric, ranks, own)
    order = np.argsort(-scores, axis=1)
    top = np.take_along_axis(grades, order, 1)[:, :10] > 0
    wanted = {
        "ndcg@10": np.array([ndcg_score([g], [s], k=10) for g, s in zip(grades, scores)]),
        "recall@10": top.sum(1) / (grades > 0).sum(1),
        "mrr@10": np.where(top.any(1), 1 / (1 + top.argmax(1)), 0.0),
    }[metric]
    assert found == pytest.approx(wanted)
    # Documents that are not told apart, and scores that are no numbers, have the last place.
    assert ranks_of(np.zeros(3), [0, 2]) == [3, 3]
    assert ranks_of(np.array([0.5, math.nan, 0.5, 0.1]), [0, 1, 3]) == [3, 4, 4]


@pytest.mark.parametrize("metric", ["spearman", "pearson", *SEARCH])
def test_the_bootstrap_is_that_of_the_base_class(tokenizer, metric):
    made = task(tokenizer, metric=metric)
    rows = queries(30, 0) if metric in SEARCH else pairs(30, 0)
    examples = made.examples(rows)
    rng = np.random.default_rng(1)
    one, other = (
        [(0, *rng.integers(1, 20, sum(g > 0 for g in e.label)).tolist()) for e in examples]
        if metric in SEARCH
        else rng.random(30).tolist()
        for _ in range(2)
    )
    fast = made.bootstrap(one, other, examples, resamples=20, seed=3)
    slow = Task.bootstrap(made, one, other, examples, resamples=20, seed=3)
    assert fast == pytest.approx(slow)


def test_prompts_and_case_are_what_the_model_says(tokenizer):
    said = {
        "prompts": {"query": "the ", "passage": "a ", "sts": "very "},
        "default_prompt": "sts",
        "lower_case": True,
    }
    options = Embeddings.options_of(SimpleNamespace(sentence=said))
    assert options == {
        "prompt": "very ",
        "query_prompt": "the ",
        "document_prompt": "a ",
        "lower_case": True,
    }
    made = task(tokenizer, **options)
    words = [made._written("GOOD", role) for role in ("text", "query", "document")]
    assert words == ["very good", "the good", "a good"]
    assert set(made.fixed_texts()) == {"very ", "the ", "a "}
    assert task(tokenizer)._written(" Good ", "query") == "Good"
    bare = Embeddings.options_of(SimpleNamespace())
    assert bare == {"lower_case": False, "query_prompt": "", "document_prompt": ""}
    # An empty prompt of the model's own for queries comes before its prompt for every text.
    said["prompts"] = {"query": "", "document": "", "sts": "very "}
    assert Embeddings.options_of(SimpleNamespace(sentence=said))["query_prompt"] == ""


def test_programs_that_serve_the_model_are_told_how_its_texts_are_written(tokenizer):
    config = SimpleNamespace(sentence={"prompts": {"query": "old "}, "default_prompt": None})
    task(tokenizer, query_prompt="new ", prompt="very ", max_length=32).note_in(config)
    assert config.sentence["prompts"] == {"query": "new ", "text": "very "}
    assert config.sentence["default_prompt"] == "text" and config.sentence["max_length"] == 32
    task(tokenizer).note_in(config)  # a prompt that is switched off
    assert config.sentence["prompts"]["query"] == "" and config.sentence["default_prompt"] is None
    task(tokenizer).note_in(SimpleNamespace())


@pytest.mark.parametrize(
    ("rows", "metric", "said"),
    [
        ([{"text": "a", "score": 1}], "spearman", "no second text"),
        ([{"query": "a", "document": "b", "text": "c"}], "spearman", "--metric ndcg@10"),
        ([{"query": "a", "document": "b"}], "spearman", "--metric ndcg@10"),
        ([{"text": "a", "text_pair": "b"}], "spearman", "label"),
        ([{"text": "a", "text_pair": "b", "score": "high"}], "spearman", "row 1 is not a number"),
        (
            [{"text": "a", "text_pair": "b", "score": math.inf}],
            "spearman",
            "too large|not a number",
        ),
        ([{"text": "a", "text_pair": "b", "score": None}], "spearman", "Row 1 has no label"),
        ([{"text": "a", "text_pair": "b"}], "ndcg@10", "query"),
        ([{"query": "a", "document": "b", "label": -1}], "ndcg@10", "grade of row 1 is below 0"),
        ([{"query": "a", "document": "b", "label": 0}], "mrr@10", "No document answers"),
        ([{"query": "", "document": "b"}], "recall@10", "no query among"),
        ([{"query": "a", "document": None}], "ndcg@10", "Row 1 has no 'document'"),
        ([{"query": "a", "document": ["b"]}], "ndcg@10", "is a list, not a text"),
    ],
)
def test_data_that_cannot_judge_are_refused(tokenizer, rows, metric, said):
    with pytest.raises(UsageError) as refused:
        task(tokenizer, metric=metric).examples(rows)
    assert any(part in str(refused.value) for part in said.split("|")), str(refused.value)
    assert refused.value.next_step


def test_labels_and_other_metrics_are_refused(tokenizer):
    with pytest.raises(UsageError, match="no classes"):
        task(tokenizer, label_names=["a", "b"])
    with pytest.raises(UsageError, match="no such metric"):
        task(tokenizer, metric="accuracy")
    with pytest.raises(UsageError, match="no loss of labels"):
        task(tokenizer).losses(None, {})


def test_no_text_of_the_evaluation_is_calibrated_on(tokenizer, tmp_path):
    made = task(tokenizer)
    judged = made.examples([{"text": "good film", "text_pair": "bad plot", "score": 1}])
    texts = ["good film", "BAD  plot!", "fine", "bad plot"]
    training = made.examples([{"text": t} for t in texts], need_labels=False)
    assert overlap(training, judged) == 1
    left, dropped = drop_overlap(training, judged)
    assert dropped == 2 and [e.inputs["texts"][0][0] for e in left] == ["BAD  plot!", "fine"]
    left, near = drop_near_copies(left, judged)
    assert near == 1 and [e.inputs["texts"][0][0] for e in left] == ["fine"]
    # A training file of single texts goes with an evaluation file of pairs.
    train = write_jsonl(tmp_path / "t.jsonl", [{"text": r["sentence1"]} for r in pairs(40, 5)])
    ev = write_jsonl(tmp_path / "e.jsonl", pairs(20, 6))
    found = read_examples(made, train=Source(str(train)), evaluation=Source(str(ev)), count=16)
    assert len(found.calibration_features) == 16 and len(found.evaluation) == 20
    assert len(found.evaluation_features) == 40 and found.overlap == 0 and not found.labelled


NAMES = Embeddings.output_names


def test_the_divergence_is_one_minus_the_cosine():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, 7))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    found = divergence({EMBEDDING: torch.tensor(a)}, {EMBEDDING: torch.tensor(b)}, {}, NAMES)
    assert found.numpy() == pytest.approx(1 - cosine, abs=1e-6)
    # As engines give it; the length of a vector says nothing.
    mean = outputs_divergence({EMBEDDING: list(a)}, {EMBEDDING: list(3 * b)}, NAMES)
    assert mean == pytest.approx(float(np.mean(1 - cosine)), abs=1e-6)


def test_the_probes_are_the_curvature_of_the_divergence():
    """E[g g^T] over random signs is the second derivative of one minus the cosine."""
    torch.manual_seed(0)
    z = torch.randn(1, 4, dtype=torch.float64)

    def cost(y):
        return divergence({EMBEDDING: z}, {EMBEDDING: y[None]}, {}, NAMES).sum()

    u = z / z.norm()
    wanted = (torch.eye(4, dtype=torch.float64) - u.T @ u) / z.norm() ** 2
    found = torch.zeros(4, 4, dtype=torch.float64)
    draws = 4000
    for seed in range(draws):
        y = z.clone().requires_grad_(True)
        out = SimpleNamespace(**{EMBEDDING: y})
        g = torch.autograd.grad(fisher_probe(out, {}, NAMES, Signs(seed)).sum(), y)[0]
        found += g.T @ g / draws
    assert torch.allclose(found, wanted, atol=0.05 * float(wanted.abs().max()))
    small = torch.tensor([1e-3, -2e-3, 1e-3, 5e-4], dtype=torch.float64)
    assert float(cost(z[0] + small)) == pytest.approx(float(small @ wanted @ small / 2), rel=1e-2)


def test_a_teacher_pulls_the_probe_to_where_it_points():
    torch.manual_seed(1)
    z, w = torch.randn(2, 3, 6)
    out = SimpleNamespace(**{EMBEDDING: z.clone().requires_grad_(True)})
    same = knowledge_probe(out, {}, NAMES, Signs(0), {EMBEDDING: z}, 2.0)
    assert torch.allclose(same, fisher_probe(out, {}, NAMES, Signs(0)), atol=1e-5)
    other = knowledge_probe(out, {}, NAMES, Signs(0), {EMBEDDING: w}, 2.0)
    assert not torch.allclose(other, same)
    total, goal = residual_probe(out, {}, NAMES, Signs(0), {EMBEDDING: z}, 2.0)
    assert total.shape == goal.shape == (3,) and torch.allclose(goal, torch.zeros(3), atol=1e-6)
