"""Sublayers that a run leaves as they are, or removes as a whole."""

import json

import pytest

from tests.commands import run


def planned(trained, *more):
    done = run(
        *("plan", trained["model"], "--train", trained["train"], "--eval", trained["eval"]),
        *("--target", "ort", "--flops", "0.85", "--examples", "64", *more, "--json"),
    )
    return done, json.loads(done.stdout)


def test_frozen_sublayers_keep_everything(trained, cache):
    done, said = planned(trained, "--freeze", "layer.0", "--freeze", "layer.1.mha")
    assert done.exit_code == 0, done.output
    counts = {s["name"]: len(s["kept"]) for s in said["plan"]["sites"]}
    assert counts["layer.0.mha"] == counts["layer.1.mha"] == 4 and counts["layer.0.ffn"] == 128
    assert counts["layer.1.ffn"] < 128


def test_sublayers_go_as_a_whole(trained, cache):
    done, said = planned(trained, "--drop-layers")
    assert done.exit_code == 0, done.output
    counts = {s["name"]: len(s["kept"]) for s in said["plan"]["sites"]}
    assert set(counts.values()) <= {0, 4, 128} and 0 in counts.values()


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (("--freeze", "layer.7"), "The model has no such sublayer."),
        (("--freeze", "mha", "--freeze", "ffn"), "Nothing is left to prune"),
        (("--precision", "int8", "--keep-fp32", "layer.9.ffn"), "no such site to keep in fp32"),
    ],
)
def test_names_that_there_are_not_are_refused_before_the_work(trained, cache, more, what):
    done, said = planned(trained, *more)
    assert done.exit_code == 2 and what in said["error"]["what"]
    assert said["error"]["next_step"]


def test_a_budget_below_what_is_frozen_names_the_nearest(trained, cache):
    done, said = planned(trained, "--flops", "0.1", "--freeze", "layer.0")
    assert done.exit_code == 3 and "reachable point" in said["error"]["allowed"]
    assert "--freeze" in said["error"]["next_step"]
