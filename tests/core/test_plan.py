"""A plan says which units stay. JSON keeps all of it; its hash is of what is decided alone."""

import pytest

from rfx.core.errors import UsageError
from rfx.core.plan import Choice, Kind, Plan
from tests.methods.search.problems import make_sites

SITES = make_sites(layers=2, heads=4, filters=8)
KEPT = {s.name: range(0, s.units, 2) for s in SITES}


def test_a_kind_names_its_units():
    assert (Kind.MHA.unit, Kind.MHA.plural, Kind.MHA.label) == ("head", "heads", "attention")
    assert Kind("ffn") is Kind.FFN and Kind.FFN.plural == "filters" and Kind.FFN == "ffn"
    with pytest.raises(ValueError, match="conv"):
        Kind("conv")


def test_layers_go_by_the_names_of_units_and_need_no_kind():
    plan = Plan.of(SITES, KEPT)
    assert plan.layers == [{"heads": 2, "filters": 4}] * 2
    ffn = [s for s in SITES if s.kind is Kind.FFN]
    assert Plan.of(ffn, KEPT).layers == [{"filters": 4}] * 2


def test_choices_are_ordered_by_count():
    choices = [Choice(8), Choice(2, "int8"), Choice(2), Choice(0)]
    assert [c.count for c in sorted(choices)] == [0, 2, 2, 8]
    assert Choice(3) == Choice(3, "fp32") and len({Choice(3), Choice(3, "fp32")}) == 1


def test_a_precision_is_written_and_hashed_only_where_a_site_has_its_own():
    plain = Plan.of(SITES, KEPT, search="x")
    assert all("precision" not in s for s in plain.to_json()["sites"])
    assert plain.hash == "355f23caeef5a926"  # as of plans before a site could have a precision
    mixed = Plan.of(SITES, KEPT, {SITES[0].name: "int8"}, search="x")
    assert [s.precision for s in mixed.sites] == ["int8", None, None, None]
    assert mixed.hash != plain.hash and mixed.counts == plain.counts
    for plan in (plain, mixed):
        assert Plan.from_json(plan.to_json()) == plan


def test_many_sites_of_one_name_are_refused_at_once():
    """Hostile evidence repeats its sites: comparing each with every other one took a minute."""
    row = {"name": "a", "layer": 0, "kind": "ffn", "units": 2, "width": 1, "kept": [0]}
    rows = [{**row, "name": str(i // 2)} for i in range(40_000)]
    with pytest.raises(UsageError, match="several sites are called"):
        Plan.from_json({"sites": rows})
