"""Evidence and sweeps of an earlier version are read: real ones, of tests/golden/schema1."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rfx.cli.app import app
from rfx.core.errors import UsageError
from rfx.evidence.check import check
from rfx.evidence.read import read_curve, read_evidence

KEPT = Path(__file__).parents[1] / "golden" / "schema1"


def test_evidence_of_schema_1():
    old, new = json.loads((KEPT / "evidence.json").read_text()), read_evidence(KEPT)
    conditions = old["latency"]["conditions"]
    assert new.schema_version == 2 and new.plan == old["plan"]
    assert new.latency.workload == {
        **{k: v for k, v in conditions.items() if k != "sequence"},
        "axes": {"sequence": 16},
        "phase": "encode",
    }
    assert new.recipe["limits"] == {"max_drop": 20.0, "min_speedup": None}
    assert new.recipe["workload"]["sequence"] == 16 and "conditions" not in new.recipe
    assert [g.model_dump(mode="json") for g in new.gates] == old["gates"]
    # It does not say how often two models would answer alike by chance: there is no default limit.
    agreement = {"agreement": "inconclusive"}
    four = dict.fromkeys(("shrunk", "same", "accuracy", "latency"), "pass")
    six = four | dict.fromkeys(("baseline-accuracy", "baseline-latency"), "pass")
    assert _outcomes(check(new, min_speedup=1.2)) == four | agreement
    assert _outcomes(check(new, baseline=new)) == six | agreement
    assert _outcomes(check(new, min_agreement=0.99)) == four | {"agreement": "pass"}
    assert _outcomes(check(new, min_agreement=1.0)) == four | {"agreement": "inconclusive"}


def _outcomes(gates):
    return {g.name: g.outcome for g in gates}


def test_accuracy_that_passed_without_a_limit_was_not_judged(tmp_path):
    data = json.loads((KEPT / "evidence.json").read_text())
    (gate,) = (g for g in data["gates"] if g["name"] == "accuracy")
    gate["limit"] = data["accuracy"]["max_drop"] = None
    (tmp_path / "evidence.json").write_text(json.dumps(data))
    read = read_evidence(tmp_path)
    assert {g.name: g.outcome for g in read.gates}["accuracy"] == "not-judged"
    assert read.outcome == "pass"


def test_the_command_line_judges_it():
    def gate(*more):
        return CliRunner().invoke(app, ["gate", str(KEPT / "evidence.json"), "--json", *more])

    found = gate()
    assert found.exit_code == 7 and json.loads(found.stdout)["outcome"] == "inconclusive"
    found = gate("--min-agreement", "0.9")
    assert found.exit_code == 0 and json.loads(found.stdout)["outcome"] == "pass"
    assert gate("--min-speedup", "2.0").exit_code == 1


def test_a_sweep_of_schema_1():
    old, new = json.loads((KEPT / "sweep.json").read_text()), read_curve(KEPT)
    assert [p.target for p in new.points] == [p["target"] for p in old["points"]]
    assert [r.cost for r in new.rows] == [p["latency"]["ratio"] for p in old["points"]]
    assert new.points[0].latency.workload["axes"] == {"sequence": 16}
    assert "limits" in new.recipe


@pytest.mark.parametrize(("read", "name"), [(read_evidence, "evidence"), (read_curve, "sweep")])
def test_a_newer_one_is_said_to_be_newer(read, name, tmp_path):
    data = json.loads((KEPT / f"{name}.json").read_text())
    (tmp_path / f"{name}.json").write_text(json.dumps(data | {"schema_version": 3}))
    with pytest.raises(UsageError, match=rf"written by a newer rfx(.|\n)*{name}\.json"):
        read(tmp_path)


def test_half_a_character_is_refused(tmp_path):
    """JSON can name it, and no document can be written with it again."""
    text = (KEPT / "evidence.json").read_text(encoding="utf-8")
    (tmp_path / "evidence.json").write_text(
        text.replace('"rfx', '"\\ud800rfx', 1), encoding="utf-8"
    )
    with pytest.raises(UsageError, match="not valid JSON") as refused:
        read_evidence(tmp_path)
    assert "half a character" in refused.value.got and refused.value.next_step
