"""From text alone: methods score without labels, and what cannot is refused in words."""

import json

import pytest

from rfx.core.errors import UsageError
from rfx.methods.build import build
from rfx.recipe.read import make_recipe
from tests.commands import STANDARD, given, run


@pytest.fixture(scope="module")
def texts(trained, tmp_path_factory):
    """The training sentences without their labels, a line each."""
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    file.write_text(
        "".join(
            json.loads(line)["text"] + "\n" for line in trained["train"].read_text().splitlines()
        )
    )
    return file


def options(trained, texts, **more):
    return given(trained | {"train": texts}, **STANDARD | {"flops": 0.5, **more})


def test_texts_without_labels_are_enough(trained, texts, tmp_path, warm):
    result = run(
        "prune-export",
        *options(trained, texts),
        "--method",
        "kwon",
        "--max-drop",
        "20",
        "--out",
        tmp_path / "out",
    )
    # Of the clock on a tiny model nothing is asked.
    assert result.exit_code in (0, 1, 7), result.output + str(result.exception)
    evidence = json.loads((tmp_path / "out" / "evidence.json").read_text())
    assert {g["name"]: g["outcome"] for g in evidence["gates"]}["accuracy"] == "pass" and evidence[
        "flops_ratio"
    ] < 0.55
    assert "have no labels" in result.output and "what the model itself predicts" in result.output


def test_labels_change_the_fisher_information_and_nothing_else(trained_deeper, texts, cache):
    plans = {}
    for method in ("kwon", "rfx"):
        for train in (texts, trained_deeper["train"]):
            found = run(
                "plan", *options(trained_deeper, train, examples=128, method=method), "--json"
            )
            assert found.exit_code == 0, found.output
            assert ("have no labels" in found.stderr) == (train == texts)
            assert ("the scorer needs none" in found.stderr) == (train == texts and method == "rfx")
            plans[method, train] = json.loads(found.stdout)
    assert plans["rfx", texts]["plan"] == plans["rfx", trained_deeper["train"]]["plan"], plans[
        "rfx", texts
    ].keys()
    assert plans["kwon", texts]["plan"] != plans["kwon", trained_deeper["train"]]["plan"]


def scorer_of(method, labelled=True):
    spec = make_recipe({"method": method}).method
    return build(spec, seed=0, labelled=labelled).scorer


def test_the_loss_of_labels_is_refused_without_any():
    asked = {"name": "kwon", "scorer_options": {"loss": "label"}}
    assert scorer_of(asked).loss == "label"
    with pytest.raises(UsageError, match="needs labels") as refused:
        scorer_of(asked, labelled=False)
    assert "scorer_options.loss" in refused.value.next_step
    assert scorer_of("kwon", labelled=False).loss == "predictive"


def test_a_rearrangement_without_gradients_is_refused(trained, tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("method: {name: kwon, scorer: magnitude}\n")
    result = run("plan", file, *options(trained, trained["train"])[1:], "--model", trained["model"])
    assert result.exit_code == 2 and "method.refine" in result.output, result.output
