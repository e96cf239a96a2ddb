"""Small real things that many tests share. Nothing here needs a hub, a GPU or the network."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

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

    before = dict(registry._registered)
    yield
    registry._registered.update(before)  # of parts that were registered over
    for key, part in list(registry._registered.items()):
        if key not in before and str(part.__module__).split(".")[0] != "rfx":
            del registry._registered[key]


LONGEST_FIRST = ("test_readme.py", "test_prune_export.py", "test_interrupt.py", "test_board.py")


def pytest_make_parametrize_id(val) -> str | None:
    """A case of bytes is numbered, not named by its bytes: what compresses them may write the time
    into them, and processes that collect in different seconds would collect different tests."""
    return "bytes" if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items) -> None:
    """A test of minutes that starts last keeps one process busy while the other has nothing left to
    do."""
    rank = {name: i for i, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))  # stable


def made_once(tmp_path_factory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first process that asks for it fills, and all processes of the suite
    share. Nobody changes it."""
    from filelock import FileLock

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        if not (folder / "made").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (folder / "made").touch()
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> dict[str, Path]:
    """A tiny BERT (2 x 64, 4 heads, 128 filters) trained to about 95 % here and now, with its train
    and eval files."""
    return _named(made_once(tmp_path_factory, "trained", lambda folder: _train(folder, layers=2)))


@pytest.fixture(scope="session")
def trained_deeper(tmp_path_factory) -> dict[str, Path]:
    """The same with three layers, for what is decided layer by layer. Its export takes longer."""
    return _named(made_once(tmp_path_factory, "deeper", lambda folder: _train(folder, layers=3)))


def _named(folder: Path) -> dict[str, Path]:
    return {
        "model": folder / "model",
        "train": folder / "train.jsonl",
        "eval": folder / "eval.jsonl",
    }


def _train(folder: Path, layers: int) -> None:
    import torch
    import transformers

    write_jsonl(folder / "train.jsonl", sentences(600, 0))
    known = {r["text"] for r in sentences(600, 0)}
    write_jsonl(
        folder / "eval.jsonl", [r for r in sentences(420, 1) if r["text"] not in known][:400]
    )
    tok = tokenizer(folder)
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=len(tok),
            hidden_size=64,
            num_hidden_layers=layers,
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


@pytest.fixture(autouse=True, scope="session")
def untraced_exports():
    """Coverage looks at every call of PyTorch's exporter, in which there is next to nothing of rfx:
    the suite takes twice as long. It looks away there."""
    trace = sys.gettrace()
    if trace is None:
        yield
        return
    import torch.onnx

    export = torch.onnx.export

    def untraced(*given, **more):
        trace = sys.gettrace()
        sys.settrace(None)
        try:
            return export(*given, **more)
        finally:
            sys.settrace(trace)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", untraced)
        yield


@pytest.fixture(autouse=True, scope="session")
def short_measurements():
    """The tests' models take well under a millisecond: a second holds a thousand rounds of them. A
    tiny model's table is all noise, and one that fails its check is measured twice: tests of that
    set a limit of their own. One whole model checks a table, and two rounds close a loop, where
    users get three: every one is an export of seconds. A curve has fewer counts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rfx.pipeline.judge.FINAL_SECONDS", 1.0)
        patch.setattr("rfx.measure.latency.PRECISION", 0.1)
        patch.setattr("rfx.pipeline.loop.ROUND_SECONDS", 0.5)
        patch.setattr("rfx.pipeline.loop.ROUNDS", 2)
        patch.setattr("rfx.cost.effort.ANCHOR_SECONDS", 0.15)
        patch.setattr("rfx.cost.effort.SECONDS", (1.0, 10.0))
        patch.setattr("rfx.cost.points.MAX_COUNTS", 9)
        patch.setattr("rfx.pipeline.table.ADDITIVITY_LIMIT", 9.0)
        patch.setattr("rfx.pipeline.table.ADDITIVITY_PLANS", 1)
        yield


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A store of the test's own."""
    monkeypatch.setenv("RFX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Closed(NamedTuple):
    """A finished run: its output, and the store that it has filled."""

    out: Path
    store: Path
    evidence: dict


@pytest.fixture(scope="session")
def closed(trained, tmp_path_factory, short_measurements) -> Closed:
    """One run with a latency budget and the options of `tests.commands.STANDARD`, shared by all."""
    from tests.commands import STANDARD, given, run

    def make(folder: Path) -> None:
        arguments = given(trained, **STANDARD, latency=0.8, out=folder / "out")
        result = run("prune-export", *arguments, "--json", RFX_CACHE=str(folder / "store"))
        assert result.exit_code in (0, 1, 7), result.output + str(result.exception)

    return _finished(made_once(tmp_path_factory, "closed", make))


def _finished(folder: Path) -> Closed:
    evidence = json.loads((folder / "out" / "evidence.json").read_text(encoding="utf-8"))
    return Closed(folder / "out", folder / "store", evidence)


@pytest.fixture(scope="session")
def small_quickstart(short_measurements):
    """The quickstart's own model, trained on little and in large steps: it takes seconds. Four of
    five tweets are negative, and so little training would teach it no more than that; of as many
    tweets of each label it learns enough to be right in four of five, where a constant answer is
    right in one of two."""
    import rfx.tasks.quickstart as quickstart

    read = quickstart.read_tweets

    def as_many_of_each(file: Path) -> list[dict]:
        rows = read(file)
        labels = [[r for r in rows if r["label"] == y] for y in range(len(quickstart.LABELS))]
        return [r for some in labels for r in some[: min(map(len, labels))]]

    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("TRAIN", 192), ("EVAL", 60), ("EPOCHS", 1), ("RATE", 1e-3)):
            patch.setattr(quickstart, name, value)
        patch.setattr(quickstart, "read_tweets", as_many_of_each)
        yield


@pytest.fixture(scope="session")
def quickstarted(tmp_path_factory, small_quickstart) -> Closed:
    """One quickstart with a FLOPs budget, shared by all."""
    from tests.commands import run

    def make(folder: Path) -> None:
        arguments = ("--flops", 0.8, "--examples", 32, "--out", folder / "out", "--json")
        result = run("prune-export", *arguments, RFX_CACHE=str(folder / "store"))
        assert result.exit_code in (0, 1, 7), result.output + str(result.exception)

    return _finished(made_once(tmp_path_factory, "quickstarted", make))


@pytest.fixture
def warm(closed, cache) -> Path:
    """A store of the test's own that has the trained model's baseline, scores and latency table
    already, under the options of `tests.commands.STANDARD`."""
    shutil.copytree(closed.store, cache, dirs_exist_ok=True)
    return cache
