"""Activations beyond what float32 can hold end in one message that names the sublayer."""

import numpy as np
import pytest
import torch

from rfx.core import registry
from rfx.core.errors import UsageError
from rfx.methods.compensate.projection import reconstruct
from rfx.methods.compensate.scales import tune
from rfx.methods.finite import require_finite
from rfx.models.families.find import find_sites
from tests.families import batch, make
from tests.methods.scores.labelled import ClassTask


def overflowing(part):
    """A model whose second layer multiplies by 1e25: products of such values are infinite in
    float32."""
    model = make("bert").eval()
    with torch.no_grad():
        model.get_submodule("bert.encoder.layer.1." + part).weight.mul_(1e25)
    return model


def halves(sites):
    return {s.name: np.arange(s.units) % 2 for s in sites}


@pytest.mark.parametrize("fit", [reconstruct, tune])
@pytest.mark.parametrize(
    "part, named", [("attention.self.value", "layer.1.mha"), ("intermediate.dense", "layer.1.ffn")]
)
def test_a_compensation_names_the_sublayer(fit, part, named):
    model, sites = overflowing(part), find_sites(make("bert"))
    with pytest.raises(UsageError, match=f"features and errors of {named}"):
        fit(model, sites, halves(sites), [(batch(10, 12), {})] * 3)


@pytest.mark.parametrize("scorer", ["fisher", "output-metric", "kprune"])
def test_a_scorer_names_the_sublayer(scorer):
    model, sites = overflowing("intermediate.dense"), find_sites(make("bert"))
    batches = [(batch(4, 9), {"labels": torch.tensor([0, 1, 0, 1])})] * 2
    with pytest.raises(UsageError, match=r"of layer\.\d\.(mha|ffn) are not finite"):
        registry.find("scorer", scorer)().score(model, sites, batches, ClassTask())


def test_what_is_finite_passes():
    require_finite("layer.0.mha", "gradients", torch.ones(3), torch.zeros(0))
    with pytest.raises(UsageError, match="1 of 4 are NaN"):
        require_finite("x", "gradients", torch.ones(2), torch.tensor([1.0, float("nan")]))
