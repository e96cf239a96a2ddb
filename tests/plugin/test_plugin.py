"""A package of another author is installed, listed, and used from the command line: its scorer, its
task and its runtime."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def rfx(closed, tmp_path_factory):
    """Runs `rfx` where the package is installed: rfx("env", "--json")."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(closed.store, folder / "cache")
    source = folder / "source"  # a build leaves its own files beside it
    shutil.copytree(HERE, source, ignore=shutil.ignore_patterns("__pycache__", "test_*"))
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run(
        [sys.executable, "-m", "pip", *install, "--target", str(folder / "site"), str(source)],
        check=True,
        timeout=300,
    )
    paths = (str(folder / "site"), str(ROOT), os.environ.get("PYTHONPATH", ""))
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(p for p in paths if p),
        "RFX_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
    }

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "rfx", *map(str, arguments)],
            env=env,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=600,
        )

    return run


def test_it_is_listed_with_its_version_and_what_it_offers(rfx):
    done = rfx("env", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    mine = next(p for p in said["plugins"] if p["distribution"] == "rfx-example")
    assert mine["version"] == "0.3" and mine["problem"] is None
    assert {(o["kind"], o["name"], o["target"]) for o in mine["offers"]} == {
        ("scorer", "example-weights", "rfx_example.scorer:Weights"),
        ("task", "example-sentiment", "rfx_example.task:Sentiment"),
        ("runtime", "example-cpu", "rfx_example.runtime:ExampleCpu"),
    }
    assert said["plugins"][0]["distribution"] == "rfx-exporter"
    runtimes = {r["name"]: r["ok"] for r in said["runtimes"]}
    assert runtimes["example-cpu"] and runtimes["ort"]
    text = rfx("env").stdout
    assert "rfx-example 0.3" in text and "scorer: example-weights" in text


def recipe(file, model, train, evaluation, *, task, scorer, target):
    """A recipe that names the three parts."""
    said = {
        "model": str(model),
        "task": task,
        "data": {"train": str(train), "eval": str(evaluation)},
        "target": target,
        "budget": {"flops": 0.7},
        "workload": {"sequence": 16},
        "max_length": 32,
        "limits": {"max_drop": 20.0},
        "method": {"scorer": scorer},
    }
    file.write_text(json.dumps(said))  # JSON is YAML
    return file


def test_its_scorer_task_and_runtime_prune_a_model(rfx, trained, tmp_path):
    reviews = []
    for part in ("train", "eval"):
        reviews.append(tmp_path / f"{part}.jsonl")
        reviews[-1].write_text(trained[part].read_text().replace('"text"', '"review"'))
    parts = {
        "task": "example-sentiment",
        "scorer": "example-weights",
        "target": "example-cpu",
    }
    file = recipe(tmp_path / "mine.yaml", trained["model"], *reviews, **parts)
    done = rfx("prune-export", file, "--out", tmp_path / "out", "--json")
    evidence = json.loads(done.stdout)
    assert "gates" in evidence, (done.stdout, done.stderr)
    gates = {g["name"]: g["outcome"] for g in evidence["gates"]}
    assert gates["shrunk"] == gates["same"] == gates["accuracy"] == "pass", gates
    assert evidence["recipe"]["task"] == "example-sentiment"
    assert evidence["recipe"]["method"]["scorer"] == "example-weights"
    assert evidence["accuracy"]["metric"] == "f1_macro"
    timed_on = evidence["latency"]["workload"]
    assert timed_on["runtime"] == "example-cpu"
    assert timed_on["version"].startswith("rfx-example 0.3 on onnxruntime")
    assert (tmp_path / "out" / "model.onnx").is_file()


@pytest.mark.parametrize(
    ("part", "given", "near"),
    [
        ("scorer", "example-weight", "example-weights"),
        ("task", "example-sentment", "example-sentiment"),
        ("target", "example-cpus", "example-cpu"),
    ],
)
def test_an_unknown_name_lists_what_is_known_and_the_nearest(
    rfx, trained, tmp_path, part, given, near
):
    parts = {"task": "text-classification", "scorer": "magnitude", "target": "ort", part: given}
    files = (trained["model"], trained["train"], trained["eval"])
    file = recipe(tmp_path / "mine.yaml", *files, **parts)
    done = rfx("prune-export", file, "--out", tmp_path / "out", "--json")
    assert done.returncode == 2, done.stderr
    error = json.loads(done.stdout)["error"]
    kind = "runtime" if part == "target" else part
    assert error["what"] == f"There is no {kind} of this name." and error["got"] == given
    assert near in error["allowed"].split(", ") and len(error["allowed"].split(", ")) > 3
    assert f"did you mean {near!r}?" in error["next_step"]
