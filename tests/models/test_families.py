"""Families: found through the registry, asked before the probe, and one for each model type."""

import pytest

from rfx.core import registry
from rfx.core.errors import UsageError
from rfx.core.plan import Kind
from rfx.models.families.family import Family
from rfx.models.families.find import families, family_name, find_sites, layout
from tests.families import make


@pytest.fixture
def registered():
    """Registers a family for one test."""

    names = []

    def put(name, finder):
        registry.register("family", name)(finder)
        names.append(name)

    yield put
    for name in names:
        del registry._registered["family", name]


def test_a_family_of_another_package_is_asked_before_the_probe(registered):
    model = make("bert")
    model.config.model_type = "elsewhere"
    assert family_name(model) == "elsewhere" and families() == {}
    whole = find_sites(model)  # the probe reads it too
    assert {s.kind for s in whole} == {Kind.MHA, Kind.FFN}

    def elsewhere():
        class OnlyFilters:
            name, model_types = "of a plug-in", ("elsewhere",)

            def sites(self, model):
                return [s for s in whole if s.kind is Kind.FFN]

        return OnlyFilters()

    registered("elsewhere", elsewhere)
    assert family_name(model) == "of a plug-in"
    assert find_sites(model) == [s for s in whole if s.kind is Kind.FFN]
    # A model need not have both kinds of sites.
    for kind in Kind:
        assert layout([s for s in whole if s.kind is kind]) == "post-ln"


def test_two_families_for_one_model_type_are_both_named(registered):
    for name in ("mine", "bert"):
        one = Family(name, ("bert",), *[""] * 3, ("", "", ""), *[""] * 6)
        registered(name, lambda one=one: one)
    with pytest.raises(UsageError, match="got:     mine, bert"):
        families()
