"""A model of several labels a text goes from the checkpoint to the engine, and is judged as one."""

import json

import pytest
import torch
import transformers

from tests.commands import run
from tests.conftest import PLAIN, made_once, sentences, tokenizer, write_jsonl

LABELS = ("good", "long", "first")


def labelled(row):
    words = row["text"].split()
    there = (row["label"] == 1, len(words) > 6, PLAIN[0] in words)
    return {"text": row["text"], "labels": [n for n, t in zip(LABELS, there) if t]}


@pytest.fixture(scope="session")
def several(tmp_path_factory):
    """A tiny BERT trained to three labels, with its files."""

    def make(folder):
        files = {"train": sentences(600, 0), "eval": sentences(300, 1)}
        for name, rows in files.items():
            write_jsonl(folder / f"{name}.jsonl", [labelled(r) for r in rows])
        (folder / "model").mkdir()
        words = tokenizer(folder / "model")
        torch.manual_seed(0)
        model = transformers.BertForSequenceClassification(
            transformers.BertConfig(
                vocab_size=len(words),
                hidden_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=128,
                max_position_embeddings=64,
                problem_type="multi_label_classification",
                id2label=dict(enumerate(LABELS)),
                label2id={n: i for i, n in enumerate(LABELS)},
            )
        )
        optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
        rows = [labelled(r) for r in files["train"]]
        for step in range(120):
            part = rows[step * 32 % 576 :][:32]
            inputs = words([r["text"] for r in part], padding=True, return_tensors="pt")
            targets = torch.tensor([[float(n in r["labels"]) for n in LABELS] for r in part])
            loss = model(**inputs, labels=targets).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.save_pretrained(folder / "model")
        words.save_pretrained(folder / "model")

    return made_once(tmp_path_factory, "several", make)


@pytest.mark.parametrize("metric", ["f1_micro", "map"])
def test_several_labels_a_text_are_pruned_and_judged(several, tmp_path, cache, metric):
    done = run(
        *("prune-export", several / "model", "--train", several / "train.jsonl"),
        *("--eval", several / "eval.jsonl", "--target", "ort", "--sequence", "16"),
        *("--flops", "0.6", "--metric", metric, "--max-drop", "20", "--out", tmp_path / "out"),
        "--json",
    )
    assert done.exit_code in (0, 1, 7), done.output + str(done.exception)
    said = json.loads(done.stdout)
    outcomes = {g["name"]: g["outcome"] for g in said["gates"]}
    assert outcomes["shrunk"] == outcomes["same"] == outcomes["accuracy"] == "pass", said["gates"]
    accuracy = said["accuracy"]
    assert accuracy["metric"] == metric and accuracy["dense"] > 0.8 > accuracy["chance"]
    assert 0 < accuracy["divergence"] < 1 and accuracy["agreement"] > 0.8
    assert said["recipe"]["task"] == "text-classification"
    again = run("verify", tmp_path / "out", "--json")
    assert again.exit_code in (0, 1, 7), again.output
    assert json.loads(again.stdout)["accuracy"]["pruned"] == pytest.approx(accuracy["pruned"])


def test_data_of_another_kind_are_refused_before_the_work(several, trained, tmp_path, cache):
    done = run(
        *("plan", trained["model"], "--train", several / "train.jsonl"),
        *("--eval", several / "eval.jsonl", "--target", "ort", "--flops", "0.6"),
    )
    assert done.exit_code in (2, 5) and "problem_type" in done.output, done.output
