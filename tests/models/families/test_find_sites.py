"""Sites are found for what they are, by what a model computes."""

from types import SimpleNamespace

import pytest
import torch
import transformers as tf

from benchmarks.families_models import small
from rfx.core.errors import UnsupportedModelError
from rfx.core.plan import Kind
from rfx.models.families.anatomy import normalises
from rfx.models.families.example import probe_inputs
from rfx.models.families.find import find_sites, inspect_model, layout, position_limit
from rfx.models.prove import prove
from tests.families import FAMILIES, make
from tests.models.families.anatomies import DESCRIBED

HEADS, WIDTH, FILTERS, LAYERS = 4, 8, 48, 3  # of the models that `make` makes


@pytest.mark.parametrize("family", FAMILIES)
def test_sites_come_in_the_order_they_run_with_their_sizes(family):
    model = make(family)
    sites = find_sites(model)
    assert [(s.name, s.layer, s.kind) for s in sites] == [
        (f"layer.{i}.{kind.value}", i, kind) for i in range(LAYERS) for kind in (Kind.MHA, Kind.FFN)
    ]
    for site in sites:
        size = (HEADS, WIDTH) if site.kind is Kind.MHA else (FILTERS, 1)
        assert (site.units, site.width) == size
        assert model.get_submodule(site.output).in_features == site.channels
        assert len(site.inputs) == (3 if site.kind is Kind.MHA else 1)
        for path in site.inputs:
            assert model.get_submodule(path).out_features == site.channels
        assert all(p.startswith(site.layer_path + ".") for p in (*site.inputs, site.output))

    ran = []
    handles = [
        model.get_submodule(s.output).register_forward_hook(
            lambda *_, name=s.name: ran.append(name)
        )
        for s in sites
    ]
    with torch.no_grad():
        model(**probe_inputs(model))
    for handle in handles:
        handle.remove()
    assert ran == [s.name for s in sites]


@pytest.mark.parametrize("family", [f for f in FAMILIES if f in DESCRIBED])
def test_the_probe_finds_what_is_written_down_by_hand(family):
    model = make(family)

    def facts(site):
        return (
            *(site.name, site.layer, site.kind, site.units, site.width, site.inputs, site.output),
            *(site.layer_path, site.norm),
        )

    found, described = find_sites(model), DESCRIBED[family].sites(model)
    assert [facts(s) for s in found] == [facts(s) for s in described]
    for site, hand in zip(found, described, strict=True):
        assert site.slices == () and site.rows(site.inputs[0]) == hand.rows(hand.inputs[0])
        # Of a head: its part of query, key, value and output; of a filter a row and a column.
        assert site.weights == (4 * 32 * WIDTH if site.kind is Kind.MHA else 2 * 32)


@pytest.mark.parametrize("family, expected", [("bert", "post-ln"), ("esm", "pre-ln")])
def test_the_layout_says_where_the_norms_stand(family, expected):
    assert layout(find_sites(make(family))) == expected


def test_positions_end_where_the_table_does():
    assert position_limit(make("bert")) == 66
    assert position_limit(make("roberta")) == 66 - 1 - 1  # the padding's row and those before it
    unlimited = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=None))
    assert position_limit(unlimited) is None


def test_probe_inputs_are_the_same_every_time_and_leave_the_global_generator_alone():
    model = make("bert")
    state = torch.get_rng_state()
    one, two = probe_inputs(model), probe_inputs(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert one["attention_mask"][0].all() and not one["attention_mask"][1, -3:].any()
    assert int(one["input_ids"].min()) >= 3


def test_a_model_in_which_nothing_is_left_is_refused_with_every_reason():
    sizes = {"d_model": 32, "n_layer": 6, "n_head": 4, "d_inner": 48}
    model = tf.XLNetForSequenceClassification(tf.XLNetConfig(vocab_size=120, **sizes)).eval()
    with pytest.raises(UnsupportedModelError, match="finds nothing that it can prune") as refused:
        find_sites(model)
    said = refused.value.got
    assert "transformer.layer.0.ff.layer_2" in said and "and 2 more: the axes of its input" in said
    assert refused.value.next_step


def test_a_model_that_does_not_run_is_refused_with_what_it_says():
    config = tf.GPT2Config(vocab_size=120, n_embd=32, n_layer=2, n_head=4, n_positions=66)
    model = tf.GPT2ForSequenceClassification(config).eval()
    model.config.pad_token_id = None
    with pytest.raises(UnsupportedModelError, match="does not run on two texts") as refused:
        find_sites(model)
    assert "padding token" in refused.value.got


def test_a_pruned_model_is_refused():
    model = make("bert")
    model.config.pruned_layers = [{"heads": 1, "filters": 2}]
    with pytest.raises(UnsupportedModelError, match="pruned by rfx already"):
        find_sites(model)


@pytest.mark.parametrize("kind", list(Kind))
def test_sites_of_one_kind_alone_are_proved_too(kind):
    model = make("bert")
    assert prove(model, [s for s in find_sites(model) if s.kind is kind]) < 1e-4


def test_an_interrupt_while_a_model_is_read_is_no_model_that_cannot_be_read(monkeypatch):
    """PyTorch keeps no more of one that meets its C++ than its name in a text."""
    model = make("ernie")

    def interrupted(**_):
        raise RuntimeError("KeyboardInterrupt: <EMPTY MESSAGE>")

    monkeypatch.setattr(model, "forward", interrupted)
    with pytest.raises(RuntimeError, match="KeyboardInterrupt"):
        find_sites(model)


PRE_LN = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 66,
    "pad_token_id": 1,
}


