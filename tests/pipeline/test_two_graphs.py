"""An exporter that writes two graphs, and a runtime that runs them as one model, go through the
whole job: each is one class that registers itself, and nothing else knows of them."""

import json

import onnx
import pytest

import rfx
from rfx.core.artefact import Artefact, Graph
from rfx.core.errors import UsageError
from rfx.core.plan import Plan
from rfx.core.registry import register
from rfx.export.onnx import OnnxExporter, site_shapes
from rfx.runtimes.base import Engine
from rfx.runtimes.onnxruntime.runtime import OnnxRuntimeCpu

ROLES = ("body", "head")


class TwoFiles(OnnxExporter):
    """Cuts the one graph before the classifier: the body gives what the head reads."""

    def export(self, model, folder, *, name="model.onnx", **given):
        whole = super().export(model, folder, name=name, **given)
        (inputs, outputs) = given["inputs"], tuple(given["outputs"])
        graph = onnx.load(whole.file).graph
        cut = next(n for n in graph.node if any(i.startswith("classifier.") for i in n.input))
        between = cut.input[0]
        files = {role: folder / f"{role}-{name}" for role in ROLES}
        sides = (([i.name for i in graph.input], [between]), ([between], list(outputs)))
        for role, (read, given_out) in zip(ROLES, sides, strict=True):
            onnx.utils.extract_model(str(whole.file), str(files[role]), read, given_out)
        whole.file.unlink()
        return Artefact(
            {
                "body": Graph(files["body"], inputs, (between,)),
                "head": Graph(files["head"], inputs, outputs),
            },
            whole.metadata,
        )


class Chain(Engine):
    """The head after the body."""

    def __init__(self, body, head):
        self.body, self.head = body, head
        self.input_names, self.output_names = body.input_names, head.output_names

    def run(self, inputs):
        return self.head.run(self.body.run(inputs))

    def bind(self, inputs):
        return self.body.bind(inputs)  # nearly all of the time

    def close(self):
        self.body.close()
        self.head.close()


class TwoGraphs(OnnxRuntimeCpu):
    name = "two-graphs"
    capabilities = OnnxRuntimeCpu.capabilities.__class__(
        **{**vars(OnnxRuntimeCpu.capabilities), "roles": ROLES, "preference": 1000}
    )

    def build_artefact(self, artefact, workload):
        assert self.accepts(artefact, workload) is None
        return Chain(*(self.build(artefact.graphs[role].file, workload) for role in ROLES))


@pytest.fixture
def recipe(trained, cache, forgets):
    register("exporter", "two-files")(TwoFiles)
    register("runtime", "two-graphs")(TwoGraphs)
    return rfx.Recipe(
        model=str(trained["model"]),
        exporter="two-files",
        target="two-graphs",
        max_length=32,
        data={"train": str(trained["train"]), "eval": str(trained["eval"])},
        budget={"flops": 0.6},
        workload={"sequence": 16},
        calibration={"examples": 64},
    )


def test_both_graphs_are_pruned_proved_and_served(recipe, tmp_path):
    out = tmp_path / "out"
    evidence = rfx.prune_export(recipe, out)
    gates = {g.name: g.outcome for g in evidence.gates}
    assert gates["shrunk"] == gates["same"] == "pass", evidence.gates
    assert evidence.accuracy.dense > 0.9
    # This exporter cannot cut a quantized file: the job goes on without the dense model in int8.
    assert evidence.rival is None
    assert any("could not be quantized (Nodes in a graph" in w for w in evidence.warnings)
    artefact = Artefact.load(out)
    assert artefact.roles == ROLES and not (out / "model.onnx").exists()
    assert {p.name for p in artefact.files} <= set(evidence.files)
    plan = Plan.from_json(evidence.plan)
    subject = rfx.load_model(recipe.model)
    shapes = site_shapes(artefact.graphs["body"].file, subject.sites)
    for name, modules in shapes.items():
        assert set(modules.values()) == {plan[name].count * plan[name].width}
    served = {p.parent.name for p in (out / "triton").glob("*/config.pbtxt")}
    assert len(served) == 2 and all(name.endswith(ROLES) for name in served)
    again = rfx.verify(out)
    assert {g.name: g.outcome for g in again.gates}["same"] == "pass"
    artefact.graphs["head"].file.unlink()
    with pytest.raises(UsageError, match="Files of the output are gone") as error:
        rfx.verify(out)
    assert "head-model.onnx" in str(error.value.got)


def test_a_runtime_of_one_graph_refuses_two(recipe, tmp_path):
    with pytest.raises(UsageError, match="cannot build this model") as error:
        rfx.prune_export(recipe.changed({"target": "ort"}), tmp_path / "out")
    assert "body" in str(error.value.got) and not (tmp_path / "out").exists()


def test_an_exporter_that_is_none_is_named_before_any_work(trained, tmp_path):
    wanted = rfx.Recipe(model=str(tmp_path / "none"), exporter="onxx", budget={"flops": 0.6})
    with pytest.raises(UsageError, match="no exporter of this name") as error:
        rfx.prune_export(wanted, tmp_path / "out")
    assert "onnx" in json.dumps(error.value.allowed) and "onnx" in error.value.next_step
