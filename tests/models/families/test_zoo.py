"""Every family is found by what it computes: masked = shrunk = reloaded = ONNX Runtime, with
different counts in every layer and emptied sublayers."""

from collections import Counter

import numpy as np
import onnxruntime as ort
import pytest
import torch

from benchmarks.families_models import ZOO, small
from rfx.core.errors import UserError
from rfx.core.plan import Kind, Plan
from rfx.export.onnx import export_onnx, plan_metadata, shape_mismatches
from rfx.models.checkpoint import load, save
from rfx.models.families.find import inspect_model
from rfx.models.masks import MaskTap, plan_masks
from rfx.models.shrink import parameter_count, shrink
from tests.families import batch, text_inputs

# Windows are cut by what the inputs hold, which PyTorch's exporter cannot follow; positions are
# computed in Python, with numbers.
NOT_EXPORTED = {"longformer": "export", "funnel": "inputs of any length"}


def uneven(sites) -> Plan:
    """Other counts at every site; the first with heads and the last with filters are emptied."""
    rng = np.random.default_rng(0)
    kept = {
        s.name: sorted(rng.permutation(s.units)[: rng.integers(1, s.units)].tolist()) for s in sites
    }
    heads = [s.name for s in sites if s.kind is Kind.MHA]
    filters = [s.name for s in sites if s.kind is Kind.FFN]
    kept |= {n: [] for n in (*heads[:1], *filters[-1:])} if len(sites) > 2 else {}
    return Plan.of(sites, kept)


@pytest.mark.parametrize("name", ZOO)
def test_it_is_found_and_the_small_model_computes_what_the_masked_one_does(name, tmp_path):
    model, inputs = small(name), batch()
    seen = inspect_model(model)
    sites = seen.sites
    assert Counter(s.kind for s in sites) == Counter(
        {k: n for k, n in zip((Kind.MHA, Kind.FFN), ZOO[name][2:], strict=True) if n}
    ), seen.refused
    assert seen.error < 1e-5 and seen.rows < 300
    plan = uneven(sites)
    with torch.no_grad():
        dense = model(**inputs).logits
        with MaskTap(model, sites, plan_masks(plan)):
            masked = model(**inputs).logits
        made = shrink(model, sites, plan)
        shrunk = made(**inputs).logits
    scale = float(dense.abs().max())
    assert float((masked - dense).abs().max()) > 1e-3 * scale
    assert float((masked - shrunk).abs().max()) < 1e-5 * scale
    assert parameter_count(made) < parameter_count(model)

    save(made, sites, plan, tmp_path / "model")
    again = load(tmp_path / "model")
    with torch.no_grad():
        assert float((again(**inputs).logits - shrunk).abs().max()) < 1e-6 * scale

    if name in NOT_EXPORTED:
        with pytest.raises(UserError, match=NOT_EXPORTED[name]):
            export_onnx(
                again, tmp_path / "model.onnx", inputs=text_inputs(), output_names=("logits",)
            )
        return
    file = export_onnx(
        again,
        tmp_path / "model.onnx",
        inputs=text_inputs(),
        output_names=("logits",),
        metadata=plan_metadata(plan),
    )
    assert shape_mismatches(file, sites, plan) == []
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for rows, tokens in ((3, 11), (1, 5)):
        cut = {k: v[:rows, :tokens] for k, v in inputs.items()}
        (out,) = session.run(["logits"], {k: v.numpy() for k, v in cut.items()})
        with torch.no_grad():
            wanted = again(**cut).logits
        assert float((torch.from_numpy(out) - wanted).abs().max()) < 1e-4 * scale
