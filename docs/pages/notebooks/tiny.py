"""A tiny sentiment classifier and its data, made in seconds: so that the notebooks need no hub."""

from __future__ import annotations

import json
import random
from pathlib import Path

GOOD = ["good", "great", "fine", "lovely", "bright", "warm", "happy", "fresh"]
BAD = ["bad", "awful", "poor", "ugly", "dark", "cold", "sad", "stale"]
PLAIN = ["the", "a", "film", "plot", "actor", "scene", "was", "is", "with", "and", "very", "story"]


def sentences(count: int, seed: int) -> list[dict]:
    """Sentences in which good words outnumber bad ones (label 1) or the other way round (0)."""
    rng = random.Random(seed)
    rows = {}
    while len(rows) < count:
        label = rng.randrange(2)
        strong, weak = (GOOD, BAD) if label else (BAD, GOOD)
        words = rng.choices(PLAIN, k=rng.randint(3, 9)) + rng.choices(strong, k=3)
        words += rng.choices(weak, k=rng.randint(1, 2))
        rng.shuffle(words)
        rows[" ".join(words)] = label
    return [{"text": text, "label": label} for text, label in rows.items()]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make(folder: str | Path) -> Path:
    """`model/`, `train.jsonl` and `dev.jsonl` in `folder`: a BERT of 3 layers, width 64."""
    import torch
    import transformers

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = sentences(1400, seed=0)
    train = rows[:800]
    write(folder / "train.jsonl", train)
    write(folder / "dev.jsonl", rows[800:])
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *PLAIN]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    tokenizer = transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=64,
            id2label={0: "negative", 1: "positive"},
            label2id={"negative": 0, "positive": 1},
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _epoch in range(3):
        for start in range(0, len(train), 32):
            batch = train[start : start + 32]
            inputs = tokenizer([r["text"] for r in batch], padding=True, return_tensors="pt")
            labels = torch.tensor([r["label"] for r in batch])
            optimizer.zero_grad()
            model(**inputs, labels=labels).loss.backward()
            optimizer.step()
    transformers.utils.logging.disable_progress_bar()
    model.eval().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder
