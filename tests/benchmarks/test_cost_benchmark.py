"""What pruning costs: a stage ends when the GPU is done with it."""

import json

import torch

import benchmarks.cost as cost


def test_a_stage_is_waited_for(monkeypatch):
    said = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: said.append("waited"))
    start = cost.clock()
    said.append("work")
    assert cost.since(start)["wall_s"] >= 0 and said == ["waited", "work", "waited"]


def test_where_it_ran_is_named():
    assert cost.device_name(torch.device("cpu")) == "cpu"


def test_every_stage_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "bert_large_search", lambda: {"sites": 0})  # seconds of its own
    out = tmp_path / "cost.json"
    cost.main(["--shape", "tiny", "--examples", "40", "--tokens", "8", "--out", str(out)])
    result = json.loads(out.read_text())
    for stage in ("plain", *cost.STAGES):
        assert result[stage]["wall_s"] >= 0 and result[stage]["cpu_s"] >= 0
    pruning = sum(result[stage]["wall_s"] for stage in cost.STAGES)
    assert abs(result["ratio_to_plain_wall_s"] - pruning / result["plain"]["wall_s"]) < 1e-9
    assert result["score"]["wall_s"] > 0 and result["arguments"]["kept"] == "0.6"
