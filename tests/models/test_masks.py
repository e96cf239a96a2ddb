"""A mask on the input of a projection is a mask of its units, and leaves nothing behind."""

import numpy as np
import pytest
import torch

from rfx.core.plan import Kind, Plan
from rfx.models.families.find import find_sites
from rfx.models.masks import MaskTap, plan_masks
from tests.families import batch, make


@pytest.fixture(scope="module")
def model():
    return make("bert")


@pytest.fixture(scope="module")
def sites(model):
    return find_sites(model)


def logits(model, inputs=None):
    with torch.no_grad():
        return model(**(inputs or batch())).logits


def channels_into(model, site, masks, sites):
    """The input of a site's output projection, [B, T, units * width], as it reaches the layer."""
    seen = []
    with MaskTap(model, sites, masks), torch.no_grad():
        # Registered after the tap's own hook, so that this one sees what the tap made of the input.
        handle = model.get_submodule(site.output).register_forward_pre_hook(
            lambda _module, args: seen.append(args[0].clone())
        )
        try:
            model(**batch())
        finally:
            handle.remove()
    return seen[0]


@pytest.mark.parametrize("kind", list(Kind))
def test_every_channel_of_a_unit_is_scaled_and_no_other(model, sites, kind):
    site = next(s for s in sites if s.kind is kind)
    before = channels_into(model, site, {}, sites)
    scale = torch.ones(site.units)
    scale[0], scale[2] = 0.0, -1.5
    after = channels_into(model, site, {site.name: scale}, sites)
    expected = before.clone().reshape(*before.shape[:2], site.units, site.width)
    expected[:, :, 0] = 0
    expected[:, :, 2] *= -1.5
    torch.testing.assert_close(after, expected.reshape(before.shape), rtol=0, atol=0)


def test_a_mask_of_ones_changes_nothing_and_one_of_zeros_leaves_the_bias(model, sites):
    dense = logits(model)
    ones = {s.name: torch.ones(s.units) for s in sites}
    with MaskTap(model, sites, ones):
        assert torch.equal(logits(model), dense)
    site = sites[0]
    out = model.get_submodule(site.output)
    given = []
    handle = out.register_forward_hook(lambda _module, _args, output: given.append(output))
    with MaskTap(model, sites, {site.name: torch.zeros(site.units)}):
        logits(model)
    handle.remove()
    torch.testing.assert_close(given[0], out.bias.expand_as(given[0]), rtol=0, atol=0)


def test_one_mask_an_example_equals_each_example_alone(model, sites):
    inputs = batch()
    site = next(s for s in sites if s.kind is Kind.MHA)
    size = len(inputs["input_ids"])
    masks = torch.rand(size, site.units, generator=torch.Generator().manual_seed(0))
    with MaskTap(model, sites, {site.name: masks}):
        together = logits(model, inputs)
    assert not torch.allclose(together, logits(model, inputs), atol=1e-3)
    for row in range(size):
        with MaskTap(model, sites, {site.name: masks[row]}):
            alone = logits(model, {k: v[row : row + 1] for k, v in inputs.items()})
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_nothing_is_left_behind_even_by_an_error(model, sites):
    dense = logits(model)
    masks = {s.name: torch.zeros(s.units) for s in sites}
    with pytest.raises(RuntimeError, match="in between"), MaskTap(model, sites, masks):
        assert not torch.equal(logits(model), dense)
        raise RuntimeError("in between")
    assert torch.equal(logits(model), dense)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_a_tap_can_be_opened_again_and_reads_its_masks_when_the_model_runs(model, sites):
    site, dense = sites[1], logits(model)
    masks = {site.name: torch.zeros(site.units)}
    tap = MaskTap(model, sites, masks)
    with tap:
        emptied = logits(model)
    masks[site.name] = torch.ones(site.units)
    with tap:
        assert torch.equal(logits(model), dense)
    assert not torch.equal(emptied, dense)


def test_masks_of_a_plan_are_zero_where_pruned_and_else_one_or_the_scale(sites):
    plan = Plan.of(sites, {s.name: range(1, s.units, 2) for s in sites})
    name, units = sites[0].name, sites[0].units
    scales = {name: np.linspace(-1, 2, units)}
    plain, scaled = plan_masks(plan), plan_masks(plan, scales)
    for site in plan.sites:
        kept = np.isin(np.arange(site.units), site.kept)
        assert plain[site.name].dtype == torch.float32
        np.testing.assert_array_equal(plain[site.name].numpy(), kept.astype(np.float32))
        wanted = np.where(kept, scales[name], 0) if site.name == name else kept
        np.testing.assert_array_equal(scaled[site.name].numpy(), wanted.astype(np.float32))
