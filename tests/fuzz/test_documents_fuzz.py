"""Documents of users with anything in them: a plain message, and never a traceback.

The suite takes a few inputs for each reader; `pytest -m slow tests/fuzz` takes thousands, and
`python benchmarks/fuzz.py` counts them and writes down the memory that they took.
"""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, fed, mutated, seeds

FEW = {"max_examples": 12, "deadline": None, "derandomize": True, "database": None}
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)


@pytest.mark.parametrize("name", TARGETS)
def test_sound_documents_are_read(name):
    assert all(fed(name, seed) for seed in seeds(name) if seed != b"sep=;\na;b\n")


@pytest.mark.parametrize("name", TARGETS)
@settings(**FEW, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), number=st.integers(0, 10**9))
def test_no_document_ends_in_a_traceback(name, data, number):
    fed(name, data)
    chance = random.Random(number)
    fed(name, mutated(chance.choice(seeds(name)), chance))


@settings(**FEW)
@given(data=values)
def test_nested_data_of_any_kind_is_no_recipe_or_one(data):
    from rfx.core.errors import UserError
    from rfx.recipe.read import make_recipe

    for given_ in (data, {"method": data}, {"data": {"columns": data}}, {"budget": data}):
        try:
            make_recipe(given_)
        except UserError as error:
            assert error.next_step


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_of_thousands_of_documents_none_ends_in_a_traceback(name):
    chance = random.Random(1)
    starts = seeds(name)
    for _ in range(500):
        fed(name, mutated(chance.choice(starts), chance))
