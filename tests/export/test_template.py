"""The files of a latency table's models are those that the exporter would write."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from benchmarks.families_models import ZOO, small
from rfx.core.plan import Plan
from rfx.cost.alike import alike
from rfx.export.onnx import export_onnx
from rfx.export.template import Template, _is_weight, _named_by_place
from rfx.models.families.find import find_sites
from rfx.models.shrink import shrink
from rfx.pipeline.timed import timed_plan
from tests.families import batch, text_inputs
from tests.models.families.test_zoo import NOT_EXPORTED


def exported(model, sites, plan, tmp_path):
    small = shrink(model, sites, plan)
    file = export_onnx(small, tmp_path / "m.onnx", inputs=text_inputs(), output_names=("logits",))
    return onnx.load(str(file))


def sizes(model):
    return {t.name: (t.data_type, list(t.dims)) for t in model.graph.initializer}


def placed(model):
    """With the names that a template gives, and the weights."""
    made = _named_by_place(model)
    made.graph.initializer.extend(t for t in model.graph.initializer if _is_weight(t))
    return made


def nodes(model):
    return [(n.op_type, list(n.input), list(n.output)) for n in model.graph.node]


def whole_numbers(model, other):
    """Constants; without those that either of the two leaves to the runtime (-1)."""
    values = [
        {t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer if t.data_type == 7}
        for m in (model, other)
    ]
    return {
        name: [int(x) for x, y in zip(own.flat, values[1][name].flat) if -1 not in (x, y)]
        for name, own in values[0].items()
    }


# Others take up to a minute each: PyTorch traces them anew at every count.
QUICK = ("bert", "modernbert", "qwen3", "gpt2", "albert", "nomic-bert")
NAMES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in ZOO
    if name not in NOT_EXPORTED
]


@pytest.mark.parametrize("name", NAMES)
def test_every_count_of_every_family_is_as_the_exporter_writes_it(name, tmp_path):
    model = small(name)
    sites = find_sites(model)
    full = exported(model, sites, Plan.dense(sites), tmp_path)
    groups = [g for g in alike(sites) if g.units > 2]
    assert groups
    feeds = {k: v.numpy() for k, v in batch().items()}
    for group in groups:
        fewer = group.units // 2
        less = exported(model, sites, timed_plan(sites, group, fewer), tmp_path)
        template = Template(full, group.units, less, fewer)
        for count in {1, fewer, group.units - 1}:
            made = template.at(count)
            there = placed(exported(model, sites, timed_plan(sites, group, count), tmp_path))
            if count > 1 or nodes(made) == nodes(there):  # PyTorch folds a size of one
                assert nodes(made) == nodes(there) and sizes(made) == sizes(there)
                assert whole_numbers(made, there) == whole_numbers(there, made)
                stated = {v.name: str(v) for v in there.graph.value_info}
                assert all(stated[v.name] == str(v) for v in made.graph.value_info)
            else:
                assert name.startswith("deberta-v")
            session = ort.InferenceSession(
                made.SerializeToString(), providers=["CPUExecutionProvider"]
            )
            (out,) = session.run(["logits"], feeds)
            assert np.isfinite(out).all()
        assert sizes(template.at(group.units)) == sizes(placed(full))


def test_what_is_not_of_one_pattern_is_said():
    def graph(width, ops=("Relu",), name="w"):
        w = onnx.numpy_helper.from_array(np.ones((4, width), np.float32), f"{name}.weight")
        nodes = [onnx.helper.make_node("MatMul", ["x", f"{name}.weight"], ["v0"])]
        nodes += [onnx.helper.make_node(op, [f"v{i}"], [f"v{i + 1}"]) for i, op in enumerate(ops)]
        x, y = (
            onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in ("x", "y")
        )
        return onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [x], [y], [w]))

    assert sizes(Template(graph(12), 6, graph(6), 3).at(1)) == {"w.weight": (1, [4, 2])}
    for less, fewer, said in (
        (graph(6, ops=("Relu", "Relu")), 3, "nodes differ"),
        (graph(6, name="v"), 3, "nodes differ"),
        (graph(7), 3, "12 with 6 units, 7 with 3"),
        (graph(6), 6, "6 of 6 units"),
        (graph(6), 0, "0 of 6 units"),
    ):
        with pytest.raises(ValueError, match=said):
            Template(graph(12), 6, less, fewer)
    for count in (0, 7):
        with pytest.raises(ValueError, match=f"{count} of 6"):
            Template(graph(12), 6, graph(6), 3).at(count)
