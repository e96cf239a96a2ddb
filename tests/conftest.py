"""Small real things that many tests share. Nothing here needs a hub, a GPU or the network."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

GOOD = ["good", "great", "fine", "lovely", "bright", "warm", "happy", "fresh"]
BAD = ["bad", "awful", "poor", "ugly", "dark", "cold", "sad", "stale"]
PLAIN = [
    "the",
    "a",
    "film",
    "plot",
    "actor",
    "scene",
    "was",
    "is",
    "with",
    "and",
    "very",
    "quite",
    "story",
    "sound",
    "camera",
]


def sentences(n: int, seed: int) -> list[dict]:
    """Sentences whose label is whether good words outnumber bad ones: learnable by a tiny model in
    seconds."""
    rng = random.Random(seed)
    rows, seen = [], set()
    while len(rows) < n:
        label = rng.randrange(2)
        strong, weak = (GOOD, BAD) if label else (BAD, GOOD)
        words = (
            rng.choices(PLAIN, k=rng.randint(3, 9))
            + rng.choices(strong, k=3)
            + rng.choices(weak, k=rng.randint(0, 1))
        )
        rng.shuffle(words)
        text = " ".join(words)
        if text not in seen:
            seen.add(text)
            rows.append({"text": text, "label": label})
    return rows


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def tokenizer(folder: Path):
    """A word-level BERT tokenizer of the words above."""
    from transformers import BertTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *PLAIN]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    return BertTokenizerFast(vocab=str(folder / "vocab.txt"))


@pytest.fixture
def forgets():
    """Whatever a test registers is forgotten after it. Parts of rfx itself stay: their modules are
    imported once, so they would not register again."""
    from rfx.core import registry

    before = set(registry._registered)
    yield
    for key, part in list(registry._registered.items()):
        if key not in before and str(part.__module__).split(".")[0] != "rfx":
            del registry._registered[key]


LONGEST_FIRST = ("test_readme.py", "test_prune_export.py", "test_interrupt.py", "test_board.py")


def pytest_collection_modifyitems(items) -> None:
    """A test of minutes that starts last keeps one process busy while the other has nothing left to
    do."""
    rank = {name: i for i, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))  # stable


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> dict[str, Path]:
    """A tiny BERT (3 x 64, 4 heads, 128 filters) trained to about 95 % here and now, with its train
    and eval files."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("trained")
    train = write_jsonl(folder / "train.jsonl", sentences(600, 0))
    known = {r["text"] for r in sentences(600, 0)}
    evaluation = write_jsonl(
        folder / "eval.jsonl", [r for r in sentences(420, 1) if r["text"] not in known][:400]
    )
    tok = tokenizer(folder)
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=len(tok),
            hidden_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=64,
        )
    )
    rows = sentences(600, 0)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for epoch in range(4):
        order = list(range(len(rows)))
        random.Random(epoch).shuffle(order)
        for i in range(0, len(order), 32):
            part = [rows[j] for j in order[i : i + 32]]
            inputs = tok([r["text"] for r in part], padding=True, return_tensors="pt")
            loss = model(**inputs, labels=torch.tensor([r["label"] for r in part])).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval().save_pretrained(folder / "model")
    tok.save_pretrained(folder / "model")
    return {"model": folder / "model", "train": train, "eval": evaluation}


@pytest.fixture(autouse=True, scope="session")
def short_measurements():
    """The tests' models take well under a millisecond: a second holds a thousand rounds of them. A
    tiny model's table is
    all noise, and one that fails its check is measured twice: tests of that set a limit of their
    own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rfx.pipeline.judge.FINAL_SECONDS", 1.0)
        patch.setattr("rfx.pipeline.loop.ROUND_SECONDS", 0.5)
        patch.setattr("rfx.cost.effort.ANCHOR_SECONDS", 0.5)
        patch.setattr("rfx.cost.effort.SECONDS", (1.0, 10.0))
        patch.setattr("rfx.pipeline.table.ADDITIVITY_LIMIT", 9.0)
        yield


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A store of the test's own."""
    monkeypatch.setenv("RFX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
