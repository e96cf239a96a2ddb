"""The probe against modules whose couplings are known."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rfx.models.families.probe import (
    AROUND,
    ELSEWHERE,
    MIXED,
    RESIDUAL,
    UNEVEN,
    probe,
)

D = 12


class Model(nn.Module):
    """Ids [B, T] -> embeddings, one block, a head."""

    def __init__(self, block):
        super().__init__()
        torch.manual_seed(0)
        self.embeddings, self.block, self.head = nn.Embedding(20, D), block, nn.Linear(D, 3)
        self.norm = nn.LayerNorm(D)
        self.config = SimpleNamespace()

    def forward(self, input_ids):
        x = self.embeddings(input_ids)
        return self.head(self.norm(x + self.block(x)))


class Attention(nn.Module):
    """`how` is the order of the rows of one fused linear: parts (q, k and v as equal parts), heads
    (head by head), shared (queries, then fewer keys and values), shuffled (in no order)."""

    def __init__(self, how, heads=4, width=3, shared=2):
        super().__init__()
        self.how, self.heads, self.width = how, heads, width
        self.groups = shared if how == "shared" else heads
        rows = heads * width + 2 * self.groups * width
        self.fused, self.out = nn.Linear(D, rows), nn.Linear(heads * width, D)
        self.bias = nn.Parameter(torch.randn(heads, 1, 1))
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(1))
        self.register_buffer("order", order if how == "shuffled" else torch.arange(rows))

    def forward(self, x):
        b, t, _ = x.shape
        y, h, w, g = self.fused(x)[..., self.order], self.heads, self.width, self.groups
        if self.how == "heads":
            q, k, v = y.view(b, t, h, 3 * w).split(w, -1)
        else:
            q, k, v = y.split([h * w, g * w, g * w], -1)
            q, k, v = (z.view(b, t, -1, w) for z in (q, k, v))
        k, v = (z.repeat_interleave(h // g, 2) for z in (k, v))
        q, k, v = (z.transpose(1, 2) for z in (q, k, v))
        scores = q @ k.transpose(2, 3) + self.bias
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, h * w))


def found(block):
    model = Model(block).eval()
    return probe(model, {"input_ids": torch.arange(6)[None]})


@pytest.mark.parametrize("how", ["parts", "heads", "shared", "shuffled"])
def test_heads_of_one_fused_projection_are_told_apart_in_every_order(how):
    seen = found(Attention(how))
    (site,) = seen.sites
    assert site.output == "block.out"
    assert (site.units, site.width) == ((2, 6) if how == "shared" else (4, 3))
    (made,) = site.producers
    if how == "shuffled":
        order = Attention(how).order
        # Row j of the linear is number `where` of q, k and v.
        where = torch.empty_like(order)
        where[order] = torch.arange(len(order))
        assert made.unit_of == tuple(int(i) % 12 // 3 for i in where)
    elif how == "parts":
        assert made.unit_of == tuple(u for _ in range(3) for u in range(4) for _ in range(3))
    elif how == "heads":
        assert made.unit_of == tuple(u for u in range(4) for _ in range(9))
    else:
        assert made.unit_of == (*[0] * 6, *[1] * 6, *([0] * 3 + [1] * 3) * 2)
    (table,) = site.tables
    assert (table.path, table.parameter, table.dim) == ("block", "bias", 0)
    assert table.unit_of == ((0, 0, 1, 1) if how == "shared" else (0, 1, 2, 3))


class Ffn(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how
        self.up, self.gate, self.down = nn.Linear(D, 20), nn.Linear(D, 20), nn.Linear(20, D)
        self.norm, self.scale = nn.LayerNorm(20), nn.Parameter(torch.ones(20))
        self.beside = nn.Linear(20, D)

    def forward(self, x):
        y = self.up(x)
        if self.how == "gated":
            y = y * self.gate(x).sigmoid()
        elif self.how == "scaled":
            y = y.relu() * self.scale
        elif self.how == "normalised":
            y = self.norm(y)
        elif self.how == "around":
            return self.down(y) + y[..., :D]
        elif self.how == "twice":
            return self.down(y.relu()) + self.beside(y.relu())
        elif self.how == "half":
            y = torch.cat([y[..., :10], x[..., :10]], -1)
        return self.down(y)


def test_a_filter_goes_with_its_gate_and_its_scale():
    (gated,) = found(Ffn("gated")).sites
    assert (gated.units, gated.width, gated.tables) == (20, 1, ())
    assert [m.path for m in gated.producers] == ["block.up", "block.gate"]
    assert all(m.unit_of == tuple(range(20)) for m in gated.producers)
    (scaled,) = found(Ffn("scaled")).sites
    (table,) = scaled.tables
    assert (table.path, table.parameter, table.unit_of) == ("block", "scale", tuple(range(20)))


@pytest.mark.parametrize(
    "how, reason",
    [("normalised", MIXED), ("around", RESIDUAL), ("twice", RESIDUAL), ("half", ELSEWHERE)],
)
def test_what_cannot_leave_is_left_alone_with_its_reason(how, reason):
    seen = found(Ffn(how))
    assert seen.sites == ()
    assert {r.path: r.reason for r in seen.refused}["block.down"] == reason


def test_channels_that_travel_around_to_the_output_are_no_site():
    class Around(Model):
        def forward(self, input_ids):
            x = self.block.up(self.embeddings(input_ids)).relu()
            return self.block.down(x), x

    model = Around(Ffn("plain")).eval()
    seen = probe(model, {"input_ids": torch.arange(6)[None]})
    assert seen.sites == ()
    assert {r.path: r.reason for r in seen.refused}["block.down"] == AROUND


def test_units_that_are_not_equally_wide_are_refused():
    class Uneven(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(D, 12), nn.Linear(12, D)

        def forward(self, x):
            y = self.up(x)
            parts = y.split([5, 7], -1)
            return self.down(torch.cat([p.softmax(-1) for p in parts], -1))

    assert {r.path: r.reason for r in found(Uneven()).refused}["block.down"] == UNEVEN


def test_parameters_are_as_before():
    model = Model(Attention("heads")).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    probe(model, {"input_ids": torch.arange(6)[None]})
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
