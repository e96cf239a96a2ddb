"""A schedule may train: what it trained is what goes on to the output, and to every check of it."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file

import rfx
from rfx.core.registry import register
from rfx.methods.schedule.base import Outcome, Schedule
from rfx.methods.schedule.oneshot import OneShot

LENGTH = 32


class Trains(Schedule):
    """Stands for training by a change that is easy to find again: the classifier's weights are
    doubled in a copy of the model."""

    name = "trains"

    def run(self, ground, scores, result):
        model = copy.deepcopy(ground.model)
        with torch.no_grad():
            model.classifier.weight.mul_(2)
        outcome = OneShot().run(ground, scores, result)
        return Outcome(outcome.plan, outcome.update, outcome.sites, model=model)


@pytest.fixture
def recipe(trained, warm, forgets):
    register("schedule", "trains")(Trains)
    return rfx.Recipe(
        model=str(trained["model"]),
        target="ort",
        max_length=LENGTH,
        data={"train": str(trained["train"]), "eval": str(trained["eval"])},
        budget={"flops": 0.6},
        method={"schedule": "trains", "guard": False},
        workload={"sequence": 16},
        calibration={"examples": 64},
    )


def test_the_output_has_the_weights_that_a_schedule_trained(trained, recipe, tmp_path):
    evidence = rfx.prune_export(recipe, tmp_path / "build")
    assert {g.name: g.outcome for g in evidence.gates}["same"] == "pass"
    dense = load_file(trained["model"] / "model.safetensors")["classifier.weight"]
    small = load_file(tmp_path / "build" / "model" / "model.safetensors")["classifier.weight"]
    assert torch.equal(small, 2 * dense)
    again = rfx.verify(tmp_path / "build")
    assert {g.name: g.outcome for g in again.gates}["same"] == "pass"
    assert set(again.parity) == {"shrunk-engine"} and any("trained" in w for w in again.warnings)
    said = json.loads((tmp_path / "build" / "evidence.json").read_text())
    assert said["model"]["hash"] == rfx.load_model(trained["model"]).hash  # the one that was given


def test_the_steps_give_the_trained_model_too(trained, recipe):
    subject = rfx.load_model(trained["model"])
    examples = rfx.load_examples(
        subject, train=trained["train"], eval=trained["eval"], count=64, max_length=LENGTH
    )
    scores = rfx.score(subject, examples)
    found = rfx.search(subject, examples, scores, flops=0.6)
    method = {"schedule": "trains", "guard": False}
    plan, update, model = rfx.compensate(subject, examples, scores, found, method=method)
    assert torch.equal(model.classifier.weight, 2 * subject.model.classifier.weight)
    small = rfx.shrink(model, subject.sites, plan, update)
    assert torch.equal(small.classifier.weight, model.classifier.weight)
