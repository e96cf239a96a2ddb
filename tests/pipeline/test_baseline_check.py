"""The dense model is measured first, on the command line: wrong labels stop every job that compares
with it, and cost no evaluation twice."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from rfx.core.errors import UsageError
from rfx.pipeline import judge
from rfx.pipeline.steps import load_examples, load_model
from tests.commands import STANDARD, given, run
from tests.conftest import sentences, write_jsonl
from tests.conftest import tokenizer as make_tokenizer


def error_of(result):
    assert result.exit_code == 2, result.output
    return json.loads(result.stdout)["error"]


@pytest.fixture
def swapped(trained, tmp_path):
    """The same data with 0 and 1 exchanged, as a dataset in another order has them."""
    rows = [json.loads(line) for line in trained["eval"].open()]
    file = write_jsonl(tmp_path / "swapped.jsonl", [{**r, "label": 1 - r["label"]} for r in rows])
    return {**trained, "eval": file}


@pytest.mark.parametrize(("command", "flops"), [("prune-export", 0.8), ("sweep", "0.8,0.6")])
def test_labels_in_another_order_stop_the_job_before_any_work(
    swapped, warm, tmp_path, command, flops
):
    out = tmp_path / "out"
    arguments = given(swapped, **STANDARD, flops=flops, out=out)
    error = error_of(run(command, *arguments, "--json"))
    assert "another order" in error["what"] and "--labels 1,0" in error["next_step"]
    assert "0 in the data is most likely the model's label 'LABEL_1'" in error["got"]
    assert "--allow-weak-baseline" in error["next_step"] and not out.exists()


def test_a_plan_stops_where_the_scores_would_go_by_wrong_labels(trained, warm, tmp_path):
    rows = [json.loads(line) for line in trained["train"].open()]
    file = write_jsonl(tmp_path / "train.jsonl", [{**r, "label": 1 - r["label"]} for r in rows])
    arguments = given({**trained, "train": file}, **STANDARD, flops=0.8, method="kwon")
    error = error_of(run("plan", *arguments, "--json"))
    assert "another order" in error["what"] and "calibration" in error["what"]


def test_a_weak_baseline_that_is_allowed_is_recorded(swapped, warm, tmp_path):
    """The outputs of the stage before scoring are those that accuracy is judged by: the dense model
    is evaluated once."""
    arguments = given(swapped, **STANDARD, flops=0.8, out=tmp_path / "out")
    result = run("prune-export", *arguments, "--allow-weak-baseline", "--json")
    assert result.exit_code in (0, 1, 7), result.output
    evidence = json.loads(result.stdout)
    part = evidence["accuracy"]
    assert part["weak_baseline"] and part["dense"] < 0.2 < 0.5 <= part["chance"]
    assert any("another order" in w for w in evidence["warnings"])
    assert evidence["data"]["label_mapping"] == {"0": "LABEL_0", "1": "LABEL_1"}
    stages = [s["name"] for s in evidence["stages"]]
    assert stages.index("dense accuracy") < stages.index("score")
    assert result.stderr.count("evaluating the dense model") == 1


def test_a_usual_run_has_the_figures_of_chance_and_agreement(closed):
    part = closed.evidence["accuracy"]
    assert not part["weak_baseline"] and part["dense"] > 0.85 > part["chance"] >= 0.5
    low, high = part["agreement_interval"]
    assert low < part["agreement"] <= high and 0 < part["chance_agreement"] < part["agreement"]
    assert part["distinct"] == part["examples"] == closed.evidence["data"]["evaluation"]


@pytest.fixture(scope="module")
def without_types(tmp_path_factory):
    """A BERT with one row of token types, whose tokenizer gives the second text of a pair type
    1."""
    folder = tmp_path_factory.mktemp("types")
    tok = make_tokenizer(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tok),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        type_vocab_size=1,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


def test_ids_past_a_table_name_row_token_and_sizes(without_types, tmp_path):
    rows = sentences(24, 0)
    pairs = [{"sentence1": r["text"], "sentence2": "good", "label": r["label"]} for r in rows]
    files = [write_jsonl(tmp_path / f"{i}.jsonl", r) for i, r in enumerate((pairs[8:], pairs[:8]))]
    subject = load_model(without_types)
    with pytest.raises(UsageError, match="token_type_ids that the model has no embedding") as found:
        load_examples(subject, train=files[0], eval=files[1])
    assert "row " in found.value.what and "token_type_ids 1 at the token 'good'" in found.value.got
    assert "has 1 row" in found.value.allowed and "tokenizer_config.json" in found.value.next_step
    subject.preprocessor.add_tokens(["plenty"])
    words = [{"text": r["text"] + " plenty", "label": r["label"]} for r in rows]
    files = [write_jsonl(tmp_path / f"{i}.jsonl", r) for i, r in enumerate((words[8:], words[:8]))]
    with pytest.raises(UsageError, match="input_ids that the model has no embedding") as found:
        load_examples(subject, train=files[0], eval=files[1])
    assert "'plenty'" in found.value.got and "resize_token_embeddings" in found.value.next_step


def test_verify_stops_for_a_dense_model_that_is_no_better_than_chance(
    closed, monkeypatch, tmp_path
):
    """The evaluation data of the recipe are no longer those that it was made with."""
    monkeypatch.setenv("RFX_CACHE", str(tmp_path / "store"))
    shutil.copytree(closed.store, tmp_path / "store")
    shutil.copytree(closed.out, tmp_path / "out")
    document = tmp_path / "out" / "evidence.json"
    evidence = json.loads(document.read_text())
    lines = Path(evidence["recipe"]["data"]["eval"]).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    swapped = "".join(json.dumps({**r, "label": 1 - r["label"]}) + "\n" for r in rows)
    (tmp_path / "eval.jsonl").write_text(swapped)
    evidence["recipe"]["data"]["eval"] = str(tmp_path / "eval.jsonl")
    document.write_text(json.dumps(evidence))

    def goes_on(*_, **__):
        raise UsageError("It went on.")

    monkeypatch.setattr(judge, "parity", goes_on)
    result = run("verify", tmp_path / "out", "--json")
    assert result.exit_code == 2, result.output
    error = json.loads(result.stdout)["error"]
    assert "another order" in error["what"]
    assert error["next_step"].startswith("run rfx prune-export again: ")
    evidence["recipe"]["limits"]["allow_weak_baseline"] = True
    document.write_text(json.dumps(evidence))
    allowed = run("verify", tmp_path / "out", "--json")
    assert json.loads(allowed.stdout)["error"]["what"] == "It went on."
