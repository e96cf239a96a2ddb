"""Slices: which indices of a parameter belong to which units, written short."""

import pytest

from rfx.core.plan import Kind, Site
from rfx.core.site import ROWS, STAYS, Constant, Slice

# Of three units: one after another; in two parts; head by head of a fused projection; with indices
# that stay; out of order.
ORDERS = [
    ([0, 0, 1, 1, 2, 2], 1),
    ([0, 1, 2, 0, 1, 2], 2),
    ([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2], 1),
    ([STAYS, STAYS, 0, 1, 2, STAYS], 3),
    ([2, 0, 1], 2),
]


@pytest.mark.parametrize("unit_of, runs", ORDERS)
def test_what_is_written_short_says_the_same(unit_of, runs):
    made = Slice.of("a.b", ROWS, 0, unit_of)
    assert made.unit_of == unit_of and len(made.runs) == runs
    assert Slice.from_json(made.to_json()) == made
    for kept in ([], [0], [1, 2], [0, 1, 2]):
        wanted = [i for i, unit in enumerate(unit_of) if unit == STAYS or unit in kept]
        assert made.kept(kept) == wanted and made.size(len(kept)) == len(wanted)


def site(**more):
    return Site("layer.0.mha", 0, Kind.MHA, 3, 2, ("q", "kv"), "o", "a", "layer.0", "n", **more)


def test_a_site_is_read_as_it_was_written_and_as_earlier_versions_wrote_it():
    fused = Slice.of("kv", ROWS, 0, [0, 0, 1, 1, 2, 2] * 2)
    table = Slice.of("t", "weight", 1, [0, 1, 2])
    whole = site(slices=(fused, table), constants=(Constant("a", "heads", 1),), weights=96)
    assert Site.from_json(whole.to_json()) == whole
    assert whole.rows("kv") == fused and whole.tables == (table,)
    assert whole.rows("q").unit_of == [0, 0, 1, 1, 2, 2]  # an equal part for each unit
    earlier = {
        k: v for k, v in site().to_json().items() if k not in ("slices", "constants", "weights")
    }
    assert Site.from_json(earlier) == site()


@pytest.mark.parametrize(
    "damage",
    [
        {"runs": [[0, 3]]},
        {"runs": [[0, 3, 0]]},
        {"runs": [[-2, 3, 1]]},
        {"runs": [[0, 1 << 40, 1]]},
        {"runs": [["0", 3, 1]]},
        {"dim": -1},
        {"dim": True},
    ],
)
def test_a_damaged_slice_is_refused(damage):
    good = Slice.of("a", ROWS, 0, [0, 1, 2]).to_json()
    assert Slice.from_json(good)
    with pytest.raises(ValueError, match="'a'"):
        Slice.from_json({**good, **damage})


@pytest.mark.parametrize("each", ["2", 0, -1, 1.5, True, 1 << 40])
def test_a_damaged_number_of_a_module_is_refused(each):
    with pytest.raises(ValueError, match="'heads' of 'a'"):
        Constant.from_json({"module": "a", "attribute": "heads", "each": each})
