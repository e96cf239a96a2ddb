"""masked = shrunk = reloaded = ONNX Runtime, for every family, with emptied sublayers and unequal
layers."""

from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
import torch

import rfx
from rfx.core.errors import UnsupportedModelError, UsageError
from rfx.core.plan import Plan, Update
from rfx.export.onnx import export_onnx, plan_metadata, shape_mismatches
from rfx.models.checkpoint import load, save
from rfx.models.families.find import find_sites
from rfx.models.masks import MaskTap, plan_masks
from rfx.models.prove import prove
from rfx.models.shrink import parameter_count, shrink
from tests.families import FAMILIES, HEADS, batch, make, text_inputs


def uneven_plan(sites, seed=0):
    """Random kept units; the first attention and the last FFN are emptied, the second attention is
    whole."""
    rng = np.random.default_rng(seed)
    kept = {
        s.name: sorted(rng.permutation(s.units)[: rng.integers(1, s.units)].tolist()) for s in sites
    }
    kept["layer.0.mha"] = []
    kept["layer.2.ffn"] = []
    kept["layer.1.mha"] = list(range(4))
    return Plan.of(sites, kept)


def real_scales(plan, seed=0):
    rng = np.random.default_rng(seed)
    return {
        s.name: rng.uniform(-2, 3, s.units) * np.isin(np.arange(s.units), s.kept)
        for s in plan.sites
    }


def tensors(output, names):
    return torch.cat([getattr(output, n).flatten() for n in names])


# Every family with one head, and every head with two families.
CASES = [
    pytest.param(
        family,
        task,
        marks=()
        if task == "text-classification" or family in ("bert", "distilbert")
        else pytest.mark.slow,
    )
    for family in FAMILIES
    for task in HEADS
]


@pytest.mark.parametrize("family, task", CASES)
def test_masked_shrunk_reloaded_and_onnx_agree(family, task, tmp_path):
    if family == "esm" and task == "question-answering":
        pytest.skip("transformers has no EsmForQuestionAnswering")
    names = HEADS[task][1]
    model, inputs = make(family, task), batch()
    sites = find_sites(model)
    plan = uneven_plan(sites)
    scales = real_scales(plan)
    with torch.no_grad():
        with MaskTap(model, sites, plan_masks(plan, scales)):
            masked = tensors(model(**inputs), names)
        small = shrink(model, sites, plan, Update(scales=scales))
        shrunk = tensors(small(**inputs), names)
    assert {
        s.name: small.get_submodule(s.output).in_features // s.width for s in sites
    } == plan.counts
    assert parameter_count(small) < parameter_count(model)
    assert torch.allclose(masked, shrunk, atol=2e-5)
    assert not torch.allclose(masked, tensors(model(**inputs), names), atol=1e-2)

    save(small, sites, plan, tmp_path / "model")
    reloaded = load(tmp_path / "model")
    padding = {**inputs, "attention_mask": inputs["attention_mask"].clone()}
    padding["attention_mask"][2] = 0  # a row that is padding alone
    with torch.no_grad():
        assert torch.allclose(tensors(reloaded(**inputs), names), shrunk, atol=2e-5)
        of_padding = tensors(reloaded(**padding), names).numpy()
        reloaded.set_attn_implementation("sdpa")
        assert torch.equal(tensors(reloaded(**inputs), names), shrunk)

    file = export_onnx(
        reloaded,
        tmp_path / "model.onnx",
        inputs=text_inputs(("input_ids", "attention_mask")),
        output_names=names,
        metadata=plan_metadata(plan),
    )
    assert shape_mismatches(file, sites, plan) == []
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for shape in ((3, 11), (1, 5)):
        cut = {k: v[: shape[0], : shape[1]] for k, v in inputs.items()}
        out = session.run(list(names), {k: v.numpy() for k, v in cut.items()})
        with torch.no_grad():
            expected = tensors(small(**cut), names)
        assert np.allclose(np.concatenate([o.ravel() for o in out]), expected.numpy(), atol=2e-5)
    out = session.run(list(names), {k: v.numpy() for k, v in padding.items()})
    assert np.allclose(np.concatenate([o.ravel() for o in out]), of_padding, atol=2e-5)
    meta = session.get_modelmeta().custom_metadata_map
    assert meta["rfx.plan"] == plan.hash and meta["rfx.heads"].startswith("0,4,")


def test_a_file_that_is_only_masked_is_found_out(tmp_path):
    """The regression that broke others: the masked model exported as if it were small."""
    model = make("bert")
    sites = find_sites(model)
    plan = uneven_plan(sites)
    file = export_onnx(
        model,
        tmp_path / "m.onnx",
        inputs=text_inputs(("input_ids", "attention_mask")),
        output_names=("logits",),
    )
    wrong = shape_mismatches(file, sites, plan)
    assert any("layer.0.attention.self.query has 32 channels, the plan keeps 0" in w for w in wrong)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_anatomy_is_proved(family):
    model = make(family)
    assert prove(model, find_sites(model)) < 1e-4


def test_a_wrong_anatomy_is_refused():
    model = make("bert")
    sites = find_sites(model)
    heads, *others = sites
    for wrong in (
        replace(heads, units=heads.units // 2, width=2 * heads.width, inputs=heads.inputs[:2]),
        replace(heads, output=others[1].output),
    ):
        with pytest.raises(UnsupportedModelError, match="cannot prove") as refused:
            prove(model, [wrong, *others])
        assert "rfx sites" in refused.value.next_step


def test_the_loaded_model_is_a_plain_transformers_model(tmp_path):
    model = make("bert")
    sites = find_sites(model)
    plan = uneven_plan(sites)
    save(shrink(model, sites, plan), sites, plan, tmp_path / "a")
    loaded = rfx.load(tmp_path / "a").to(torch.float64).eval()
    assert type(loaded).__name__ == "BertForSequenceClassification"
    assert loaded(**batch(), labels=torch.tensor([0, 1, 0])).loss.isfinite()
    loaded.to(torch.float32).save_pretrained(tmp_path / "b")
    assert torch.equal(
        rfx.load(tmp_path / "b")(**batch()).logits, rfx.load(tmp_path / "a")(**batch()).logits
    )
    with pytest.raises(UnsupportedModelError, match="pruned by rfx already"):
        find_sites(loaded)


def test_new_weights_and_biases_are_taken(tmp_path):
    model = make("distilbert")
    sites = find_sites(model)
    plan = uneven_plan(sites)
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(32, plan["layer.1.ffn"].count))
    update = Update(weights={"layer.1.ffn": weight}, biases={"layer.0.mha": np.full(32, 0.5)})
    small = shrink(model, sites, plan, Update.from_arrays(update.to_arrays()))
    assert np.allclose(small.get_submodule(sites[3].output).weight.detach().numpy(), weight)
    assert torch.all(small.get_submodule(sites[0].output).bias == 0.5)


@pytest.mark.parametrize("damage", ["nothing there", "not json", "not ours", "weights gone"])
def test_bad_checkpoints_are_named(damage, tmp_path):
    model = make("bert")
    sites = find_sites(model)
    plan = uneven_plan(sites)
    if damage != "nothing there":
        save(shrink(model, sites, plan), sites, plan, tmp_path)
    if damage == "not json":
        (tmp_path / "config.json").write_text("{")
    if damage == "not ours":
        make("bert").save_pretrained(tmp_path)
    if damage == "weights gone":
        make("bert", intermediate_size=16).save_pretrained(tmp_path / "other")
        (tmp_path / "other" / "model.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(UsageError):
        load(tmp_path)
