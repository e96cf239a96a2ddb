"""Every recipe in recipes/, run from end to end on miniature local data of its own columns."""

import json
import random
import shutil

import pytest

from rfx.recipe.read import bundled_recipes, read_recipe
from tests.commands import run
from tests.conftest import sentences, tokenizer, write_jsonl

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
}
LABELS = {"glue-mnli": 3, "glue-stsb": 1}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """An untrained BERT for each kind of head; what is tested is that the recipe runs."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("models")
    tok = tokenizer(folder)
    torch.manual_seed(0)
    for name, cls, labels in (
        ("1", "BertForSequenceClassification", 1),
        ("2", "BertForSequenceClassification", 2),
        ("3", "BertForSequenceClassification", 3),
        ("qa", "BertForQuestionAnswering", 2),
    ):
        config = transformers.BertConfig(vocab_size=len(tok), num_labels=labels, **SIZES)
        getattr(transformers, cls)(config).eval().save_pretrained(folder / name)
        tok.save_pretrained(folder / name)
    return folder


def rows_of(name: str, n: int, seed: int) -> list[dict]:
    """Rows with the columns of the dataset that the recipe names."""
    rng = random.Random(seed)
    texts = [r["text"] for r in sentences(2 * n, seed)]
    columns = read_recipe(name).data.columns
    rows = []
    for i in range(n):
        if name.startswith("squad"):
            context = f"{texts[i]} {texts[n + i]}"
            word = rng.choice(context.split())
            answers = {"text": [word], "answer_start": [context.index(word)]}
            if name == "squad-v2" and i % 3 == 0:
                answers = {"text": [], "answer_start": []}
            rows.append(
                {
                    "id": str(i),
                    "title": "t",
                    "context": context,
                    "question": texts[i][:20],
                    "answers": answers,
                }
            )
            continue
        row = {"idx": i, columns["text"]: texts[i]}
        if "text_pair" in columns:
            row[columns["text_pair"]] = texts[n + i]
        labels = LABELS.get(name, 2)
        row[columns["label"]] = round(5 * rng.random(), 2) if labels == 1 else i % labels
        rows.append(row)
    return rows


NAMES = [n for n in bundled_recipes() if n != "quickstart"]
# One of each kind of head and metric; the others differ from one of them in the names of columns.
WHOLE = ("glue-mnli", "glue-stsb", "squad-v2")


@pytest.fixture
def asked(models, tmp_path, tmp_path_factory, monkeypatch):
    """The arguments of a recipe on miniature data. The tests of this file share a store."""
    monkeypatch.setenv("RFX_CACHE", str(tmp_path_factory.getbasetemp() / "recipes-cache"))

    def arguments(name: str) -> list[object]:
        files = [write_jsonl(tmp_path / f"{i}.jsonl", rows_of(name, 24, i + 1)) for i in range(2)]
        model = models / ("qa" if name.startswith("squad") else str(LABELS.get(name, 2)))
        data = ("--train", files[0], "--eval", files[1], "--target", "ort", "--examples", 16)
        untrained = ("--allow-weak-baseline",)
        return [name, "--model", model, *data, "--flops", 0.6, "--json", *untrained]

    return arguments


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_reads_its_data_and_plans(name, asked):
    result = run("plan", *asked(name))
    assert result.exit_code == 0, result.output + str(result.exception)
    assert json.loads(result.stdout)["search"]["method"]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in WHOLE else pytest.mark.slow) for n in NAMES]
)
def test_a_recipe_runs(name, asked, tmp_path):
    result = run("prune-export", *asked(name), "--out", tmp_path / "out", "--allow-inconclusive")
    assert result.exit_code in (0, 1), result.output + str(result.exception)
    evidence = json.loads(result.stdout)
    recipe = read_recipe(name)
    assert evidence["accuracy"]["metric"] == recipe.metric and evidence["flops_ratio"] <= 0.6
    assert evidence["recipe"]["max_length"] == recipe.max_length
    assert {g["name"]: g["outcome"] for g in evidence["gates"]}["same"] == "pass"


def test_the_list_is_whole():
    tasks = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
    assert set(bundled_recipes()) == {
        "quickstart",
        "squad-v1",
        "squad-v2",
        *(f"glue-{t}" for t in tasks),
    }


def test_the_quickstart_runs(quickstarted, cache):
    """The packages' own model and tweets, with little training."""
    import rfx.tasks.quickstart as quickstart

    evidence = quickstarted.evidence
    assert (
        evidence["data"]["overlap"] == 0
        and evidence["model"]["layers"] == 6
        and evidence["accuracy"]["examples"] == 60
    )
    # Better than a constant answer without doubt: the gates judge a model that has learned.
    assert evidence["accuracy"]["dense"] > 0.7 and not evidence["accuracy"]["weak_baseline"]
    assert not [w for w in evidence["warnings"] if "constant" in w]
    shutil.copytree(quickstarted.store, cache)
    (folder,) = (cache / "quickstart").iterdir()
    weights = folder / "model" / "model.safetensors"
    assert (folder / "checksums.json").is_file()
    assert (
        json.loads((folder / "model" / "config.json").read_text())["max_position_embeddings"]
        == quickstart.POSITIONS
    )
    made = weights.stat().st_mtime_ns
    plan = run("plan", "--flops", 0.6, "--examples", 32, "--json")
    assert plan.exit_code == 0 and weights.stat().st_mtime_ns == made
    mine = run("plan", "--flops", 0.6, "--train", "mine.jsonl", "--eval", "dev.jsonl")
    # The user's data are not silently replaced.
    assert mine.exit_code == 2 and "of its own" in mine.output
    weights.write_bytes(b"damaged")
    again = run("plan", "--flops", 0.6, "--examples", 32)
    assert again.exit_code == 0 and "made again" in again.output
