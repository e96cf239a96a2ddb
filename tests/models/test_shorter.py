"""Deep models are timed with their first layers: what is left is the model that has so many."""

import copy
from dataclasses import replace

import pytest
import torch

from benchmarks.families_models import small
from rfx.core.plan import Plan
from rfx.core.progress import Silent
from rfx.core.store import Store
from rfx.cost.curves import DENSE
from rfx.models.canonical import canonical
from rfx.models.families.find import find_sites
from rfx.models.load import as_subject
from rfx.models.shorter import first_layers
from rfx.models.shrink import shrink
from rfx.pipeline.dense import dense_at
from rfx.pipeline.session import Session, Target
from rfx.pipeline.timed import Timed, model_shape
from rfx.recipe.read import make_recipe
from rfx.runtimes.find import runtime
from tests.conftest import tokenizer
from tests.families import batch, make, text_inputs


@pytest.mark.parametrize("name", ["bert", "roberta", "llama", "gpt2", "deberta-v3", "modernbert"])
def test_what_is_left_is_the_model_with_so_many_layers(name):
    """As transformers itself builds it, with these weights."""
    deep = small(name, num_hidden_layers=4)
    sites = find_sites(deep)
    short = first_layers(deep, sites, text_inputs(), 2)
    assert short is not None
    config = copy.deepcopy(deep.config)
    config.num_hidden_layers = 2
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:2]
    wanted = type(deep)(config).eval()
    canonical(wanted)
    wanted.load_state_dict(deep.state_dict(), strict=False)
    with torch.no_grad():
        assert torch.equal(short(**batch()).logits, wanted(**batch()).logits)
        assert not torch.equal(deep(**batch()).logits, wanted(**batch()).logits)
    # It has the weights of the model, and takes no memory of its own.
    own = {id(p) for p in deep.parameters()}
    assert all(id(p) in own for p in short.parameters())
    assert len(find_sites(deep)) == len(sites)


@pytest.mark.parametrize("name", ["albert", "xlm"])
def test_layers_that_are_no_list_of_their_own_are_left_whole(name):
    """Weights that all layers share; parts of layers in lists of their own."""
    model = small(name)
    assert first_layers(model, find_sites(model), text_inputs(), 1) is None


def test_a_model_that_does_not_run_without_its_last_layers_is_left_whole():
    model = make("bert", num_hidden_layers=3)
    sites = find_sites(model)
    encoder = model.bert.encoder
    real = type(encoder).forward

    def forward(self, *args, **kwargs):
        assert len(self.layer) == 3
        return real(self, *args, **kwargs)

    encoder.forward = forward.__get__(encoder)
    assert first_layers(model, sites, text_inputs(), 2) is None


@pytest.fixture
def timed(tmp_path):
    def make_timed(model, most):
        subject = as_subject(model, tokenizer(tmp_path), "a model")
        here = runtime("ort")
        here.capabilities = replace(here.capabilities, max_depth=most)
        session = Session(Store(tmp_path / "store"), Target(here, here), Silent())
        recipe = make_recipe({"budget": {"latency": 0.5}})
        dense = dense_at(session, recipe, subject, ("logits",), "fp32", "dense baseline", None)
        shape = model_shape(recipe, subject, dense.artefact)
        return Timed(session, recipe, subject, ("logits",), shape, None), shape

    return make_timed


def test_a_deep_model_is_timed_with_so_many_layers_as_the_runtime_needs(timed):
    """The last of them is computed at one position, as the last of the model is."""
    made, shape = timed(make("bert", num_hidden_layers=5, vocab_size=36), 2)
    assert made.layers == 2 and made.sites == {"mha": (2, 1), "ffn": (2, 1)}
    assert {n for own in shape.partial.values() for n in own} == {"layer.4.mha", "layer.4.ffn"}
    names = [t.name for t in made.model(DENSE).graph.initializer]
    assert any("layer.1." in n for n in names) and not any("layer.2." in n for n in names)
    dims = {t.name: list(t.dims) for t in made.model(("ffn", 16)).graph.initializer}
    assert dims["bert.encoder.layer.0.intermediate.dense.weight.T"] == [32, 16]
    none = {t.name: list(t.dims) for t in made.model(("mha", 0)).graph.initializer}
    # Without any head the last layer would read one position of the one before: it keeps one.
    assert none["bert.encoder.layer.1.attention.self.query.weight.T"] == [32, 8]
    assert "bert.encoder.layer.0.attention.self.query.weight.T" not in none


def test_every_size_has_a_layer_among_them(timed):
    """A model whose third layer has fewer filters is timed with four layers, where two would do
    for the others: the last one is computed at one position, and has to be as the model's last."""
    whole = make("bert", num_hidden_layers=6, vocab_size=36)
    sites = find_sites(whole)
    kept = {s.name: range(24 if s.name == "layer.2.ffn" else s.units) for s in sites}
    made, shape = timed(shrink(whole, sites, Plan.of(sites, kept)), 2)
    assert [g.name for g in shape.alike] == ["mha", "ffn", "ffn-2"]
    assert made.layers == 4 and made.sites == {"mha": (4, 1), "ffn": (3, 1), "ffn-2": (1, 0)}
    dims = {t.name: list(t.dims) for t in made.model(("ffn-2", 8)).graph.initializer}
    assert dims["bert.encoder.layer.2.intermediate.dense.weight.T"] == [32, 8]
    assert dims["bert.encoder.layer.1.intermediate.dense.weight.T"] == [32, 48]
