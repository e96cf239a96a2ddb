"""Tiny sentence encoders, as sentence-transformers saves them."""

from __future__ import annotations

import random
from pathlib import Path

import torch
import transformers

from tests.conftest import BAD, GOOD, PLAIN, tokenizer

TEXTS = ["the film was good", "a sad story with a dark plot and a poor sound", "great"]


def encoder(folder: Path, padding: str = "right", **sizes) -> Path:
    """A random BERT without a head."""
    folder.mkdir(parents=True, exist_ok=True)
    words = tokenizer(folder)
    words.padding_side = padding
    torch.manual_seed(0)
    config = transformers.BertConfig(
        **{
            "vocab_size": len(words),
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 64,
            **sizes,
        }
    )
    model = transformers.BertModel(config, add_pooling_layer=False)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def sentence_folder(
    parent: Path, *poolings: str, dense: bool = False, padding: str = "right", **sizes
) -> Path:
    """The same with a pooling, maybe a dense layer, and vectors of length 1."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    plain = encoder(parent / "encoder", padding, **sizes)
    first = modules.Transformer(str(plain), max_seq_length=40)
    width = sizes.get("hidden_size", 32)
    pool = modules.Pooling(width, pooling_mode=list(poolings))
    torch.manual_seed(1)
    steps = [modules.Dense(width * len(poolings), 24)] if dense else []
    model = SentenceTransformer(modules=[first, pool, *steps, modules.Normalize()], device="cpu")
    model.prompts = {"query": "the ", "document": "a "}
    model.save(str(parent / "model"))
    return parent / "model"


def pairs(n: int, seed: int) -> list[dict]:
    """Two texts that share some of their words, and how many they share: 0 to 5."""
    rng = random.Random(seed)
    words, rows = [*GOOD, *BAD, *PLAIN], []
    for _ in range(n):
        first = rng.sample(words, 8)
        shared = rng.randint(0, 8)
        second = [*rng.sample(first, shared), *rng.sample(words, 8 - shared)]
        rows.append(
            {
                "sentence1": " ".join(first),
                "sentence2": " ".join(second),
                "score": 5 * len(set(first) & set(second)) / 8,
            }
        )
    return rows


def queries(n: int, seed: int) -> list[dict]:
    """Queries, each with a document that has its words among others, and some documents of
    nobody's."""
    rng = random.Random(seed)
    words, rows = [*GOOD, *BAD, *PLAIN], []
    for _ in range(n):
        asked = rng.sample(words, 5)
        found = [*asked, *rng.sample(words, 4)]
        rng.shuffle(found)
        rows.append({"query": " ".join(asked), "document": " ".join(found)})
    rows += [{"query": "", "document": " ".join(rng.sample(words, 9))} for _ in range(n // 4)]
    return rows
