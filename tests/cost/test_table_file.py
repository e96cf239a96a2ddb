"""A latency table of a user: every key and every number is looked at before it is used."""

import copy
import json
from pathlib import Path

import pytest

from rfx.core.errors import UsageError
from rfx.core.plan import Plan
from rfx.cost.table_file import parse_table, read_table

KEPT = Path(__file__).parents[1] / "golden" / "schema1"
GOOD = json.loads((KEPT / "table.json").read_text())


def changed(*path, to):
    data = copy.deepcopy(GOOD)
    at = data
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = to
    return data


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (changed("key", "heads", to="four"), "key.heads = 'four', where a whole number"),
        (changed("key", "heads", to=[4]), "key.heads"),
        (changed("key", "heads", to=-4), "key.heads"),
        (changed("key", "heads", to=4.0), "key.heads"),
        (changed("key", "heads", to=10**39), "key.heads"),
        (changed("key", "heads", to=True), "key.heads"),
        (changed("key", "runtime", to=7), "key.runtime = 7, where a text"),
        (changed("key", to=[1]), "its key needs exactly"),
        (changed("costs_ms", to=[1]), "costs_ms"),
        (changed("costs_ms", "mha", to=[[0, 1.0]]), "costs_ms"),
        (changed("costs_ms", "mha", "x", to=1.0), "'x' is no count"),
        (changed("costs_ms", "mha", "-1", to=1.0), "'-1' is no count"),
        (changed("costs_ms", "mha", "²", to=1.0), "is no count"),
        (changed("costs_ms", "mha", "9" * 5000, to=1.0), "is no count"),
        (changed("costs_ms", "mha", "99999", to=1.0), "outside"),
        (changed("costs_ms", "mha", "0", to=float("nan")), "nan is no latency"),
        (changed("costs_ms", "mha", "0", to=float("inf")), "is no latency"),
        (changed("costs_ms", "mha", "0", to=-1), "is no latency"),
        (changed("costs_ms", "mha", "0", to="1"), "is no latency"),
        (changed("costs_ms", "mha", "0", to=None), "nothing is no latency"),
        (changed("costs_ms", "mha", str(GOOD["key"]["heads"]), to=0), "takes no time"),
        (changed("errors_ms", to={"mha": {"0": "x"}}), "errors_ms"),
        (changed("fixed_ms", to=[1]), "fixed_ms"),
        (changed("fixed_ms", to=10**39), "fixed_ms"),
        (changed("layers", to=0), "layers"),
        (changed("layers", to="2"), "layers"),
        (changed("additivity", to=[{"error": "x"}]), "additivity"),
        (changed("additivity", to=7), "additivity"),
        (changed("measured", to=[1]), "measured"),
        (changed("schema_version", to=99), "newer rfx"),
        (changed("schema_version", to=[1]), "schema_version"),
        ([GOOD], "a list"),
        (None, "nothing"),
        ({}, "no schema_version"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_table_with_something_else_in_it_is_refused_by_name(data, says):
    assert parse_table(copy.deepcopy(GOOD), "t.json").layers == GOOD["layers"]
    with pytest.raises(UsageError) as error:
        parse_table(data, "t.json")
    said = error.value.render()
    assert says in said and "t.json" in said and error.value.next_step and len(said) < 900


def test_a_table_is_read_from_a_file_alone(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "cut.json").write_text(json.dumps(GOOD)[:-9])
    for path, says in (
        ("/dev/zero", "a device"),
        (tmp_path, "a folder"),
        (tmp_path / "none.json", "No such file"),
        (tmp_path / "deep.json", "100 deep"),
        (tmp_path / "cut.json", "not valid JSON"),
        (None, "needs a path"),
    ):
        with pytest.raises(UsageError, match=says) as error:
            read_table(path)
        assert error.value.next_step


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kept": [0, 0]}, "kept"),
        ({"kept": [3, 1]}, "kept"),
        ({"kept": [99]}, "numbers below 4"),
        ({"kept": "01"}, "kept"),
        ({"kept": [True]}, "kept"),
        ({"units": "4"}, "units"),
        ({"units": 10**20}, "units"),
        ({"layer": -1}, "layer"),
        ({"kind": "x"}, "'x' is no kind"),
        ({"kind": []}, "no kind"),
        ({"name": None}, "nothing"),
        ({"precision": 8}, "precision"),
    ],
    ids=lambda value: str(value),
)
def test_a_plan_that_is_damaged_is_refused_by_name(change, says):
    site = {"name": "a", "layer": 0, "kind": "mha", "units": 4, "width": 2, "kept": [0, 2]}
    assert Plan.from_json({"sites": [site]}).counts == {"a": 2}
    for data in ({"sites": [{**site, **change}]}, {"sites": [site, {**site, **change}]}):
        with pytest.raises(UsageError) as error:
            Plan.from_json(data)
        assert says in error.value.render() and error.value.next_step
    lacking = {k: v for k, v in site.items() if k not in change}
    for data in ({"sites": [site, site]}, {}, {"sites": 3}, {"sites": [3]}, [], 7):
        with pytest.raises(UsageError, match="plan is not valid"):
            Plan.from_json(data)
    if "precision" not in change:
        with pytest.raises(UsageError, match=f"{next(iter(change))} is missing"):
            Plan.from_json({"sites": [lacking]})
