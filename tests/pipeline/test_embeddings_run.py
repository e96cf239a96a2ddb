"""A sentence encoder goes from its folder to a file that servers of embeddings load."""

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import rfx
from tests.commands import run
from tests.conftest import made_once, tokenizer, write_jsonl
from tests.sentence import encoder, pairs, queries, sentence_folder


@pytest.fixture(scope="session")
def sentences_folder(tmp_path_factory):
    def make(folder):
        sentence_folder(folder, "mean")
        write_jsonl(folder / "texts.jsonl", [{"text": r["sentence1"]} for r in pairs(200, 0)])
        write_jsonl(folder / "pairs.jsonl", pairs(150, 1))
        write_jsonl(folder / "queries.jsonl", queries(60, 2))

    return made_once(tmp_path_factory, "sentences", make)


@pytest.mark.parametrize("metric", ["spearman", "ndcg@10"])
def test_a_sentence_encoder_is_pruned_and_judged(sentences_folder, tmp_path, cache, metric):
    data = sentences_folder / ("pairs.jsonl" if metric == "spearman" else "queries.jsonl")
    done = run(
        *("prune-export", sentences_folder / "model", "--train", sentences_folder / "texts.jsonl"),
        *("--eval", data, "--target", "ort", "--sequence", "16", "--flops", "0.6"),
        *("--metric", metric, "--max-drop", "30", "--out", tmp_path / "out", "--json"),
    )
    assert done.exit_code in (0, 1, 7), done.output + str(done.exception)
    said = json.loads(done.stdout)
    outcomes = {g["name"]: g["outcome"] for g in said["gates"]}
    assert outcomes["shrunk"] == outcomes["same"] == "pass", said["gates"]
    accuracy = said["accuracy"]
    assert accuracy["metric"] == metric and accuracy["dense"] > 0.3
    assert accuracy["divergence_kind"] == "cosine distance" and 0 < accuracy["divergence"] < 0.2
    assert said["recipe"]["task"] == "embeddings" and said["recipe"]["max_length"] == 40
    out = tmp_path / "out"
    # One file under two names, where sentence-transformers looks for it.
    one, two = out / "model.onnx", out / "model" / "onnx" / "model.onnx"
    assert one.read_bytes() == two.read_bytes()
    graph = onnx.load(str(one)).graph
    assert [o.name for o in graph.output] == ["last_hidden_state", "sentence_embedding"]
    small = rfx.load(out)
    ids = np.array([[2, 7, 9, 3, 0, 0], [2, 7, 9, 11, 12, 3]])
    mask = (ids != 0).astype(np.int64)
    session = ort.InferenceSession(str(two), providers=["CPUExecutionProvider"])
    fed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * ids}
    tokens, vectors = session.run(None, {i.name: fed[i.name] for i in session.get_inputs()})
    import torch

    with torch.no_grad():
        own = small(**{n: torch.from_numpy(a) for n, a in fed.items()})
    assert np.abs(own.sentence_embedding.numpy() - vectors).max() < 1e-5
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert tokens.shape == (2, 6, 32)
    if metric == "spearman":
        again = run("verify", out, "--json")
        assert again.exit_code in (0, 1, 7), again.output
        after = json.loads(again.stdout)["accuracy"]
        assert after["pruned"] == pytest.approx(accuracy["pruned"], abs=1e-6)


def test_a_plain_encoder_with_a_pooling_in_int8(sentences_folder, tmp_path, cache):
    model = encoder(tmp_path / "plain", hidden_size=64, intermediate_size=128)
    given = (
        *("--train", sentences_folder / "texts.jsonl"),
        *("--eval", sentences_folder / "pairs.jsonl", "--target", "ort", "--sequence", "16"),
    )
    done = run(
        *("prune-export", model, *given, "--pooling", "mean", "--precision", "int8"),
        *("--flops", "0.7", "--out", tmp_path / "out", "--json"),
    )
    assert done.exit_code in (0, 1, 7), done.output + str(done.exception)
    said = json.loads(done.stdout)
    outcomes = {g["name"]: g["outcome"] for g in said["gates"]}
    assert outcomes["shrunk"] == outcomes["same"] == "pass", said["gates"]
    assert said["quantization"]["products"] and said["accuracy"]["divergence"] < 0.3
    assert json.loads((tmp_path / "out/model/modules.json").read_text())[1]["path"] == "1_Pooling"
    # The file has no pooler of its own, and its output none either.
    assert rfx.load(tmp_path / "out").pooler is None
    again = run("verify", tmp_path / "out", "--json")
    assert again.exit_code in (0, 1, 7), again.output


