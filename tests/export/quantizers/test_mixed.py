"""Files of which some products are quantized and the others are not."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from rfx.export.onnx import export_onnx
from rfx.export.precision.convert import convert_precision
from rfx.export.quantizers import tables
from rfx.export.quantizers.mixed import changed, made_by_modules, mixed
from rfx.export.quantizers.onnxruntime import integer_weights
from rfx.export.quantizers.products import module_of
from rfx.methods.scores.divergence import outputs_divergence
from rfx.models.families.find import find_sites
from tests.families import make, text_inputs

NAMES = ("input_ids", "attention_mask")
GIVEN = {
    "input_ids": np.arange(2, 16).reshape(2, 7),
    "attention_mask": np.array([[1] * 7, [1] * 5 + [0] * 2]),
}


@pytest.fixture(scope="module", params=["bert", "distilbert"])
def files(request, tmp_path_factory):
    """The sites of a model, its file in fp32 and the quantized one, tables and all."""
    model, least = make(request.param), tables.LEAST_BYTES
    file = tmp_path_factory.mktemp("mixed") / "m.onnx"
    plain = onnx.load(export_onnx(model, file, inputs=text_inputs(NAMES), output_names=("logits",)))
    tables.LEAST_BYTES = 1
    try:
        return find_sites(model), plain, convert_precision(plain, "int8")
    finally:
        tables.LEAST_BYTES = least


def logits(proto):
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: GIVEN[i.name] for i in session.get_inputs()})[0]


def test_nothing_taken_is_the_fp32_file_and_all_of_it_the_quantized_one(files):
    _, plain, quantized = files
    np.testing.assert_array_equal(logits(mixed(plain, quantized, ())), logits(plain))
    whole = mixed(plain, quantized, changed(plain, quantized))
    np.testing.assert_array_equal(logits(whole), logits(quantized))
    assert integer_weights(whole).keys() == integer_weights(quantized).keys()


def test_a_site_alone_is_that_site_alone_with_its_own_integers(files):
    sites, plain, quantized = files
    left = changed(plain, quantized)
    every = integer_weights(quantized)
    for site in sites:
        modules = {*site.inputs, site.output}
        own = made_by_modules(plain, modules) & left
        assert len(own) == len(modules)
        one = mixed(plain, quantized, own)
        found = integer_weights(one)
        assert {module_of(name) for name in found} == modules
        for name, values in found.items():
            np.testing.assert_array_equal(values, every[name])
        assert 0 < np.abs(logits(one) - logits(plain)).max() < 0.2
        left -= own
    # What belongs to no site: embedding tables, and the products of the head.
    rest = mixed(plain, quantized, left)
    modules = {module_of(name) for name in integer_weights(rest)}
    assert modules and not modules & {m for s in sites for m in (*s.inputs, s.output)}
    assert tables.table_values(rest) and not tables.table_values(mixed(plain, quantized, own))


def test_a_tensor_that_the_quantized_file_does_not_make_is_no_silent_mistake(files):
    _, plain, quantized = files
    other = onnx.ModelProto()
    other.CopyFrom(quantized)
    name = next(iter(changed(plain, quantized)))
    kept = [n for n in other.graph.node if name not in n.output]
    del other.graph.node[:]
    other.graph.node.extend(kept)
    assert name not in changed(plain, other)
    with pytest.raises(KeyError):
        mixed(plain, other, [name])


def test_what_quantizing_costs_by_site_adds_up(tmp_path, monkeypatch):
    """The divergences of the sites alone, and of what belongs to none, sum to that of all. With two
    labels, errors that happen to point the same way or against each other move the sum; over many
    labels and several models that evens out."""
    monkeypatch.setattr(tables, "LEAST_BYTES", 1)
    ids = np.random.default_rng(0).integers(2, 40, (100, 1, 12))
    alone = together = 0.0
    for seed in range(4):
        model = make("bert", seed=seed, num_labels=64)
        sites = find_sites(model)
        given = {"inputs": text_inputs(NAMES), "output_names": ("logits",)}
        plain = onnx.load(export_onnx(model, tmp_path / f"{seed}.onnx", **given))
        quantized = convert_precision(plain, "int8")
        left = changed(plain, quantized)
        parts = [left & made_by_modules(plain, {*s.inputs, s.output}) for s in sites]
        parts.append(left.difference(*parts))
        before = outputs(plain, ids)
        losses = [
            outputs_divergence(before, outputs(mixed(plain, quantized, part), ids), ("logits",))
            for part in parts
        ]
        assert min(losses) > 0 and max(losses) < 0.9 * sum(losses)
        alone += sum(losses)
        together += outputs_divergence(before, outputs(quantized, ids), ("logits",))
    assert alone == pytest.approx(together, rel=0.25)


def outputs(proto, ids):
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    rows = [{n: row if n == "input_ids" else np.ones_like(row) for n in names} for row in ids]
    return {"logits": [session.run(None, row)[0][0] for row in rows]}
