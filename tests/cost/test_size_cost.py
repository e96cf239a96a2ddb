"""The size that is computed for a plan is that of the file that is written for it."""

import random

import onnx
import pytest
import torch
import transformers as tf

from rfx.core.errors import UnsupportedModelError
from rfx.core.inputs import InputSpec
from rfx.core.plan import Choice, Kind, Plan
from rfx.core.registry import find
from rfx.cost.base import FileCost
from rfx.cost.size import FILTER_GRID, SizeCost
from rfx.export.onnx import export_onnx
from rfx.export.size import EMBEDDINGS, GRAPH, WEIGHTS
from rfx.models.families.find import find_sites
from rfx.models.shrink import shrink
from rfx.pipeline.steps import load_model
from tests.families import with_slow

LABELS = ("logits",)
PLANS = 6
WITHIN = 0.01  # of the file


def modules(sites, names):
    return tuple(m for s in sites if s.name in names for m in (*s.inputs, s.output))


def written(model, inputs, file, precision, kept):
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return export_onnx(
        model, file, inputs=inputs, output_names=LABELS, precision=precision, keep_fp32=kept
    )


def plans(sites, seed=0):
    """Random ones: any counts, then with emptied sites too, then nothing at all and everything."""
    rng = random.Random(seed)
    for number in range(PLANS):
        counts = {s.name: rng.randint(1, s.units) for s in sites}
        if number >= PLANS // 2:
            counts |= {s.name: 0 for s in sites if rng.random() < 0.3}
        yield Plan.of(sites, {s.name: rng.sample(range(s.units), counts[s.name]) for s in sites})
    yield Plan.of(sites, {s.name: () for s in sites})
    yield Plan.dense(sites)


def errors(model, sites, inputs, folder, precision, kept=()):
    """The cost, and how far it is off for each plan, as a share of the file."""
    kept = modules(sites, kept)
    dense = written(model, inputs, folder / "dense.onnx", precision, kept)
    cost = SizeCost.of_files([onnx.load(dense)], sites, precision=precision)
    assert cost.dense(sites) == pytest.approx(dense.stat().st_size, abs=2)
    found = []
    for plan in plans(sites):
        file = written(shrink(model, sites, plan), inputs, folder / "small.onnx", precision, kept)
        computed = cost.predict(sites, plan.choices(precision))
        assert computed == pytest.approx(cost.share_of(plan) * cost.dense(sites))
        found.append(computed / file.stat().st_size - 1)
    return cost, found


@pytest.fixture(scope="module")
def subject_of():
    """Small models with a vocabulary of 1.1 MB, so that its table is quantized too. All weights
    differ: equal tensors would be one in the file."""

    def make(family):
        names = ("dim", "n_layers", "n_heads", "hidden_dim")
        if family != "DistilBert":
            names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
            names = (*names, "intermediate_size")
        config = getattr(tf, f"{family}Config")(
            vocab_size=4400,
            max_position_embeddings=66,
            pad_token_id=1,
            **dict(zip(names, (64, 3, 4, 160), strict=True)),
        )
        torch.manual_seed(0)
        model = getattr(tf, f"{family}ForSequenceClassification")(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        inputs = InputSpec.of_text(("input_ids", "attention_mask"), vocabulary=4400, positions=64)
        return model, find_sites(model), inputs

    return make


@pytest.fixture(scope="module")
def bert(subject_of):
    return subject_of("Bert")


@pytest.mark.parametrize(
    ("precision", "kept"),
    [
        ("fp32", ()),
        ("fp16", ()),
        ("int8", ()),
        ("int8", ("layer.0.ffn", "layer.1.mha")),
    ],
)
def test_random_plans_have_the_size_that_was_computed(bert, tmp_path, precision, kept):
    model, sites, inputs = bert
    cost, found = errors(model, sites, inputs, tmp_path, precision, kept)
    assert max(map(abs, found)) <= WITHIN, found
    assert cost.precision == precision and cost.unit == "bytes" and not cost.linear
    size = {"fp32": 4, "fp16": 2, "int8": 1}[precision]
    for site in sites:
        each = 4 if site.name in kept else size
        units = cost.sites[site.name].unit / (site.width * 64 * each)
        products = 4 if site.kind is Kind.MHA else 2  # of weights; biases and scales beside them
        assert products <= units < 1.3 * products
        assert cost.sites[site.name].once > 0


@pytest.mark.parametrize(
    "family", with_slow(["Roberta", "Electra", "DistilBert"], named=("DistilBert",))
)
def test_other_families_are_read_alike(subject_of, tmp_path, family):
    _, found = errors(*subject_of(family), tmp_path, "int8")
    assert max(map(abs, found)) <= WITHIN, found


def test_in_a_tiny_file_only_what_a_site_takes_by_itself_is_inexact(trained, tmp_path):
    subject = load_model(trained["model"])
    _, found = errors(subject.model, subject.sites, subject.inputs, tmp_path, "fp32")
    full = found[: PLANS // 2]
    assert max(map(abs, full)) <= WITHIN / 10, full  # no site is empty
    assert min(found) > -WITHIN  # the graph that all attentions share goes with the last of them


@pytest.fixture
def cost(trained, tmp_path):
    subject = load_model(trained["model"])
    file = written(subject.model, subject.inputs, tmp_path / "dense.onnx", "fp32", ())
    return subject, file, SizeCost.of_files([onnx.load(file)], subject.sites, precision="fp32")


def test_what_cannot_be_pruned_is_told_apart(cost):
    subject, file, made = cost
    tables = [p for n, p in subject.model.named_parameters() if "embeddings.weight" in n]
    assert made.parts[EMBEDDINGS] == pytest.approx(4 * sum(p.numel() for p in tables), rel=0.01)
    assert set(made.parts) == {EMBEDDINGS, WEIGHTS, GRAPH} and min(made.parts.values()) > 0
    nothing = {s.name: Choice(0) for s in subject.sites}
    assert made.predict(subject.sites, nothing) == made.fixed == sum(made.parts.values())
    more = SizeCost.of_files([onnx.load(file)], subject.sites, precision="fp32", more=100.0)
    assert more.fixed == made.fixed + 100


def test_a_curve_has_every_head_and_the_grid_of_filters(cost):
    subject, _, made = cost
    for site in subject.sites:
        curve = made.curve(site)
        step = FILTER_GRID if site.kind is Kind.FFN else 1
        assert [c.count for c in curve] == list(range(0, site.units + 1, step))
        values = list(curve.values())
        assert values[0] == 0 and values == sorted(values)
        assert made.of(site, Choice(site.units)) == values[-1]


def test_a_model_in_two_files_is_both_of_them(cost):
    subject, file, made = cost
    graph = onnx.load(file)
    both = SizeCost.of_files([graph, graph], subject.sites, precision="fp32")
    assert both.dense(subject.sites) == 2 * made.dense(subject.sites)
    assert both.fixed == pytest.approx(2 * made.fixed)


def test_a_file_that_names_no_weights_is_refused(cost):
    subject, file, _ = cost
    graph = onnx.load(file)
    for i, initializer in enumerate(graph.graph.initializer):
        initializer.name = f"weight_{i}"
    with pytest.raises(UnsupportedModelError) as refused:
        SizeCost.of_files([graph], subject.sites, precision="fp32")
    assert "layer.0.mha" in str(refused.value) and refused.value.next_step


def test_it_is_registered_as_the_cost_of_its_budget():
    assert find("cost", "size") is SizeCost and issubclass(SizeCost, FileCost)