@pytest.mark.parametrize(
    "made, norms",
    [
        (
            tf.RobertaPreLayerNormConfig,
            ("layer.0.intermediate.LayerNorm", "layer.1.attention.LayerNorm"),
        ),
        (tf.XLMRobertaXLConfig, ("layer.0.LayerNorm", "layer.1.attention.self_attn_layer_norm")),
    ],
)
def test_a_norm_is_what_normalises_whatever_classes_are_called(made, norms):
    model = tf.AutoModelForSequenceClassification.from_config(made(**PRE_LN)).eval()
    sites = find_sites(model)
    assert tuple(s.norm.partition("encoder.")[2] for s in sites[:2]) == norms
    # What a compensation reads before the norm is the residual stream, not the projection's input.
    for site in sites[:2]:
        assert isinstance(model.get_submodule(site.norm), torch.nn.LayerNorm)
    assert layout(sites) == "pre-ln" and prove(model, sites) < 1e-5


def test_what_normalises():
    x = torch.randn(2, 5, 16)
    for module in (torch.nn.LayerNorm(16), torch.nn.RMSNorm(16)):
        assert normalises(module, x)
    for module in (torch.nn.GELU(), torch.nn.Tanh(), torch.nn.Identity(), torch.nn.Softmax(-1)):
        assert not normalises(module, x)


def test_no_positive_number_of_positions_is_no_limit():
    for limit in (-1, 0, None):
        model = SimpleNamespace(
            config=SimpleNamespace(max_position_embeddings=limit), named_modules=dict
        )
        assert position_limit(model) is None


def test_a_table_of_many_relative_positions_does_not_make_projections_few():
    seen = inspect_model(small("deberta-v2", max_relative_positions=512))
    assert len(seen.sites) == 6


def test_a_model_without_any_inner_module_is_refused():
    class Flat(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.config = SimpleNamespace(model_type="flat", vocab_size=20)
            self.words, self.head = torch.nn.Embedding(20, 8), torch.nn.Linear(8, 2)

        def forward(self, input_ids, attention_mask):
            return {"logits": self.head(self.words(input_ids)).sum(1)}

    with pytest.raises(UnsupportedModelError, match="finds nothing that it can prune"):
        find_sites(Flat().eval())


def test_a_head_of_two_linears_alone_is_nothing_to_prune():
    """Its inner channels are computed at one position, and the layers' own cannot be told apart."""
    sizes = {**PRE_LN, "embedding_size": 32}
    model = tf.SqueezeBertForSequenceClassification(tf.SqueezeBertConfig(**sizes)).eval()
    with pytest.raises(UnsupportedModelError, match="finds nothing that it can prune") as refused:
        find_sites(model)
    assert "classifier: it is computed at so few positions" in refused.value.got


def test_the_number_of_a_layer_is_no_number_of_units():
    model = small("llama", num_hidden_layers=4)
    assert model.model.layers[2].self_attn.layer_idx == 2  # as many as there are groups of heads
    sites = [s for s in find_sites(model) if s.kind is Kind.MHA]
    assert {s.units for s in sites} == {2}
    assert not [c for s in sites for c in s.constants if "layer" in c.attribute]


def test_outputs_of_one_number_a_text_are_looked_at():
    class Score(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.config = SimpleNamespace(model_type="score", vocab_size=20)
            self.words, self.norm = torch.nn.Embedding(20, 8), torch.nn.LayerNorm(8)
            self.up, self.down = torch.nn.Linear(8, 16), torch.nn.Linear(16, 8)

        def forward(self, input_ids, attention_mask):
            x = self.words(input_ids)
            return {"score": self.norm(x + self.down(self.up(x).relu())).square().mean((1, 2))}

    (site,) = find_sites(Score().eval())
    assert (site.output, site.units, site.width) == ("down", 16, 1)
