"""What pruning costs: a stage ends when the GPU is done with it."""

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