def test_the_same_in_python(sentences_folder):
    subject = rfx.load_model(sentences_folder / "model")
    files = {"train": sentences_folder / "texts.jsonl", "eval": sentences_folder / "queries.jsonl"}
    examples = rfx.load_examples(subject, **files, metric="ndcg@10", count=64)
    assert examples.task.name == "embeddings" and examples.task.max_length == 40
    scores = rfx.score(subject, examples)
    assert set(scores.importance) == {s.name for s in subject.sites}


def test_prompts_are_given_as_they_are_written(sentences_folder, tmp_path, cache):
    done = run(
        *("prune-export", sentences_folder / "model", "--train", sentences_folder / "texts.jsonl"),
        *("--eval", sentences_folder / "queries.jsonl", "--target", "ort", "--sequence", "16"),
        *("--metric", "mrr@10", "--flops", "0.8", "--task-option", "query_prompt=good: "),
        *("--column", "text_pair=other", "--out", tmp_path / "out", "--json"),
    )
    assert done.exit_code in (0, 1, 7), done.output + str(done.exception)
    assert json.loads(done.stdout)["recipe"]["task_options"] == {"query_prompt": "good: "}
    said = json.loads((tmp_path / "out/model/config_sentence_transformers.json").read_text())
    assert said["prompts"]["query"] == "good: "


@pytest.mark.slow
def test_sentence_transformers_loads_the_folder(sentences_folder, tmp_path, cache):
    """With its own backend for ONNX, which needs Optimum."""
    pytest.importorskip("optimum.onnxruntime")
    from sentence_transformers import SentenceTransformer

    done = run(
        *("prune-export", sentences_folder / "model", "--train", sentences_folder / "texts.jsonl"),
        *("--eval", sentences_folder / "pairs.jsonl", "--target", "ort", "--flops", "0.6"),
        *("--out", tmp_path / "out"),
    )
    assert done.exit_code in (0, 1, 7), done.output
    served = SentenceTransformer(str(tmp_path / "out/model"), backend="onnx")
    texts = ["good film", "a sad story with a dark plot"]
    vectors = served.encode(texts)
    words = served.tokenizer(texts, padding=True, return_tensors="np")
    session = ort.InferenceSession(str(tmp_path / "out/model.onnx"))
    fed = {i.name: words[i.name].astype(np.int64) for i in session.get_inputs()}
    assert np.abs(session.run(["sentence_embedding"], fed)[0] - vectors).max() < 1e-5


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--task", "embeddings"), "Nothing says how"),
        (("--task", "text-classification", "--pooling", "mean"), "takes no pooling"),
        (("--pooling", "middle"), "middle"),
        (("--pooling", "mean", "--labels", "a,b"), "no classes"),
        (("--pooling", "mean", "--metric", "accuracy"), "no such metric"),
    ],
)
def test_what_does_not_go_together_is_refused(sentences_folder, tmp_path, cache, more, said):
    model = encoder(tmp_path / "plain")
    done = run(
        *("plan", model, "--train", sentences_folder / "texts.jsonl"),
        *("--eval", sentences_folder / "pairs.jsonl", "--target", "ort", "--flops", "0.6", *more),
    )
    assert done.exit_code == 2 and said in done.output.replace("\n", " "), done.output


def test_a_reranker_is_pruned_and_judged_by_its_order(tmp_path, cache):
    from tests.families import make

    words = tokenizer(tmp_path)
    model = make("bert", num_labels=1, vocab_size=len(words))
    model.save_pretrained(tmp_path / "model")
    words.save_pretrained(tmp_path / "model")
    rows = queries(40, 0)
    asked = [r["query"] for r in rows if r["query"]]
    more = [
        {"query": q, "document": rows[(i * 7 + k) % len(rows)]["document"], "label": 0}
        for i, q in enumerate(asked)
        for k in range(1, 5)
    ]
    judged = [r for r in rows if r["query"]] + more
    train = [
        {"query": r["query"], "document": s["document"]}
        for r, s in zip(queries(60, 5)[:60], queries(60, 6))
    ]
    files = write_jsonl(tmp_path / "t.jsonl", train), write_jsonl(tmp_path / "e.jsonl", judged)
    done = run(
        *("prune-export", tmp_path / "model", "--task", "reranking", "--train", files[0]),
        *("--eval", files[1], "--target", "ort", "--sequence", "16", "--flops", "0.6"),
        *("--out", tmp_path / "out", "--json"),
    )
    assert done.exit_code in (0, 1, 7), done.output + str(done.exception)
    said = json.loads(done.stdout)
    outcomes = {g["name"]: g["outcome"] for g in said["gates"]}
    assert outcomes["shrunk"] == outcomes["same"] == "pass", said["gates"]
    assert said["accuracy"]["metric"] == "ndcg@10" and 0 < said["accuracy"]["dense"] < 1
    assert said["recipe"]["workload"]["batch"] == 5  # a query with its passages
    assert said["accuracy"]["divergence_kind"] == "squared difference"
    assert not (tmp_path / "out/model/onnx").exists()
