"""The worked examples of CONTRIBUTING are run as they are written."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import rfx

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"<!-- example: ([\w ]+) -->\n```python\n(.*?)```", TEXT, re.S))


@pytest.fixture
def example(forgets):
    """Runs an example; what it registers is forgotten after the test."""

    def run(name: str) -> dict:
        exec(compile(EXAMPLES[name], f"CONTRIBUTING.md: {name}", "exec"), scope := {})
        return scope

    return run


@pytest.fixture
def place(tmp_path, trained, cache, monkeypatch):
    """A folder with the files that the examples name."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained["model"], tmp_path / "path" / "to" / "model")
    shutil.copy(trained["train"], "train.jsonl")
    shutil.copy(trained["eval"], "dev.jsonl")
    return tmp_path


def load(folder: Path):
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(folder).eval()


def test_a_scorer(example, place):
    example("scorer")
    planned = example("use the scorer")["planned"]
    kept = [(layer["heads"], layer["filters"]) for layer in planned.plan.layers]
    assert kept != [(4, 128)] * len(kept) and any(filters for _, filters in kept)
    assert planned.plan.hash == example("use the scorer")["planned"].plan.hash


def test_a_runtime_computes_what_onnx_runtime_computes(example, trained, tmp_path):
    import torch

    from rfx.core.workload import Workload
    from rfx.runtimes.find import runtime

    example("runtime")
    inputs = {"x": np.random.default_rng(0).normal(size=(2, 5)).astype("float32")}
    file = tmp_path / "model.onnx"
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.GELU()).eval()
    torch.onnx.export(
        model,
        (torch.from_numpy(inputs["x"]),),
        file,
        input_names=["x"],
        output_names=["y"],
        dynamo=True,
        verbose=False,
    )
    workload = Workload.of_text(batch=2, sequence=5)
    engines = [runtime(n).build(file, workload) for n in ("onnx-reference", "ort")]
    ours, theirs = (e.run(inputs)["y"] for e in engines)
    assert np.abs(ours - theirs).max() < 1e-5
    assert engines[0].bind(inputs).time_ms() > 0


def test_a_family(example, trained):
    model = load(trained["model"])
    known = [(s.name, s.units, s.output) for s in rfx.find_sites(model)]
    example("family")
    model.config.model_type = "my-bert"
    assert [(s.name, s.units, s.output) for s in rfx.find_sites(model)] == known


def test_a_task(example, trained):
    from transformers import AutoTokenizer

    from rfx.tasks.base import Example
    from rfx.tasks.find import task_class

    example("task")
    tokenizer = AutoTokenizer.from_pretrained(trained["model"])
    rare = task_class("rare-class")(tokenizer, num_labels=2, id2label={0: "a", 1: "b"})
    examples = [Example({"text": "good"}, label) for label in (0, 0, 0, 0, 1, 1)]
    assert rare.metric([0, 0, 0, 1, 1, 0], examples) == 0.5
    assert rare.bootstrap([0] * 6, [0] * 6, examples, resamples=5).tolist() == [0] * 5


def test_there_is_an_example_of_every_part_that_the_page_promises():
    assert set(EXAMPLES) == {"scorer", "use the scorer", "runtime", "family", "task"}
