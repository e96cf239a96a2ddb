"""Models of families that the probe finds go from the checkpoint to the engine: fused projections,
groups of heads, gates, positions that are projected, layers that share their weights, and layers
that are no chain."""

import json

import pytest
import torch

from benchmarks.families_models import small
from rfx.core.plan import Plan
from rfx.methods.compensate.walk import OFTEN
from rfx.pipeline import table as tables
from tests.commands import run
from tests.conftest import tokenizer, write_jsonl


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def data(trained, tmp_path_factory):
    folder, files = tmp_path_factory.mktemp("rows"), {}
    for name in ("train", "eval"):
        rows = [json.loads(line) for line in trained[name].read_text().splitlines()[:48]]
        files[name] = write_jsonl(folder / f"{name}.jsonl", rows)
    return files


@pytest.fixture
def saved(words, tmp_path):
    def save(name):
        torch.manual_seed(0)
        model = small(name, vocab_size=len(words), pad_token_id=words.pad_token_id)
        model.save_pretrained(tmp_path / name)
        words.save_pretrained(tmp_path / name)
        return tmp_path / name

    return save


@pytest.mark.parametrize(
    "name, tuned",
    [
        ("modernbert", True),
        ("deberta-v3", True),
        ("gpt2", True),
        ("albert", False),  # its weights are used in all layers at once
        ("xlm", True),  # its layers are no chain
    ],
)
def test_it_goes_through(name, tuned, saved, data, tmp_path, cache):
    done = run(
        *("prune-export", saved(name), "--task", "text-classification"),
        *("--train", data["train"], "--eval", data["eval"], "--target", "ort"),
        *("--sequence", "16", "--flops", "0.5", "--out", tmp_path / "out"),
        *("--allow-weak-baseline", "--json"),
    )
    assert done.exit_code in (0, 1, 7), done.output + str(done.exception)
    evidence = json.loads(done.stdout)
    outcomes = {g["name"]: g["outcome"] for g in evidence["gates"]}
    assert outcomes["shrunk"] == outcomes["same"] == "pass", evidence["gates"]
    assert evidence["flops_ratio"] <= 0.5 and evidence["latency"]["ratio"] > 0
    plan = Plan.from_json(evidence["plan"])
    assert 0 < sum(plan.counts.values()) < sum(s.units for s in plan.sites)
    fitted = [s for s in evidence["tuning"] if s["accepted"]]
    assert bool(fitted) is tuned, evidence["tuning"]
    if tuned:  # it brings the whole model nearer
        whole = evidence["compensation"]
        assert whole["accepted"] and whole["divergence_after"] < whole["divergence_before"]
    else:
        assert {s["reason"] for s in evidence["tuning"]} == {OFTEN}
    again = run("verify", tmp_path / "out", "--json")
    assert again.exit_code in (0, 1, 7), again.output


@pytest.mark.parametrize(
    ("name", "curves"),
    [
        ("modernbert", ["mha", "ffn"]),
        ("deberta", ["mha", "ffn"]),
        ("mpnet", ["ffn"]),
        ("albert", ["mha", "ffn"]),
        ("mobilebert", ["mha", "ffn"]),
    ],
)
def test_the_latency_of_every_familys_layers_is_measured(
    name, curves, saved, data, tmp_path, cache, monkeypatch
):
    """Whatever its layers are: the table is measured on the model itself."""
    monkeypatch.setattr(tables, "ADDITIVITY_LIMIT", 9.0)  # a tiny model is all noise
    done = run(
        *("prune-export", saved(name), "--task", "text-classification"),
        *("--train", data["train"], "--eval", data["eval"], "--target", "ort"),
        *("--sequence", "16", "--latency", "0.95", "--out", tmp_path / "out"),
        *("--allow-weak-baseline", "--json"),
    )
    # What so small a model gains is the clock's noise, and may be too little for any plan.
    assert done.exit_code in (0, 1, 3, 7), done.output + str(done.exception)
    said = json.loads(done.stdout)
    if done.exit_code == 3:
        return
    assert list(said["table"]["costs_ms"]) == curves
    assert said["table"]["key"]["layout"].startswith(name.partition("-")[0])


@pytest.mark.parametrize("name", ["modernbert", "mpnet"])
def test_sites_are_shown_with_what_is_left_alone(name, saved):
    folder = saved(name)
    done = run("sites", folder, "--task", "text-classification", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    heads = [s for s in found["sites"] if s["kind"] == "mha"]
    assert found["model"] == name and len(heads) == (3 if name == "modernbert" else 0)
    for site in found["sites"]:
        assert site["units"] * site["width"] in (32, 48) and 0 < site["share"] < 1
    assert found["share"] == pytest.approx(sum(s["share"] for s in found["sites"]))
    assert 0 <= found["proof"]["error"] < 1e-4 and 0 < found["proof"]["examples_run"] < 100
    reasons = {r["module"]: r["reason"] for r in found["refused"]}
    if name == "mpnet":
        assert "relative_attention_bias" in reasons["mpnet.encoder.layer.0.attention.attn.o"]
    shown = run("sites", folder, "--task", "text-classification")
    assert shown.exit_code == 0, shown.output
    assert "What can be pruned in " + name in shown.output and "Proved" in shown.output
    for module in reasons:
        assert f"left alone: {module}" in shown.output
