"""Every kind of document that an earlier rfx wrote is read: real ones, of tests/golden/schema1."""

import json
from pathlib import Path

import pytest
import yaml

from rfx.board import Bundle
from rfx.core import migrate
from rfx.core.errors import UsageError
from rfx.core.plan import Plan, Site
from rfx.cost.table_file import read_table
from rfx.runtimes.tensorrt.file import read_engine_file

KEPT = Path(__file__).parents[1] / "golden" / "schema1"


def kept(name: str) -> dict:
    return json.loads((KEPT / name).read_text(encoding="utf-8"))


def test_a_table():
    table, old = read_table(KEPT / "table.json"), kept("table.json")
    assert table.key.runtime == "ort" and table.key.sequence == 16 and table.layers == 3
    assert table.costs_ms["mha"] == {int(n): ms for n, ms in old["costs_ms"]["mha"].items()}
    assert len(table.additivity) == 3


def test_a_plan_keeps_its_hash():
    old = kept("plan.json")
    plan = Plan.from_json(migrate.plan(old))
    assert plan.hash == old["hash"] == "b222841dbfa8af0b"
    assert [list(s.kept) for s in plan.sites] == [s["kept"] for s in old["sites"]]
    assert plan.provenance == old["provenance"]


def test_the_sites_of_a_checkpoint():
    entry = migrate.checkpoint(kept("config.json")["rfx"])
    sites = [Site.from_json({k: v for k, v in s.items() if k != "count"}) for s in entry["sites"]]
    assert [s.name for s in sites[:2]] == ["layer.0.mha", "layer.0.ffn"]
    assert [s.units for s in sites] == [4, 128] * 3


def test_shapes_for_a_board_are_to_be_made_again():
    """Their graphs were of blocks that rfx made: a table of them says nothing of this version's
    models."""
    with pytest.raises(UsageError, match="measured other graphs") as refused:
        Bundle(KEPT / "shapes.json")
    assert "shapes.json: schema_version 1" in refused.value.got
    assert "rfx shapes MODEL" in refused.value.next_step


def test_engine_facts(tmp_path):
    """The file of the old version, and an engine of the length and checksum that they speak of."""
    import hashlib

    facts, engine = kept("engine.json"), b"as many bytes as these"
    assert migrate.engine_facts(facts) == {
        **{k: v for k, v in facts.items() if not k.startswith("plan_")},
        "schema_version": 2,
        "engine_sha256": facts["plan_sha256"],
        "engine_bytes": 3005644,
    }
    facts |= {"plan_bytes": len(engine), "plan_sha256": hashlib.sha256(engine).hexdigest()}
    (tmp_path / "m.plan").write_bytes(engine)
    (tmp_path / "m.plan.json").write_text(json.dumps(facts))
    assert read_engine_file(tmp_path / "m.plan")[0] == engine
    (tmp_path / "m.plan").write_bytes(engine[:-1])
    with pytest.raises(Exception, match="truncated"):
        read_engine_file(tmp_path / "m.plan")


def test_a_recipe_has_a_workload_and_limits():
    old = yaml.safe_load((KEPT / "recipe.yaml").read_text(encoding="utf-8"))
    new = migrate.recipe(old)
    assert new["schema_version"] == 2
    assert new["workload"] == {"batch": 2, "sequence": 32, "threads": 2, "precision": "fp32"}
    assert new["limits"] == {"max_drop": 1.5, "min_speedup": 1.2}
    moved = {"schema_version", "conditions", "workload", "limits", "max_drop", "min_speedup"}
    assert {k: v for k, v in new.items() if k not in moved} == {
        k: v for k, v in old.items() if k not in moved
    }
    assert new.keys().isdisjoint({"conditions", "max_drop", "min_speedup"})


def test_a_recipe_without_a_version_may_have_either_form():
    old = {"conditions": {"batch": 2}, "max_drop": 1.0, "limits": {"min_speedup": 2.0}}
    new = {"workload": {"batch": 2}, "limits": {"max_drop": 1.0, "min_speedup": 2.0}}
    assert migrate.recipe(old) == new == migrate.recipe(new)
    mixed = {"conditions": {}, "workload": {}}
    assert migrate.recipe(mixed) == mixed  # its reader names the key that there is not


@pytest.mark.parametrize("name", ["recipe", "evidence", "curve", "table", "plan"])
def test_what_it_is_given_is_not_changed_and_the_new_form_stays(name):
    file = {"curve": "sweep.json", "recipe": "recipe.yaml"}.get(name, f"{name}.json")
    text = (KEPT / file).read_text(encoding="utf-8")
    old = yaml.safe_load(text) if name == "recipe" else json.loads(text)
    before = json.dumps(old)
    new = getattr(migrate, name)(old)
    assert json.dumps(old) == before
    assert getattr(migrate, name)(new) == new


FUNCTIONS = {
    "recipe": migrate.RECIPE,
    "evidence": migrate.EVIDENCE,
    "curve": migrate.CURVE,
    "table": migrate.TABLE,
    "plan": migrate.PLAN,
    "shapes": migrate.SHAPES,
    "engine_facts": migrate.ENGINE_FACTS,
    "checkpoint": migrate.CHECKPOINT,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_newer_version_is_said_to_be_one(name):
    with pytest.raises(UsageError, match="written by a newer rfx"):
        getattr(migrate, name)({"schema_version": FUNCTIONS[name] + 1})
    for version in ("1", True, 0, 1.5):
        with pytest.raises(UsageError, match="no rfx writes"):
            getattr(migrate, name)({"schema_version": version})


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n != "shapes"])
@pytest.mark.parametrize("part", [3, "text", [], None])
def test_parts_of_the_wrong_kind_are_left_to_the_reader(name, part):
    keys = ("recipe", "latency", "conditions", "limits", "points", "plan", "sites", "inputs")
    getattr(migrate, name)({"schema_version": 1, **dict.fromkeys(keys, part)})
